"""The supervisor: every rung of the ladder, alone and against the others, with time that the test makes up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import RobotError
from hardware.supervisor import (
    Fault,
    FaultKind,
    Level,
    Servo,
    Supervision,
    Thresholds,
    latch,
    park,
    parked,
    press_stop,
    reset,
    supervise,
)

T = Thresholds(grips=frozenset({6}), max_temperature={3: 60.0})
ARM = tuple(Servo(id_, f"joint{id_}") for id_ in range(1, 7))
DT = 0.1


def changed(id_: int, **values: object) -> tuple[Servo, ...]:
    return tuple(replace(s, **values) if s.id == id_ else s for s in ARM)  # type: ignore[arg-type]


def run(
    state: Supervision, servos: tuple[Servo, ...] = ARM, *, start: float = 0.0, seconds: float = DT,
    torque: bool = True, idle: float = 0.0, t: Thresholds = T,
) -> Supervision:  # fmt: skip
    """Cycles of 0.1 s from ``start`` on."""
    for k in range(max(1, round(seconds / DT))):
        state = supervise(state, servos, start + k * DT, t, torque=torque, idle_s=idle)
    return state


def test_a_healthy_arm_runs() -> None:
    state = run(Supervision(), seconds=100.0)
    assert (state.level, state.fault, state.limp, state.waiting) == (Level.RUN, None, frozenset(), False)


def test_levels_are_ordered_by_severity() -> None:
    assert Level.RUN < Level.SLOW < Level.HOLD < Level.PARK < Level.LIMP


# ---- what is heard, and what is not


def test_missing_replies_hold_at_three_and_latch_when_they_last() -> None:
    state = run(Supervision(), changed(2, misses=2, age_s=9.0))
    assert state.level is Level.RUN and not state.waiting
    state = run(state, changed(2, misses=3, age_s=0.099))
    assert state.level is Level.HOLD and state.waiting and state.fault is None
    assert run(state).level is Level.RUN  # it was heard again
    state = run(state, changed(2, misses=3, age_s=0.1))
    assert state.fault == Fault(
        FaultKind.SILENT, (2,), "joint2: no answer for 0.1 s; the arm holds. Check cable and power, then reset"
    )
    assert run(state).level is Level.HOLD and state.still


def test_all_silent_servos_are_named() -> None:
    servos = tuple(replace(s, misses=5, age_s=1.0) if s.id in (2, 5) else s for s in ARM)
    fault = run(Supervision(), servos).fault
    assert fault is not None and fault.ids == (2, 5) and fault.text.startswith("joint2, joint5: no answer")


def test_an_encoder_jump_counts_from_the_second_on() -> None:
    assert run(Supervision(), changed(1, jumps=1, jump=900)).fault is None
    fault = run(Supervision(), changed(1, jumps=2, jump=-900)).fault
    assert fault is not None and (fault.kind, fault.ids, fault.level) == (FaultKind.JUMP, (1,), Level.HOLD)
    assert "joint1: its position jumped by -900 counts" in fault.text
    limp = run(Supervision(), changed(1, jumps=2), t=replace(T, jump_level=Level.LIMP))
    assert limp.level is Level.LIMP and limp.fault is not None and limp.fault.kind is FaultKind.JUMP


# ---- status bits


@pytest.mark.parametrize("bit", ["overload", "overheat", "overcurrent", "electrical"])
def test_trouble_of_a_motor_makes_that_joint_limp_and_the_others_hold(bit: str) -> None:
    state = run(Supervision(), changed(3, faults=(bit,), load=0.5, temperature=41.6, voltage=7.26))
    assert state.level is Level.HOLD and state.limp == {3} and state.still
    assert state.fault == Fault(
        FaultKind.SERVO, (3,), f"joint3 reports {bit} (load 50%, 42 °C, 7.3 V); the arm holds and this joint is limp. "
        "Remove the cause, then reset",
    )  # fmt: skip
    state = run(state, changed(4, faults=(bit,)))
    assert state.limp == {3, 4} and state.fault is not None and state.fault.ids == (3,)  # the first cause stays
    assert run(state).limp == {3, 4}


def test_trouble_of_an_encoder_holds_without_making_limp() -> None:
    state = run(Supervision(), changed(2, faults=("encoder",)))
    assert state.level is Level.HOLD and state.limp == frozenset()
    assert state.fault is not None and "the arm holds. Remove" in state.fault.text


def test_several_bits_are_all_named() -> None:
    fault = run(Supervision(), changed(2, faults=("overload", "encoder"))).fault
    assert fault is not None and "reports encoder and overload" in fault.text


def test_a_gripper_may_be_overloaded_but_not_overheated() -> None:
    assert run(Supervision(), changed(6, faults=("overload",)), seconds=10.0).level is Level.RUN
    assert run(Supervision(), changed(6, faults=("overload", "overheat"))).limp == {6}


def test_a_dip_of_the_supply_is_forgiven_a_loss_is_not() -> None:
    low = changed(2, faults=("voltage",))
    state = run(Supervision(), low, seconds=0.2)
    assert state.level is Level.RUN
    state = run(state, start=0.2)
    state = run(state, low, start=0.3, seconds=0.2)
    assert state.fault is None  # two short dips are not a long one
    state = run(state, low, start=0.5)
    assert state.fault is not None and "voltage" in state.fault.text and state.limp == frozenset()
    assert supervise(Supervision(), low, 7.0, T, torque=False).fault is None


# ---- heat


@pytest.mark.parametrize(("id_", "top"), [(1, 70.0), (3, 60.0)])
def test_the_ladder_of_heat(id_: int, top: float) -> None:
    for below, level in (
        (10.1, Level.RUN),
        (10.0, Level.SLOW),
        (5.1, Level.SLOW),
        (5.0, Level.PARK),
        (-3.0, Level.PARK),
    ):
        assert run(Supervision(), changed(id_, temperature=top - below)).level is level, below
    warm = run(Supervision(), changed(id_, temperature=top - 8))
    assert warm.fault is None and run(warm).level is Level.RUN  # SLOW is not latched
    hot = run(warm, changed(id_, temperature=top - 4.6))
    assert hot.fault == Fault(
        FaultKind.HOT, (id_,), f"joint{id_} is at {top - 4.6:.0f} °C; the arm goes to its rest pose. Let it cool, then reset",
        Level.PARK,
    )  # fmt: skip
    assert run(hot).level is Level.PARK  # PARK is


def test_a_limp_arm_may_be_hot() -> None:
    assert run(Supervision(), changed(1, temperature=69.0), torque=False).fault is None


def test_the_bit_counts_more_than_the_temperature() -> None:
    state = run(Supervision(), changed(1, temperature=71.0, faults=("overheat",)))
    assert state.fault is not None and state.fault.kind is FaultKind.SERVO
    assert state.level is Level.HOLD and state.limp == {1}


@pytest.mark.parametrize("values", [{"temperature": 66.0}, {"temperature": 66.0, "faults": ("overheat",)}])
def test_no_reset_before_it_has_cooled(values: dict[str, object]) -> None:
    state = run(Supervision(), changed(1, **values))
    with pytest.raises(RobotError, match=r"joint1 is at 66 °C; let it cool to 60 °C with the torque off"):
        reset(state, T)
    state = run(state, changed(1, temperature=60.1))
    with pytest.raises(RobotError, match="let it cool to 60 °C"):
        reset(state, T)
    state = run(state, changed(1, temperature=60.0))
    assert reset(state, T).level is Level.RUN and reset(state, T).fault is None


def test_warmth_does_not_keep_other_faults_from_being_reset() -> None:
    state = run(Supervision(), changed(1, temperature=64.0, misses=4, age_s=1.0))
    assert reset(state, T) == Supervision(servos=state.servos)


# ---- torque and force


def test_torque_that_went_off_is_told_only_when_it_should_be_on() -> None:
    off = tuple(replace(s, torque=False) if s.id in (1, 2) else replace(s, torque=True) for s in ARM)
    assert run(Supervision(), off, torque=False).fault is None
    fault = run(Supervision(), off).fault
    assert fault is not None and (fault.kind, fault.ids) == (FaultKind.TORQUE_LOST, (1, 2))
    assert fault.text.startswith("joint1, joint2: torque is off although nobody")


PUSH = {"error_rad": -0.1, "load": -0.8, "current": 0.2}


def test_pushing_without_getting_there_is_a_stall_when_it_lasts() -> None:
    assert run(Supervision(), changed(2, **PUSH), seconds=1.0).fault is None
    fault = run(Supervision(), changed(2, **PUSH), seconds=1.1).fault
    assert fault == Fault(
        FaultKind.STALLED, (2,), "joint2 pushes with a load of -80% (0.2 A) and stays 0.10 rad from its goal; the arm holds. "
        "Remove what is in its way, then reset",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "id_", "torque", "stalls"),
    [
        (PUSH, 2, True, True), ({**PUSH, "load": 0.79}, 2, True, False), ({**PUSH, "error_rad": 0.099}, 2, True, False),
        ({**PUSH, "load": 0.0, "current": -1.0}, 2, True, True), ({**PUSH, "load": 0.0, "current": 0.99}, 2, True, False),
        (PUSH, 6, True, False), (PUSH, 2, False, False),
    ],
)  # fmt: skip
def test_what_is_a_stall(values: dict[str, object], id_: int, torque: bool, stalls: bool) -> None:
    state = run(Supervision(), changed(id_, **values), seconds=3.0, torque=torque)
    assert (state.fault is not None) is stalls


def test_a_push_that_ends_begins_anew() -> None:
    state = run(Supervision(), changed(2, **PUSH), seconds=0.9)
    state = run(state, start=0.9)
    assert run(state, changed(2, **PUSH), start=1.0, seconds=0.9).fault is None


# ---- stop, hold, park, limp


def test_the_first_press_holds_the_second_makes_limp() -> None:
    state = press_stop(Supervision(), 5.0)
    assert state.level is Level.HOLD and state.fault is not None and state.fault.kind is FaultKind.STOPPED
    assert "Press again" in state.fault.text and not state.still
    assert run(state, start=5.0).level is Level.HOLD
    state = press_stop(state, 6.0)
    assert state.fault is not None and "twice" in state.fault.text
    state = run(state, start=6.0)
    assert state.level is Level.LIMP
    assert run(state, start=6.1, seconds=100).level is Level.LIMP
    assert press_stop(reset(state, T), 8.0).presses == 1


def test_a_press_during_another_fault_is_the_first_one() -> None:
    state = press_stop(run(Supervision(), changed(2, misses=4, age_s=1.0)), 1.0)
    assert state.level is Level.HOLD and state.fault is not None and state.fault.kind is FaultKind.SILENT
    assert run(press_stop(state, 1.1), start=1.1).level is Level.LIMP


def test_a_hold_ends_after_a_minute_at_rest() -> None:
    state = press_stop(Supervision(), 0.0)
    state = run(state, seconds=60.0)
    assert state.level is Level.HOLD
    assert run(state, start=60.0).level is Level.PARK


@pytest.mark.parametrize("top", [{"temperature": 65.0}, {"temperature": 64.9}])
def test_a_hold_that_is_hot_ends_limp(top: dict[str, object]) -> None:
    state = run(press_stop(Supervision(), 0.0), changed(1, **top), torque=False, seconds=60.0)
    expected = Level.LIMP if top["temperature"] == 65.0 else Level.PARK
    assert state.level is Level.HOLD and run(state, changed(1, **top), start=60.0, torque=False).level is expected
    assert (run(state, start=61.0).level is Level.LIMP) is False


def test_a_hold_where_moving_is_not_safe_ends_limp_and_stays_so() -> None:
    state = run(Supervision(), changed(2, misses=4, age_s=1.0), seconds=60.0)
    assert state.level is Level.HOLD
    state = run(state, start=60.0)
    assert state.level is Level.LIMP and run(state, start=61.0).level is Level.LIMP


def test_what_makes_moving_unsafe_ends_a_way_to_the_rest_pose_and_holds_a_minute() -> None:
    state = run(press_stop(Supervision(), 0.0), seconds=60.5)
    assert state.level is Level.PARK
    state = run(state, changed(2, misses=4, age_s=1.0), start=61.0)
    assert state.level is Level.HOLD and state.held_since == 61.0
    assert run(state, start=61.1, seconds=59.0).level is Level.HOLD
    assert run(state, start=121.0).level is Level.LIMP


def test_heat_does_not_send_an_arm_on_its_way_that_must_not_move() -> None:
    state = run(Supervision(), changed(2, misses=4, age_s=1.0))
    state = run(state, changed(1, temperature=68.0), start=0.1)
    assert state.level is Level.HOLD and state.fault is not None and state.fault.kind is FaultKind.SILENT and state.hot


def test_heat_while_held_sends_it_to_rest() -> None:
    state = run(run(press_stop(Supervision(), 0.0)), changed(1, temperature=66.0), start=1.0)
    assert state.level is Level.PARK and state.fault is not None and state.fault.kind is FaultKind.HOT


def test_the_most_severe_wins_in_any_order() -> None:
    limp = Fault(FaultKind.STOPPED, (), "limp", Level.LIMP)
    hold = Fault(FaultKind.COMMAND, (), "hold")
    for first, second in ((limp, hold), (hold, limp)):
        state = latch(latch(Supervision(), first, 0.0), second, 1.0)
        assert state.fault is limp and run(state, start=1.0).level is Level.LIMP
    same = latch(latch(Supervision(), hold, 0.0), replace(hold, text="later"), 1.0)
    assert same.fault is hold and same.held_since == 0.0


def test_an_arm_left_alone_goes_to_rest_and_is_free_again() -> None:
    assert run(Supervision(), idle=59.9).level is Level.RUN
    state = run(Supervision(), idle=60.0)
    assert state.level is Level.PARK and state.fault is None and state.parked_since == 0.0
    assert run(state, idle=0.0).level is Level.RUN  # a command came
    assert run(state, torque=False, idle=99.0).level is Level.RUN  # it lies there


def test_a_caller_that_counts_no_idle_time_is_never_idle() -> None:
    assert supervise(Supervision(), ARM, 0.0, replace(T, idle_s=0.01), torque=True).level is Level.RUN


def test_parking_that_was_asked_for() -> None:
    state = run(park(Supervision()))
    assert state.level is Level.PARK and state.fault is None
    assert run(state, changed(2, misses=3)).level is Level.HOLD  # not while blind
    done = parked(state)
    assert done.level is Level.RUN and not done.parking and run(done).level is Level.RUN
    held = parked(press_stop(state, 0.0))
    assert held.level is Level.HOLD or held.level is Level.PARK
    assert held.fault is not None


def test_a_rest_pose_that_is_never_reached_ends_in_a_hold() -> None:
    state = run(park(Supervision()), start=10.0, seconds=30.0)
    assert state.level is Level.PARK and state.parked_since == 10.0
    state = run(state, start=40.0)
    assert state.level is Level.HOLD and state.still and not state.parking
    assert state.fault is not None and "rest pose is not reached" in state.fault.text
    assert run(state, start=40.1).level is Level.HOLD


def test_the_time_on_the_way_counts_from_its_beginning_only() -> None:
    state = run(park(Supervision()), seconds=29.0)
    state = run(parked(state), start=29.0)
    assert state.parked_since is None
    assert run(park(state), start=29.1, seconds=29.0).level is Level.PARK


# ---- data


@pytest.mark.parametrize(
    "change",
    [
        {"silence_s": 0.0}, {"dip_s": -1.0}, {"stall_s": 0.0}, {"hold_s": 0.0}, {"idle_s": 0.0}, {"park_s": 0.0},
        {"stall_rad": 0.0}, {"stall_load": 0.0}, {"stall_a": 0.0}, {"misses": 0}, {"jumps": 0}, {"hot_k": -1.0},
        {"hot_k": 11.0}, {"jump_level": Level.SLOW}, {"jump_level": Level.PARK}, {"hold_s": float("nan")},
    ],
)  # fmt: skip
def test_thresholds_that_are_none_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RobotError, match="Thresholds|jump_level"):
        replace(T, **change)  # type: ignore[arg-type]


def test_a_servo_of_which_nothing_is_known_is_healthy() -> None:
    servo = Servo(4, "wrist")
    assert (servo.age_s, servo.misses, servo.faults, servo.temperature, servo.torque) == (0.0, 0, (), 25.0, None)
    assert servo.voltage == servo.load == servo.current == servo.error_rad == servo.jumps == servo.jump == 0
    state = Supervision()
    assert not (state.waiting or state.still or state.hot or state.presses or state.parking)
    assert (state.held_since, state.parked_since, state.low_since, state.stalled_since) == (math.inf, None, {}, {})
    assert Fault(FaultKind.LOOP, (), "").level is Level.HOLD


def test_the_thresholds_are_these() -> None:
    t = Thresholds()
    assert (t.misses, t.silence_s, t.jumps, t.jump_level, t.dip_s) == (3, 0.1, 2, Level.HOLD, 0.2)
    assert (t.warm_k, t.hot_k, t.stall_rad, t.stall_load, t.stall_a, t.stall_s) == (10.0, 5.0, 0.1, 0.8, 1.0, 1.0)
    assert (t.hold_s, t.idle_s, t.park_s, t.grips, t.below_max(ARM[0])) == (60.0, 60.0, 30.0, frozenset(), 45.0)
    assert replace(t, misses=1, jumps=1, hot_k=0.0, warm_k=0.0).misses == 1


SERVO = st.builds(
    Servo, id=st.integers(1, 3), name=st.just("joint"), age_s=st.floats(0, 2), misses=st.integers(0, 5),
    faults=st.lists(st.sampled_from(["overload", "overheat", "voltage", "encoder"]), max_size=2).map(tuple),
    temperature=st.floats(20, 90), load=st.floats(-1, 1), error_rad=st.floats(-1, 1), jumps=st.integers(0, 3),
    torque=st.sampled_from([None, True, False]),
)  # fmt: skip


@given(st.lists(st.tuples(st.lists(SERVO, max_size=3), st.floats(0, 40), st.booleans()), max_size=12))
def test_whatever_servos_report_a_latched_stop_only_gets_more_severe(
    cycles: list[tuple[list[Servo], float, bool]],
) -> None:
    state, now = Supervision(), 0.0
    for servos, seconds, torque in cycles:
        now += seconds
        before = state
        state = supervise(state, servos, now, T, torque=torque)
        assert before.limp <= state.limp
        assert not before.still or state.still
        if before.fault is not None:
            assert state.fault is not None and state.fault.level >= before.fault.level
            assert state.level >= Level.HOLD
            if before.level is Level.LIMP:
                assert state.level is Level.LIMP
        if state.still:
            assert state.level is not Level.PARK
