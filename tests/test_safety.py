"""The safety core stage by stage, then its data. What it promises as a whole: ``test_promises.py``."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardware import kinematics, safety, supervisor
from hardware.arm_spec import SO101
from hardware.arms import ARMS
from hardware.errors import RobotError
from hardware.safety import Applied, Limits, Reason, SafetyState, collision, core, limits, reset, shorten, step

DEFAULT = Limits.profile(SO101)
SIM = Limits.profile(SO101, "sim")
DT = 0.05
HOME = SO101.home
READY = np.array([0.0, -0.4, 0.3, 1.4, 0.2, 0.6])  # in the middle of the workspace, well above the table
ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
ANY_VECTOR = arrays(np.float64, 6, elements=ANY_NUMBER)


def started(q: np.ndarray = READY, limits: Limits = SIM) -> SafetyState:
    return SafetyState.start(q, limits)


def nudge(joint: int, by: float, q: np.ndarray = READY) -> np.ndarray:
    moved = np.array(q)
    moved[joint] += by
    return moved


def tip_m(a: np.ndarray, b: np.ndarray) -> float:
    return math.dist(kinematics.tool_position(SO101, a), kinematics.tool_position(SO101, b))


class TestNormalUse:
    def test_a_small_step_passes_unchanged(self) -> None:
        wanted = READY + 0.01
        applied, state = step(started(), READY, wanted, SIM, DT)
        assert (applied.verdict, applied.reasons) == ("pass", ())
        assert applied.q.tobytes() == wanted.tobytes()
        assert state.sent is applied.q and state.fault is None

    def test_it_is_a_pure_function(self) -> None:
        state, present, wanted = started(), READY.copy(), READY + 0.3
        first, _ = step(state, present, wanted, SIM, DT)
        second, _ = step(state, present, wanted, SIM, DT)
        assert first.q.tobytes() == second.q.tobytes() and first.reasons == second.reasons
        assert np.array_equal(wanted, READY + 0.3) and np.array_equal(state.sent, READY)

    def test_what_was_sent_cannot_be_altered_later(self) -> None:
        applied, _ = step(started(), READY, READY + 0.01, SIM, DT)
        with pytest.raises(ValueError, match="read-only"):
            applied.q[0] = 9.0

    @pytest.mark.parametrize("limits", [DEFAULT, SIM])
    def test_a_target_within_the_band_is_reached(self, limits: Limits) -> None:
        state, wanted = started(limits=limits), READY + np.array([0.2, 0.1, -0.1, 0.2, 0.25, 0.3])
        for _ in range(100):
            _, state = step(state, state.sent, wanted, limits, DT)
        assert state.sent == pytest.approx(wanted, abs=1e-12)

    @pytest.mark.parametrize("module", [safety, core, limits, shorten, collision, supervisor], ids=lambda m: m.__name__)
    def test_it_reads_no_clock_does_no_io_and_is_short(self, module: ModuleType) -> None:
        source = inspect.getsource(module)
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        language = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
        assert imported <= language | {"numpy", "hardware"}
        assert len(source.splitlines()) <= 300

    @pytest.mark.parametrize("module", [safety, supervisor, collision], ids=lambda m: m.__name__)
    def test_it_says_what_it_does_not_protect_against(self, module: ModuleType) -> None:
        assert "What this does not protect against" in (module.__doc__ or "")

    def test_it_says_that_it_is_no_safety_function(self) -> None:
        for module in (safety, supervisor):
            words = " ".join((module.__doc__ or "").split())
            assert "no certified safety function" in words and "power supply" in words


class TestInput:
    @given(ANY_VECTOR, ANY_VECTOR, ANY_NUMBER, ANY_NUMBER)
    def test_any_numbers_at_all(self, wanted: np.ndarray, present: np.ndarray, dt: float, age: float) -> None:
        applied, state = step(started(), present, wanted, SIM, dt, age)
        assert np.isfinite(applied.q).all()
        assert (applied.q >= SO101.lower).all() and (applied.q <= SO101.upper).all()
        assert np.array_equal(state.sent, applied.q)

    @pytest.mark.parametrize("wanted", [None, "home", [1, 2], np.zeros(5), np.zeros((1, 6)), [[1], [2, 3]], 3.0, {}])
    def test_what_is_no_joint_vector_is_refused(self, wanted: object) -> None:
        applied, state = step(started(), READY, wanted, SIM, DT)  # type: ignore[arg-type]
        assert (applied.verdict, applied.reasons) == ("reject", (Reason.SHAPE,))
        assert np.array_equal(applied.q, READY) and state.fault is None

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("joint", range(6))
    def test_non_finite_is_refused_in_every_joint_and_latches_at_the_third(self, joint: int, bad: float) -> None:
        wanted = READY.copy()
        wanted[joint] = bad
        state = started()
        for expected in [(Reason.NOT_FINITE,), (Reason.NOT_FINITE,), (Reason.LATCHED, Reason.NOT_FINITE)]:
            applied, state = step(state, READY, wanted, SIM, DT)
            assert (applied.verdict, applied.reasons) == ("reject", expected)
            assert np.array_equal(applied.q, READY)
        assert state.fault is Reason.NOT_FINITE

    def test_a_good_command_in_between_starts_the_count_again(self) -> None:
        state, bad = started(), np.full(6, np.nan)
        for wanted in (bad, bad, READY, bad, bad):
            _, state = step(state, READY, wanted, SIM, DT)
        assert state.fault is None and state.bad_inputs == 2

    def test_a_refused_but_finite_command_in_between_does_so_too(self) -> None:
        state, bad = started(), np.full(6, np.nan)
        for wanted in (bad, bad, nudge(0, 2.0), bad):
            _, state = step(state, READY, wanted, SIM, DT)
        assert state.fault is None and state.bad_inputs == 1

    def test_an_invalid_reading_is_refused_and_latches(self) -> None:
        state = started()
        for present in (np.full(6, np.nan), np.zeros(5), None):
            applied, state = step(state, present, READY, SIM, DT)  # type: ignore[arg-type]
            assert applied.verdict == "reject"
        assert applied.reasons == (Reason.LATCHED, Reason.PRESENT_INVALID)

    @pytest.mark.parametrize("dt", [0.0, -0.05, math.nan, math.inf])
    def test_a_time_step_that_is_none_is_refused(self, dt: float) -> None:
        applied, _ = step(started(), READY, READY, SIM, dt)
        assert applied.reasons == (Reason.BAD_TIME,)

    def test_position_limits_clamp(self) -> None:
        edge = nudge(0, SO101.upper[0] - 0.01)
        applied, state = step(started(edge), edge, nudge(0, 0.05, edge), SIM, DT)
        assert applied.reasons == (Reason.POSITION,) and applied.verdict == "clamp"
        assert applied.q[0] == SO101.upper[0] == state.accepted[0]

    def test_the_gripper_stays_between_closed_and_open(self) -> None:
        for target, end in ((-0.3, 0.0), (1.3, 1.0)):
            state = started()
            for _ in range(20):
                wanted = READY.copy()
                wanted[5] = target
                applied, state = step(state, state.sent, wanted, SIM, DT)
            assert applied.q[5] == end

    def test_the_last_check_refuses_whatever_the_stages_did(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shorten, "tip_slowed", lambda sent, target, limits, dt: target * np.nan)
        applied, state = step(started(), READY, READY + 0.01, SIM, DT)
        assert (applied.verdict, applied.reasons) == ("reject", (Reason.TIP_SPEED, Reason.FINAL)[1:])
        assert np.array_equal(applied.q, READY) and np.array_equal(state.sent, READY)

    @pytest.mark.parametrize(
        "target",
        [
            nudge(2, math.nan), nudge(0, 3.0), nudge(0, -3.0), nudge(4, 0.2), nudge(5, 0.3),
            np.array([0.0, 0.9, 0.0, 1.2, 0.2, 0.6]),
        ],
        ids=["nan", "above", "below", "fast", "fast gripper", "far"],
    )  # fmt: skip
    def test_the_last_check_knows_each_limit(self, target: np.ndarray) -> None:
        assert shorten.is_safe(READY, READY + 0.01, SIM, DT)
        assert not shorten.is_safe(READY, target, SIM, DT)

    @pytest.mark.parametrize(
        ("joint", "edges"), [(0, SO101.lower), (0, SO101.upper), (4, SO101.lower), (4, SO101.upper)]
    )
    def test_the_last_check_refuses_one_joint_outside(self, joint: int, edges: np.ndarray) -> None:
        patient = replace(SIM, tip_speed_m_s=9.0)  # with 9 s, nothing but the joint limits is in the way
        for by, safe in ((0.99, True), (1.0, True), (1.01, False)):
            assert shorten.is_safe(READY, nudge(joint, by * edges[joint] - READY[joint]), patient, 9.0) is safe

    def test_the_last_check_knows_tip_speed_and_table(self) -> None:
        stretched, down = np.array([0.0, 0.9, -1.0, 0.3, 0.0, 0.5]), nudge(1, 0.09)
        slow = replace(SIM, tip_speed_m_s=0.3)
        assert shorten.is_safe(stretched, nudge(0, 0.09, stretched), SIM, DT)
        assert not shorten.is_safe(stretched, nudge(0, 0.09, stretched), slow, DT)
        height = kinematics.tool_position(SO101, READY)[2]
        assert shorten.is_safe(READY, down, SIM, DT)
        assert not shorten.is_safe(READY, down, replace(SIM, table_margin_m=height - 0.001), DT)


class TestSpeed:
    @pytest.mark.parametrize(("limits", "speed"), [(DEFAULT, 0.25), (SIM, 1.0)])
    def test_tip_speed_over_random_motion(self, limits: Limits, speed: float) -> None:
        rng = np.random.default_rng(21)
        state, fastest = started(limits=limits), 0.0
        band = limits.velocity * limits.reject_s
        for _ in range(400):
            goal = np.clip(state.sent + rng.uniform(-1, 1, 6) * band * 0.9, SO101.lower, SO101.upper)
            before = state.sent
            applied, state = step(state, state.sent, goal, limits, DT)
            fastest = max(fastest, tip_m(before, applied.q) / DT)
        assert 0.8 * speed < fastest <= speed + 1e-6

    def test_the_default_profile_is_the_slow_one(self) -> None:
        assert Limits.profile(SO101).tip_speed_m_s == 0.25
        assert np.all(DEFAULT.velocity < SIM.velocity) and np.all(SIM.velocity <= SO101.max_velocity)

    def test_the_arm_keeps_its_direction_and_the_gripper_its_own_pace(self) -> None:
        wanted = READY + np.array([0.4, -0.2, 0.1, 0.05, 0.0, 0.02])
        applied, _ = step(started(), READY, wanted, SIM, DT)
        way = applied.q - READY
        assert applied.reasons == (Reason.VELOCITY,)
        assert way[0] == pytest.approx(2.0 * DT)
        assert way[:5] / way[0] == pytest.approx((wanted - READY)[:5] / 0.4, abs=1e-12)
        assert way[5] == pytest.approx(0.02)

    def test_the_gripper_is_limited_without_slowing_the_arm(self) -> None:
        wanted = READY + np.array([0.05, 0, 0, 0, 0, -0.6])
        applied, _ = step(started(), READY, wanted, SIM, DT)
        assert applied.q[0] == READY[0] + 0.05
        assert applied.q[5] == pytest.approx(READY[5] - 2.5 * DT)

    def test_the_tip_limit_scales_the_arm_only(self) -> None:
        stretched = np.array([0.0, 0.9, -1.0, 0.3, 0.0, 0.5])
        wanted = stretched + np.array([0.035, 0, 0, 0, 0, 0.05])
        slow = replace(DEFAULT, tip_speed_m_s=0.1)
        applied, _ = step(started(stretched, slow), stretched, wanted, slow, DT)
        assert applied.reasons == (Reason.TIP_SPEED,)
        assert 0.0049 < tip_m(stretched, applied.q) <= 0.005
        assert applied.q[5] == wanted[5]

    def test_the_tool_travels_no_further_than_the_bound_that_saves_work(self) -> None:
        rng, share = np.random.default_rng(51), 0.0
        for _ in range(300):
            q, way = rng.uniform(SO101.lower, SO101.upper), rng.normal(size=6) * 0.01 * rng.integers(0, 2, 6)
            bound = shorten._travel_m(SO101, way)
            assert tip_m(q, q + way) <= bound + 1e-12
            share = max(share, tip_m(q, q + way) / (bound + 1e-12))
        assert share > 0.7 and shorten._travel_m(SO101, np.array([0, 0, 0, 0, 0, 1.0])) == 0.0

    def test_a_way_out_and_back_is_as_long_as_it_is(self) -> None:
        """Not as its ends are apart."""
        rng, limits, longest = np.random.default_rng(45), replace(SIM, tip_speed_m_s=1.0), 0.0
        for _ in range(100):
            sent, goal = (rng.uniform(SO101.lower, SO101.upper) for _ in range(2))
            q = shorten.tip_slowed(sent, goal, limits, 0.2)
            fine = [sent + k * (q - sent) for k in np.linspace(0.0, 1.0, 41)]
            long = sum(tip_m(np.append(a[:5], 0.5), np.append(b[:5], 0.5)) for a, b in itertools.pairwise(fine))
            quarters = [sent + k * (q - sent) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
            assert sum(tip_m(a, b) for a, b in itertools.pairwise(quarters)) <= 0.2 + 1e-9
            assert long < 0.2 * 1.02
            longest = max(longest, long)
        assert longest > 0.199

    def test_what_is_slow_enough_is_returned_untouched(self) -> None:
        target = READY + 0.01
        assert shorten.tip_slowed(READY, target, SIM, DT) is target

    def test_a_late_loop_earns_no_longer_step(self) -> None:
        late, _ = step(started(), READY, nudge(4, 1.0), SIM, 3.0)
        assert late.q[4] - READY[4] == pytest.approx(3.0 * SIM.max_dt_s)


class TestFollowingError:
    def test_the_goal_is_never_beyond_the_bound_from_present(self) -> None:
        rng = np.random.default_rng(31)
        state, present = started(limits=DEFAULT), READY.copy()
        bound = DEFAULT.following + DEFAULT.velocity * DT
        hits = 0
        for _ in range(600):
            drift = rng.normal(0, 0.1, 6)
            applied, state = step(state, present, np.clip(present + 2 * drift, SO101.lower, SO101.upper), DEFAULT, DT)
            assert (np.abs(applied.q - present) <= bound + 1e-9).all()
            hits += Reason.FOLLOWING in applied.reasons
            present = present + np.clip(applied.q - present, -0.01, 0.01)  # a slow arm
        assert hits > 20

    def test_a_stalled_arm_does_not_wind_up(self) -> None:
        state = started(limits=DEFAULT)
        for _ in range(50):
            applied, state = step(state, READY, nudge(0, 0.25), DEFAULT, DT)
        assert Reason.FOLLOWING in applied.reasons and state.fault is None
        assert applied.q[0] - READY[0] == pytest.approx(0.1 + 0.7 * DT)

    def test_the_gripper_may_aim_through_what_it_holds(self) -> None:
        state, present = started(), READY.copy()
        for _ in range(20):
            wanted = READY.copy()
            wanted[5] = 0.0
            applied, state = step(state, present, wanted, SIM, DT)
        assert applied.q[5] == 0.0 and present[5] == 0.6

    def test_an_arm_pushed_away_is_followed_back_then_latched(self) -> None:
        state, pushed = started(limits=DEFAULT), nudge(0, 1.0)
        applied, state = step(state, pushed, READY, DEFAULT, DT)
        assert applied.verdict == "clamp" and Reason.FOLLOWING in applied.reasons
        assert 0 < applied.q[0] - READY[0] <= 0.7 * DT + 1e-12  # towards the arm, one step at most
        for _ in range(10):
            applied, state = step(state, nudge(0, 1.6), READY, DEFAULT, DT)
        assert state.fault is Reason.LAGGING
        assert applied.reasons == (Reason.LATCHED, Reason.LAGGING)

    def test_the_arm_may_be_far_for_exactly_as_long_as_allowed(self) -> None:
        state, pushed = started(), nudge(0, 1.9)
        for _ in range(5):  # half a second
            _, state = step(state, pushed, READY, SIM, 0.1)
        assert (state.fault, state.lagging_s) == (None, SIM.following_latch_s)
        assert step(state, pushed, READY, SIM, 0.1)[1].fault is Reason.LAGGING

    def test_a_short_glitch_of_an_encoder_is_forgiven(self) -> None:
        state = started(limits=DEFAULT)
        for present in (READY, nudge(0, 1.0), nudge(0, 1.0), READY, READY):
            applied, state = step(state, present, READY, DEFAULT, DT)
        assert state.fault is None and state.lagging_s == 0.0
        assert np.abs(applied.q - READY).max() <= 2 * 0.7 * DT

    def test_a_reading_outside_the_limits_pulls_no_goal_outside(self) -> None:
        edge = nudge(0, SO101.upper[0])
        applied, _ = step(started(edge), nudge(0, 0.6, edge), edge, SIM, DT)
        assert applied.q[0] <= SO101.upper[0]


class TestAge:
    @pytest.mark.parametrize(
        ("age", "verdict", "latched"),
        [
            (0.0, "pass", False), (0.1, "pass", False), (0.1001, "reject", False), (0.5, "reject", False),
            (0.5001, "reject", True), (math.inf, "reject", True), (math.nan, "reject", True), (-0.01, "reject", False),
        ],
    )  # fmt: skip
    def test_bands(self, age: float, verdict: str, latched: bool) -> None:
        applied, state = step(started(), READY, READY + 0.01, SIM, DT, age)
        assert applied.verdict == verdict
        assert state.fault is (Reason.STALE if latched else None)
        if verdict == "reject":
            assert np.array_equal(applied.q, READY)
            assert applied.reasons == ((Reason.LATCHED, Reason.STALE) if latched else (Reason.STALE,))

    @pytest.mark.parametrize(
        ("elapsed", "period", "age"),
        [
            (0.0, 0.05, 0.0), (0.1, 0.05, 0.1), (0.1, 0.01, 0.1), (0.1, 0.1, 0.0), (0.2, 0.1, 0.1), (0.4, 0.2, 0.1),
            (-0.01, 0.2, -0.01), (-math.inf, 0.05, -math.inf), (math.inf, 0.2, math.inf),
        ],
    )  # fmt: skip
    def test_at_low_rates_two_periods_are_no_age(self, elapsed: float, period: float, age: float) -> None:
        assert SIM.age(elapsed, period) == pytest.approx(age, abs=1e-12)
        assert replace(SIM, hold_age_s=0.2).age(0.3, 0.15) == pytest.approx(0.2)

    def test_a_time_that_is_no_number_is_no_age(self) -> None:
        assert math.isnan(SIM.age(math.nan, 0.05))

    def test_a_fresh_command_ends_a_hold(self) -> None:
        _, state = step(started(), READY, READY + 0.01, SIM, DT, 0.3)
        applied, _ = step(state, READY, READY + 0.01, SIM, DT, 0.0)
        assert applied.verdict == "pass"


class TestLatch:
    @settings(max_examples=50, deadline=None)
    @given(
        fault=st.sampled_from(list(Reason)),
        commands=st.lists(
            st.tuples(arrays(np.float64, 6, elements=st.floats(-2, 2) | ANY_NUMBER), st.floats(0, 1)), max_size=8
        ),
    )
    def test_any_commands(self, fault: Reason, commands: list[tuple[np.ndarray, float]]) -> None:
        state = replace(started(), fault=fault)
        for wanted, age in commands:
            applied, state = step(state, READY, wanted, SIM, DT, age)
            assert applied.verdict == "reject" and applied.reasons == (Reason.LATCHED, fault)
            assert np.array_equal(applied.q, READY)
        assert state.fault is fault  # the first cause stays

    def test_reset_lets_it_go_on_from_where_it_was_held(self) -> None:
        state = replace(started(), fault=Reason.STALE, bad_inputs=7, lagging_s=3.0)
        free = reset(state)
        assert free.fault is None and free.bad_inputs == 0 and free.lagging_s == 0.0
        assert np.array_equal(free.sent, state.sent) and np.array_equal(free.accepted, state.sent)
        assert state.fault is Reason.STALE
        applied, _ = step(free, READY, READY + 0.01, SIM, DT)
        assert applied.verdict == "pass"


class TestJump:
    def test_a_jump_is_refused_and_not_made_smooth(self) -> None:
        applied, state = step(started(), READY, nudge(1, -0.9), SIM, DT)
        assert (applied.verdict, applied.reasons) == ("reject", (Reason.JUMP,))
        assert np.array_equal(applied.q, READY) and np.array_equal(state.accepted, READY)

    @pytest.mark.parametrize(("by", "refused"), [(0.79, False), (0.81, True), (-0.79, False), (-0.81, True)])
    def test_the_band_is_what_takes_longer_than_reject_s(self, by: float, refused: bool) -> None:
        applied, _ = step(started(), READY, nudge(0, by), SIM, DT)
        assert (applied.reasons == (Reason.JUMP,)) is refused

    @pytest.mark.parametrize(("sent", "accepted"), [(0.0, 0.0), (-0.1, 0.0), (0.0, -0.1)])
    def test_as_far_as_the_band_reaches_is_no_jump(self, sent: float, accepted: float) -> None:
        """From what was sent or from what was accepted, whichever is nearer."""
        state = SafetyState(nudge(0, sent), nudge(0, accepted))
        assert Reason.JUMP not in step(state, state.sent, nudge(0, 0.8), SIM, DT)[0].reasons
        assert step(state, state.sent, nudge(0, 0.8001), SIM, DT)[0].reasons == (Reason.JUMP,)

    @pytest.mark.parametrize("bounds", [DEFAULT, SIM], ids=["default", "sim"])
    def test_more_than_one_whole_opening_of_the_gripper_is_a_jump(self, bounds: Limits) -> None:
        shut = nudge(5, -READY[5])
        for opening, refused in ((1.0, False), (1.01, True)):
            applied, _ = step(started(shut, bounds), shut, nudge(5, opening, shut), bounds, DT)
            assert (applied.reasons == (Reason.JUMP,)) is refused

    def test_a_stream_that_runs_ahead_is_no_jump_nor_is_coming_back(self) -> None:
        state = started()
        for ahead in (0.5, 1.0, 1.5):
            applied, state = step(state, state.sent, nudge(0, ahead), SIM, DT)
            assert applied.verdict == "clamp"
        applied, state = step(state, state.sent, READY, SIM, DT)  # far from the last wanted, near to the last sent
        assert applied.verdict != "reject"

    def test_opening_the_gripper_at_once_is_ordinary_but_percent_is_not(self) -> None:
        for bounds in (DEFAULT, SIM):
            shut = READY.copy()
            shut[5] = 0.0
            wide = READY.copy()
            wide[5] = 1.0
            assert step(started(shut, bounds), shut, wide, bounds, DT)[0].verdict == "clamp"
            wide[5] = 60.0
            assert step(started(shut, bounds), shut, wide, bounds, DT)[0].reasons == (Reason.JUMP,)


class TestTable:
    def low(self, z: float = 0.004) -> np.ndarray:
        return np.append(kinematics.inverse(SO101, (0.22, 0.0, z), 0.0, 0.3), 0.4)

    def test_the_tool_stops_at_the_margin(self) -> None:
        state = started(self.low(0.03))
        for k in range(40):
            wanted = np.append(kinematics.inverse(SO101, (0.22, 0.0, max(0.03 - 0.003 * k, -0.03)), 0.0, 0.3), 0.4)
            applied, state = step(state, state.sent, wanted, SIM, DT)
            height = kinematics.tool_position(SO101, applied.q)[2]
            assert height >= SIM.table_margin_m - 1e-6
        assert Reason.TABLE in applied.reasons
        assert height < SIM.table_margin_m + 0.002

    def test_it_slides_along_the_margin_and_turns(self) -> None:
        """Sweeping sideways while pressing down must not stick."""
        state = started(self.low(0.0021))
        for k in range(30):
            wanted = np.append(kinematics.inverse(SO101, (0.22, 0.003 * k, -0.002), 0.0, 0.3), 0.4)
            applied, state = step(state, state.sent, wanted, SIM, DT)
        x, y, z = kinematics.tool_position(SO101, applied.q)
        assert y > 0.08 and z >= SIM.table_margin_m - 1e-5 and abs(x - 0.22) < 0.01

    def test_the_gripper_works_at_the_margin(self) -> None:
        low = self.low(0.0021)
        wanted = np.append(kinematics.inverse(SO101, (0.22, 0.0, -0.005), 0.0, 0.3), 0.35)
        applied, _ = step(started(low), low, wanted, SIM, DT)
        assert Reason.TABLE in applied.reasons and applied.q[5] == pytest.approx(0.35)

    def test_what_stays_above_the_margin_is_untouched(self) -> None:
        just_above = self.low(0.0021)
        assert shorten.above_table(self.low(0.01), just_above, SIM) is just_above

    def test_below_the_margin_the_gripper_still_closes(self) -> None:
        below = self.low(-0.01)
        closed = nudge(5, -0.1, below)
        assert shorten.above_table(below, closed, SIM) is closed

    @pytest.mark.parametrize(("by", "safe"), [(0.00009, True), (0.00011, False)])
    def test_the_last_check_forgives_a_tenth_of_a_millimetre(self, by: float, safe: bool) -> None:
        start, target = self.low(0.0105), self.low(0.01)
        margin = collision.gripper_height(SO101, target) + by
        assert shorten.is_safe(start, target, replace(SIM, table_margin_m=margin), DT) is safe

    def test_starting_below_it_may_rise_but_not_sink(self) -> None:
        below = self.low(-0.01)
        up = np.append(kinematics.inverse(SO101, (0.22, 0.0, 0.0), 0.0, 0.3), 0.4)
        down = np.append(kinematics.inverse(SO101, (0.22, 0.0, -0.014), 0.0, 0.3), 0.4)
        risen, _ = step(started(below), below, up, SIM, DT)
        sunk, _ = step(started(below), below, down, SIM, DT)
        assert kinematics.tool_position(SO101, risen.q)[2] > -0.01 + 0.003
        assert kinematics.tool_position(SO101, sunk.q)[2] >= -0.01 - 1e-6

    def test_random_motion_near_the_table(self) -> None:
        rng = np.random.default_rng(41)
        state, touched = started(self.low(0.01)), 0
        for _ in range(500):
            wanted = SO101.clip(state.sent + rng.normal(0, 0.06, 6) + np.array([0, 0.02, 0.01, 0, 0, 0]))
            before = kinematics.tool_position(SO101, state.sent)[2]
            applied, state = step(state, state.sent, wanted, SIM, DT)
            after = kinematics.tool_position(SO101, applied.q)[2]
            assert after >= min(SIM.table_margin_m, before) - 1e-4
            touched += Reason.TABLE in applied.reasons
        assert touched > 20

    def test_joints_that_are_low_only_together_are_all_held(self) -> None:
        """Each joint alone raises the gripper, all together lower it: found by search among large motions."""
        rng, found, height = np.random.default_rng(42), 0, partial(collision.gripper_height, SO101)
        for _ in range(3000):
            low = np.append(rng.uniform(SO101.lower[:5], SO101.upper[:5]), 0.5)
            goal = np.append(rng.uniform(SO101.lower[:5], SO101.upper[:5]), 0.5)
            z = height(low)
            alone = [height(np.where(np.arange(6) == i, goal, low)) for i in range(1, 5)]
            if min(alone) >= z and height(goal) < z - 0.01:
                q = shorten.above_table(low, goal, replace(SIM, table_margin_m=z))
                assert height(q) >= z - 1e-5 and q[0] == pytest.approx(goal[0])
                found += 1
        assert found >= 5

    def test_a_way_that_is_low_in_the_middle_is_cut(self) -> None:
        rng, seen = np.random.default_rng(43), {1: 0, 2: 0, 3: 0}
        for _ in range(1000):
            low, goal = (rng.uniform(SO101.lower, SO101.upper) for _ in range(2))
            heights = [collision.gripper_height(SO101, low + k * (goal - low)) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
            lowest, second = sorted(heights)[:2]
            where = heights.index(lowest)
            if where in seen and second - lowest > 0.001:  # only there is it below the margin that is set now
                between = replace(SIM, table_margin_m=0.5 * (lowest + second))
                assert shorten.above_table(low, goal, between) is not goal
                seen[where] += 1
        assert min(seen.values()) > 10

    def test_a_jaw_that_turns_below_the_margin_is_held(self) -> None:
        rng, held = np.random.default_rng(46), 0
        for _ in range(300):
            shut = np.append(rng.uniform(SO101.lower[:5], SO101.upper[:5]), 0.2)
            wide = nudge(5, 0.8, shut)
            before, after = (collision.gripper_height(SO101, q) for q in (shut, wide))
            if after < before - 0.002:
                q = shorten.above_table(shut, wide, replace(SIM, table_margin_m=0.5 * (before + after)))
                assert shut[5] <= q[5] < 1.0
                held += 1
        assert held > 20

    def test_finger_tips_may_be_a_little_lower_than_the_tool(self) -> None:
        """When one finger is above the other, the lower one decides."""
        q = np.array([0.0, 0.6, 0.6, -1.1, 0.0, 0.5])
        for _ in range(60):
            q = shorten.above_table(q, nudge(1, 0.05, q), SIM)
        assert kinematics.tool_position(SO101, q)[2] > SIM.table_margin_m + 0.005
        assert abs(collision.gripper_height(SO101, q) - SIM.table_margin_m) < 0.001


class TestLinks:
    """Stops before links touch; the library of bad poses and PyBullet's word for it: ``test_collision.py``."""

    FOLDING = np.array([0.0, -1.2, 0.7, 1.5, 0.0, 0.3])  # the hand before the column, 2 cm from it

    def folded(self, by: float) -> np.ndarray:
        return nudge(2, 0.4 * by, self.FOLDING)

    def gap(self, q: np.ndarray) -> float:
        return min(collision.gaps(collision.capsules(SO101, q)))

    def at(self, gap: float) -> np.ndarray:
        """The pose on the way to the column that leaves this much free space (m)."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.gap(self.folded(middle)) > gap else (low, middle)
        return self.folded(low)

    @pytest.mark.parametrize("bounds", [DEFAULT, SIM], ids=["default", "sim"])
    def test_it_stops_at_the_margin_and_slows_before(self, bounds: Limits) -> None:
        assert self.gap(self.FOLDING) > 0.015 and self.gap(self.folded(1.0)) < 0.0
        state, found = started(self.FOLDING, bounds), []
        for k in range(80):
            wanted = self.folded(min(1.0, (k + 1) / 40))
            applied, state = step(state, state.sent, wanted, bounds, DT)
            found.append(self.gap(applied.q))
        assert applied.reasons[-1] is Reason.COLLISION and applied.verdict == "clamp"
        assert bounds.link_margin_m <= found[-1] < bounds.link_margin_m + 0.0002
        left = [gap - bounds.link_margin_m for gap in found if gap < bounds.link_margin_m + bounds.slow_zone_m]
        assert len(left) > 10
        assert all(after >= 0.5 * before - 1e-12 for before, after in itertools.pairwise(left))
        for _ in range(100):  # and stays there, however long it is pressed
            applied, state = step(state, state.sent, self.folded(1.0), bounds, DT)
        assert self.gap(applied.q) >= bounds.link_margin_m - 1e-9

    def test_the_other_joints_go_on(self) -> None:
        edge = self.folded(0.28)
        assert 0.008 < self.gap(edge) < 0.0101
        applied, _ = step(started(edge), edge, edge + np.array([0.05, 0, 0.1, 0, 0.05, 0.1]), SIM, DT)
        assert applied.reasons == (Reason.COLLISION,)
        assert applied.q[0] == pytest.approx(edge[0] + 0.05) and applied.q[4] == pytest.approx(edge[4] + 0.05)
        assert applied.q[5] == pytest.approx(edge[5] + 0.1) and edge[2] <= applied.q[2] < edge[2] + 0.02

    def test_at_the_edge_backing_off_is_free(self) -> None:
        edge = self.folded(0.28)
        applied, _ = step(started(edge), edge, nudge(2, -0.05, edge), SIM, DT)
        assert applied.verdict == "pass" and self.gap(applied.q) > self.gap(edge)

    @pytest.mark.parametrize("by", [-5e-7, 0.0, 5e-7])
    def test_held_at_the_margin_is_not_inside_it(self, by: float) -> None:
        """There it leaves at full speed, and comes no nearer."""
        edge = self.at(SIM.link_margin_m + by)
        applied, _ = step(started(edge), edge, nudge(2, -0.05, edge), SIM, DT)
        assert applied.verdict == "pass"
        applied, _ = step(started(edge), edge, nudge(2, 0.05, edge), SIM, DT)
        assert self.gap(applied.q) >= SIM.link_margin_m - 1e-6

    def test_a_step_uses_up_no_more_of_the_slow_zone_than_its_time_allows(self) -> None:
        """Half of what is free of it, with half of ``slow_s``."""
        margin, zone = SIM.link_margin_m, SIM.slow_zone_m
        start, less, more = (self.at(margin + share * zone) for share in (0.8, 0.43, 0.38))
        assert shorten.links_apart(start, less, SIM, 0.5 * SIM.slow_s) is less
        cut = shorten.links_apart(start, more, SIM, 0.5 * SIM.slow_s)
        assert 0.4 * zone - 1e-9 <= self.gap(cut) - margin < 0.41 * zone

    def test_a_way_that_is_too_near_in_the_middle_is_cut(self) -> None:
        """A wrist that swings past straight down: where the hand is lowest, the way may be too low."""
        rng, seen = np.random.default_rng(73), {1: 0, 2: 0, 3: 0}
        for _ in range(400):
            lift, elbow, wrist = rng.uniform(0, 0.9), rng.uniform(-0.6, 0.6), rng.uniform(-1.6, 1.6)
            sent = np.array([0.0, lift, elbow, wrist, 0.0, 0.3])
            goal = nudge(3, rng.uniform(-1.6, 1.6) - wrist, sent)
            free = [self.gap(sent + k * (goal - sent)) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
            lowest, second = sorted(free)[:2]
            where, margin = free.index(lowest), 0.5 * (lowest + second)
            if where in seen and second - lowest > 0.001 and margin >= 0.0:  # only there is it nearer than the margin
                bounds = replace(SIM, link_margin_m=margin, slow_zone_m=0.001, slow_s=DT)
                assert shorten.links_apart(sent, goal, bounds, DT) is not goal
                seen[where] += 1
        assert all(seen.values())

    def test_no_gap_dips_by_more_than_is_allowed_for_without_a_look(self) -> None:
        """What is taken at once passes the whole check: of two links that both move, too."""
        rng, largest = np.random.default_rng(0), 0.0
        for _ in range(2500):
            q, size = rng.uniform(SO101.lower, SO101.upper), rng.choice([0.03, 0.1, 0.3])
            way = rng.uniform(-size, size, 6) * rng.integers(0, 2, 6)
            if not way.any():
                continue
            found = [collision.capsules(SO101, q + k * way) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
            here, *middle, ahead = np.array([collision.gaps(capsules) for capsules in found])
            lowest, travel = np.min(middle, axis=0), collision.moved(found[0], found[-1]) + shorten.bend_m(way)
            dip = max(0.5 * (here + ahead) - lowest) / (0.5 * travel)
            rise = max(np.where(lowest < here, ahead - lowest, 0.0)) / travel
            largest = max(largest, float(dip), float(rise))
        assert 0.5 < largest <= 1.0

    def test_links_may_not_overlap_by_more_than_capsules_are_thicker_than_an_arm(self) -> None:
        """35 mm less than the margin, however far it is told to go."""
        deep = np.array([0.0, -1.2, 1.2, 1.5, 0.0, 0.3])
        cut = shorten.links_apart(deep, nudge(2, 0.4, deep), SIM, DT)
        assert SIM.link_margin_m - 0.035 <= self.gap(cut) < SIM.link_margin_m - 0.035 + 0.0002
        assert self.gap(deep) > self.gap(cut) + 0.003

    def test_the_largest_share_is_found_to_one_part_in_256(self) -> None:
        assert shorten._largest(lambda share: share <= 1.0 / 3.0) == 85 / 256
        assert shorten._largest(lambda share: share < 1.0) == 255 / 256
        assert shorten._largest(lambda share: False) == 0.0

    def test_inside_it_goes_slowly_and_not_deep(self) -> None:
        state = started(self.folded(0.9), SIM)
        assert self.gap(state.sent) < SIM.link_margin_m
        for target in (self.folded(0.5), self.folded(1.0)):
            applied, _ = step(state, state.sent, target, SIM, DT)
            assert applied.reasons[-1] is Reason.COLLISION
            assert 0.0 < abs(applied.q[2] - state.sent[2]) <= 0.2 * SIM.velocity[2] * DT + 1e-12
        for _ in range(60):
            applied, state = step(state, state.sent, nudge(2, 0.1, state.sent), SIM, DT)
        assert SIM.link_margin_m - 0.035 <= self.gap(applied.q) < -0.01

    def test_deeper_than_that_it_comes_no_nearer(self) -> None:
        deep = np.array([-0.6, 0.4, 1.4, 1.3, -2.0, 0.6])
        assert self.gap(deep) < SIM.link_margin_m - 0.05
        state = started(deep)
        for _ in range(30):
            before = collision.gaps(collision.capsules(SO101, state.sent))
            applied, state = step(state, state.sent, nudge(2, 0.1, state.sent), SIM, DT)
            after = collision.gaps(collision.capsules(SO101, applied.q))
            assert min(after) >= min(before) - 1e-9

    def test_wrist_and_hand_keep_from_the_table_without_going_deeper(self) -> None:
        low = np.array([0.0, 1.2, 0.9, -1.0, 0.0, 0.3])
        free = dict(zip(collision.PAIRS, collision.gaps(collision.capsules(SO101, low)), strict=True))
        assert free["wrist and table"] < 0.0
        applied, _ = step(started(low), low, nudge(1, 0.05, low), SIM, DT)
        after = dict(zip(collision.PAIRS, collision.gaps(collision.capsules(SO101, applied.q)), strict=True))
        assert after["wrist and table"] >= free["wrist and table"] - 1e-9
        up, _ = step(started(low), low, nudge(1, -0.05, low), SIM, DT)
        assert up.q[1] == pytest.approx(low[1] - 0.05)

    def test_low_over_the_table_the_arm_still_turns(self) -> None:
        low = np.array([0.0, 1.2, 0.9, -1.0, 0.0, 0.3])
        turned = nudge(0, 0.05, low)
        assert shorten.links_apart(low, turned, SIM, DT) is turned

    def test_what_is_far_is_returned_untouched(self) -> None:
        target = READY + 0.02
        assert shorten.links_apart(READY, target, SIM, DT) is target

    @pytest.mark.parametrize("name", ["so100", "so101"])  # a Koch is shorter and its base has no length
    @pytest.mark.parametrize(
        ("joints", "least"), [(range(1, 5), 0.67), (range(1), 0.67), (range(5, 6), 0.5), (range(6), 0.3)]
    )
    def test_an_arm_bends_no_more_than_is_allowed_for(self, name: str, joints: range, least: float) -> None:
        spec = ARMS[name]
        rng, share = np.random.default_rng(71), 0.0
        for _ in range(400):
            q, way = rng.uniform(spec.lower, spec.upper), rng.uniform(-0.3, 0.3, 6) * rng.integers(0, 2, 6)
            way *= np.isin(np.arange(6), joints)
            start, middle, end = (collision.capsules(spec, q + k * way) for k in (0.0, 0.5, 1.0))
            bends = [
                np.linalg.norm(np.add(start[name][k], end[name][k]) / 2 - middle[name][k])  # type: ignore[arg-type]
                for name in middle
                for k in (0, 1)
            ]
            allowed = shorten.bend_m(way)
            assert max(bends) <= allowed + 1e-12
            share = max(share, max(bends) / (allowed + 1e-12))
        assert least < share <= 1.0

    def test_random_motion_never_goes_below_the_margin(self) -> None:
        rng = np.random.default_rng(72)
        state, held = started(self.FOLDING), 0
        for _ in range(300):
            wanted = SO101.clip(state.sent + rng.normal(0, 0.08, 6) + np.array([0, 0, 0.02, 0, 0, 0]))
            before = state.sent
            applied, state = step(state, state.sent, wanted, SIM, DT)
            assert all(self.gap(before + s * (applied.q - before)) > SIM.link_margin_m - 1e-6 for s in (0.3, 0.6, 1.0))
            held += Reason.COLLISION in applied.reasons
        assert held > 20

    def test_the_last_check_knows_links(self) -> None:
        patient = replace(SIM, max_dt_s=9.0, tip_speed_m_s=9.0)
        assert shorten.is_safe(self.folded(1.0), self.folded(0.5), patient, 9.0)
        assert shorten.is_safe(self.folded(1.0), self.folded(1.0), SIM, DT)
        assert not shorten.is_safe(self.FOLDING, self.folded(1.0), patient, 9.0)
        deep = np.array([-0.6, 0.4, 1.4, 1.3, -2.0, 0.6])
        assert not shorten.is_safe(self.folded(1.0), deep, patient, 9.0)

    @pytest.mark.parametrize(("by", "safe"), [(0.00009, True), (0.00011, False)])
    def test_the_last_check_forgives_a_tenth_of_a_millimetre(self, by: float, safe: bool) -> None:
        start, target = self.at(SIM.link_margin_m + 0.0005), self.at(SIM.link_margin_m - by)
        assert shorten.is_safe(start, target, SIM, DT) is safe

    def test_a_folded_arm_can_be_unfolded(self) -> None:
        """The way to the rest pose of a SO-101 that was put away folded up; PyBullet finds it free by a millimetre."""
        for spec in (ARMS["so100"], SO101):
            state = SafetyState.start(spec.clip(np.array([0.0, -1.7, 1.6, 1.2, 0.0, 0.1])), DEFAULT)
            bounds = Limits.profile(spec)
            for _ in range(300):
                way = spec.home - state.sent
                way *= min(1.0, 0.2 / max(np.abs(way).max(), 1e-9))
                _, state = step(state, state.sent, state.sent + way, bounds, DT)
            assert state.sent == pytest.approx(spec.home, abs=1e-6), spec.name


class TestOutsideTheLimits:
    @pytest.mark.parametrize("by", [0.01, 0.5])
    @pytest.mark.parametrize(("joint", "side"), [(0, 1), (0, -1), (4, 1), (2, -1), (5, 1)])
    def test_only_motion_back_inside_and_slowly(self, joint: int, side: int, by: float) -> None:
        edge = SO101.upper[joint] if side > 0 else SO101.lower[joint]
        outside = READY.copy()
        outside[joint] = edge + side * by
        state = started(outside)
        applied, _ = step(state, outside, nudge(joint, side * 0.1, outside), SIM, DT)
        assert applied.q[joint] == outside[joint] and Reason.POSITION in applied.reasons  # no further out
        applied, after = step(state, outside, outside, SIM, DT)
        assert applied.q[joint] == outside[joint] and applied.verdict == "pass"  # it may stay
        for _ in range(200):
            before = after.sent[joint]
            applied, after = step(after, after.sent, nudge(joint, -side * 0.2, after.sent), SIM, DT)
            moved = side * (before - applied.q[joint])
            assert moved > 0
            if side * (before - edge) > 1e-9:
                assert moved <= 0.2 * SIM.velocity[joint] * DT + 1e-9
            if side * (applied.q[joint] - edge) < 0:
                break
        applied, _ = step(after, after.sent, nudge(joint, side * 0.3, after.sent), SIM, DT)
        assert side * (applied.q[joint] - edge) <= 0  # once inside, it stays inside

    @pytest.mark.parametrize(("edges", "inwards"), [(SO101.lower, 0.1), (SO101.upper, -0.1)])
    def test_exactly_at_a_limit_is_not_outside(self, edges: np.ndarray, inwards: float) -> None:
        edge = READY.copy()
        edge[4] = edges[4]
        applied, _ = step(started(edge), edge, nudge(4, inwards, edge), SIM, DT)
        assert applied.verdict == "pass"

    def test_all_joints_are_slow_while_one_is_outside(self) -> None:
        outside = nudge(4, SO101.upper[4] + 0.05 - READY[4])
        applied, _ = step(started(outside), outside, outside - 0.2, SIM, DT)
        assert np.abs(applied.q - outside).max() <= 0.2 * SIM.velocity.max() * DT + 1e-12


class TestData:
    def test_an_unknown_profile_lists_the_known(self) -> None:
        with pytest.raises(RobotError, match="default, sim"):
            Limits.profile(SO101, "fast")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"velocity": np.full(6, 9.0)}, "velocity"), ({"velocity": np.ones(5)}, "velocity"),
            ({"velocity": np.full(6, np.nan)}, "velocity"), ({"velocity": np.zeros(6)}, "velocity"),
            ({"following": 0.0}, "following"), ({"following": np.ones(4)}, "following"),
            ({"following": math.inf}, "following"), ({"tip_speed_m_s": 0.0}, "positive"),
            ({"max_dt_s": math.nan}, "positive"), ({"reject_s": math.inf}, "positive"),
            ({"table_margin_m": math.nan}, "table_margin_m"), ({"latch_after": 0}, "latch_after"),
            ({"latch_age_s": 0.05}, "latch_age_s"), ({"slow_zone_m": 0.0}, "slow_zone_m"),
            ({"slow_s": -0.1}, "positive"), ({"link_margin_m": -0.001}, "link_margin_m"),
            ({"link_margin_m": math.inf}, "link_margin_m"), ({"link_margin_m": math.nan}, "link_margin_m"),
            ({"following_latch_s": 0.0}, "positive"), ({"hold_age_s": 0.0}, "positive"),
        ],
    )  # fmt: skip
    def test_limits_that_are_none_are_refused(self, change: dict[str, object], words: str) -> None:
        with pytest.raises(RobotError, match=words):
            replace(SIM, **change)  # type: ignore[arg-type]

    @pytest.mark.parametrize("joint", range(6))
    def test_one_joint_with_an_impossible_limit_is_enough(self, joint: int) -> None:
        for name, bad in (("velocity", 0.0), ("velocity", 1.01 * SO101.max_velocity[joint]), ("following", 0.0)):
            values = np.array(getattr(SIM, name))
            values[joint] = bad
            with pytest.raises(RobotError, match=name):
                replace(SIM, **{name: values})

    def test_a_following_bound_per_joint(self) -> None:
        limits = replace(SIM, following=np.full(6, 0.2))
        assert np.array_equal(limits.following, np.full(6, 0.2))

    def test_limits_at_the_edge_of_what_is_allowed(self) -> None:
        edge = replace(SIM, hold_age_s=0.5, latch_after=1, link_margin_m=0.0, velocity=SO101.max_velocity)
        assert edge.hold_age_s == edge.latch_age_s

    def test_limits_cannot_be_altered(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            SIM.velocity[0] = 99.0

    @pytest.mark.parametrize("bad", [np.zeros(5), np.full(6, np.nan)])
    def test_a_state_needs_six_finite_numbers(self, bad: np.ndarray) -> None:
        with pytest.raises(RobotError, match="six finite numbers"):
            SafetyState(bad, HOME)
        with pytest.raises(RobotError, match="read the arm"):
            SafetyState(HOME, bad)

    def test_start_takes_the_arm_where_it_is_unless_it_cannot_be_there(self) -> None:
        outside = nudge(0, SO101.upper[0] + 0.999)
        assert np.array_equal(started(outside).sent, outside) and np.array_equal(started(outside).accepted, outside)
        wide = nudge(5, 2.0 - READY[5])  # exactly one opening too far
        assert np.array_equal(started(wide).sent, wide)
        for joint, by in ((0, 3.0), (1, -3.0), (5, 1.5)):
            with pytest.raises(RobotError, match=rf"{SO101.joints[joint]} is measured \d\.\d\d outside"):
                started(nudge(joint, by))

    def test_slowed_limits_are_slower_and_otherwise_the_same(self) -> None:
        half = SIM.slowed(0.5)
        assert half.velocity == pytest.approx(0.5 * SIM.velocity) and half.tip_speed_m_s == 0.5 * SIM.tip_speed_m_s
        assert np.array_equal(half.following, SIM.following) and half.table_margin_m == SIM.table_margin_m
        assert SIM.slowed(1.0).tip_speed_m_s == SIM.tip_speed_m_s
        for share in (0.0, -1.0, 1.01, math.nan):
            with pytest.raises(RobotError, match="share"):
                SIM.slowed(share)

    def test_the_profiles_are_these(self) -> None:
        """Whoever changes a number of a profile changes it here too, knowingly."""
        assert DEFAULT.velocity.tolist() == [0.7, 0.7, 0.7, 1.5, 1.5, 1.5] and DEFAULT.tip_speed_m_s == 0.25
        assert DEFAULT.following.tolist() == [0.1, 0.1, 0.1, 0.1, 0.1, 1.0] and DEFAULT.slow_zone_m == 0.02
        assert SIM.velocity.tolist() == [2.0, 2.0, 2.0, 3.0, 3.0, 2.5] and SIM.tip_speed_m_s == 1.0
        assert SIM.following.tolist() == [0.3, 0.3, 0.3, 0.3, 0.3, 1.0] and SIM.slow_zone_m == 0.0025
        plain = Limits(SO101, DEFAULT.velocity)
        assert (plain.tip_speed_m_s, plain.following[0], plain.slow_zone_m) == (0.25, 0.1, 0.02)
        for found in (DEFAULT, SIM, plain):
            assert (found.following_latch_s, found.table_margin_m, found.link_margin_m) == (0.5, 0.002, 0.008)
            assert (found.slow_s, found.reject_s, found.latch_after) == (0.1, 0.4, 3)
            assert (found.hold_age_s, found.latch_age_s, found.max_dt_s) == (0.1, 0.5, 0.1)

    def test_reasons_are_an_enum_with_words_for_people(self) -> None:
        assert all(isinstance(reason.value, str) and reason.value[0].islower() for reason in Reason)
        assert Applied(HOME, "pass").reasons == ()
