"""The safety core's promises, one class each, then its data.

P1: only finite goals inside the limits. P2: tool speed. P3: the goal stays near the arm. P4: old commands are not
obeyed. P8: after a fault nothing moves without reset.
"""

from __future__ import annotations

import ast
import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardware import kinematics, safety
from hardware.arm_spec import SO101
from hardware.errors import RobotError
from hardware.safety import Applied, Limits, Reason, SafetyState, reset, step

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

    def test_the_module_reads_no_clock_and_does_no_io(self) -> None:
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(inspect.getsource(safety)))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        language = {"__future__", "collections", "dataclasses", "enum", "itertools", "math", "typing"}
        assert imported <= language | {"numpy", "hardware"}
        assert len(inspect.getsource(safety).splitlines()) <= 300


class TestP1OnlyFiniteGoalsInsideTheLimits:
    @pytest.mark.parametrize("limits", [DEFAULT, SIM], ids=["default", "sim"])
    def test_thousands_of_wild_commands(self, limits: Limits) -> None:
        """Random streams with jumps, NaN, infinities, wild present values, ages and time steps.

        The promise is about a million commands: the slow suite runs them.
        """
        self.run(limits, 5_000, seed=11)

    @pytest.mark.slow
    @pytest.mark.parametrize("limits", [DEFAULT, SIM], ids=["default", "sim"])
    def test_a_million_wild_commands(self, limits: Limits) -> None:
        self.run(limits, 1_000_000, seed=12)

    def run(self, limits: Limits, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        state = started(limits=limits)
        seen: set[Reason] = set()
        for _ in range(count):
            scale = rng.choice([0.01, 0.1, 1.0, 100.0], p=[0.4, 0.4, 0.15, 0.05])
            wanted = state.sent + rng.normal(0, scale, 6)
            present = np.clip(state.sent + rng.normal(0, 0.1, 6), -3, 3)
            if rng.random() < 0.04:
                (wanted if rng.random() < 0.5 else present)[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf])
            age = rng.choice([0.0, 0.05, 0.2, 0.6], p=[0.8, 0.17, 0.02, 0.01])
            dt = float(rng.choice([0.005, 0.05, 1.0, -1.0], p=[0.2, 0.7, 0.09, 0.01]))
            before = state
            applied, state = step(state, present, wanted, limits, dt, age)
            seen.update(applied.reasons)
            q = applied.q
            assert np.isfinite(q).all() and (q >= SO101.lower).all() and (q <= SO101.upper).all()
            assert (np.abs(q - before.sent) <= limits.velocity * min(max(dt, 0.0), limits.max_dt_s) + 1e-9).all()
            assert (applied.verdict == "pass") == (not applied.reasons)
            if applied.verdict == "reject":
                assert np.array_equal(q, before.sent)
            if state.fault is not None and rng.random() < 0.2:
                state = reset(state)
        expected = set(Reason) - {Reason.SHAPE, Reason.FINAL, Reason.LAGGING}
        assert expected <= seen

    @settings(max_examples=200, deadline=None)
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
        monkeypatch.setattr(safety, "_tip_slowed", lambda sent, target, limits, dt: target * np.nan)
        applied, state = step(started(), READY, READY + 0.01, SIM, DT)
        assert (applied.verdict, applied.reasons) == ("reject", (Reason.FINAL,))
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
        assert safety._is_safe(READY, READY + 0.01, SIM, DT)
        assert not safety._is_safe(READY, target, SIM, DT)

    def test_the_last_check_knows_tip_speed_and_table(self) -> None:
        stretched, down = np.array([0.0, 0.9, -1.0, 0.3, 0.0, 0.5]), nudge(1, 0.09)
        slow = replace(SIM, tip_speed_m_s=0.3)
        assert safety._is_safe(stretched, nudge(0, 0.09, stretched), SIM, DT)
        assert not safety._is_safe(stretched, nudge(0, 0.09, stretched), slow, DT)
        height = kinematics.tool_position(SO101, READY)[2]
        assert safety._is_safe(READY, down, SIM, DT)
        assert not safety._is_safe(READY, down, replace(SIM, table_margin_m=height - 0.001), DT)


class TestP2Speed:
    @pytest.mark.parametrize(("limits", "speed"), [(DEFAULT, 0.25), (SIM, 1.0)])
    def test_tip_speed_over_random_motion(self, limits: Limits, speed: float) -> None:
        rng = np.random.default_rng(21)
        state, fastest = started(limits=limits), 0.0
        band = limits.velocity * limits.reject_s
        for _ in range(700):
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

    def test_a_late_loop_earns_no_longer_step(self) -> None:
        late, _ = step(started(), READY, nudge(4, 1.0), SIM, 3.0)
        assert late.q[4] - READY[4] == pytest.approx(3.0 * SIM.max_dt_s)


class TestP3FollowingError:
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


class TestP4Age:
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

    def test_a_fresh_command_ends_a_hold(self) -> None:
        _, state = step(started(), READY, READY + 0.01, SIM, DT, 0.3)
        applied, _ = step(state, READY, READY + 0.01, SIM, DT, 0.0)
        assert applied.verdict == "pass"


class TestP8NothingMovesAfterAFaultWithoutReset:
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

    def test_a_stream_that_runs_ahead_is_no_jump_nor_is_coming_back(self) -> None:
        state = started()
        for ahead in (0.5, 1.0, 1.5):
            applied, state = step(state, state.sent, nudge(0, ahead), SIM, DT)
            assert applied.verdict == "clamp"
        applied, state = step(state, state.sent, READY, SIM, DT)  # far from the last wanted, near to the last sent
        assert applied.verdict != "reject"

    def test_opening_the_gripper_at_once_is_ordinary_but_percent_is_not(self) -> None:
        for limits in (DEFAULT, SIM):
            shut = READY.copy()
            shut[5] = 0.0
            wide = READY.copy()
            wide[5] = 1.0
            assert step(started(shut, limits), shut, wide, limits, DT)[0].verdict == "clamp"
            wide[5] = 60.0
            assert step(started(shut, limits), shut, wide, limits, DT)[0].reasons == (Reason.JUMP,)


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
        """Each joint alone raises the tool, all together lower it: found by search among large motions."""
        rng, found = np.random.default_rng(42), 0
        for _ in range(3000):
            low = np.append(rng.uniform(SO101.lower[:5], SO101.upper[:5]), 0.5)
            goal = np.append(rng.uniform(SO101.lower[:5], SO101.upper[:5]), 0.6)
            z = kinematics.tool_position(SO101, low)[2]
            alone = [kinematics.tool_position(SO101, np.where(np.arange(6) == i, goal, low))[2] for i in range(1, 5)]
            if min(alone) >= z and kinematics.tool_position(SO101, goal)[2] < z - 0.01:
                q = safety._above_table(low, goal, replace(SIM, table_margin_m=z))
                assert kinematics.tool_position(SO101, q)[2] >= z - 1e-5
                assert q[0] == pytest.approx(goal[0]) and q[5] == pytest.approx(goal[5])
                found += 1
        assert found >= 5


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
            ({"latch_age_s": 0.05}, "latch_age_s"),
        ],
    )  # fmt: skip
    def test_limits_that_are_none_are_refused(self, change: dict[str, object], words: str) -> None:
        with pytest.raises(RobotError, match=words):
            replace(SIM, **change)  # type: ignore[arg-type]

    def test_a_following_bound_per_joint(self) -> None:
        limits = replace(SIM, following=np.full(6, 0.2))
        assert np.array_equal(limits.following, np.full(6, 0.2))

    def test_limits_cannot_be_altered(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            SIM.velocity[0] = 99.0

    @pytest.mark.parametrize("bad", [np.zeros(5), np.full(6, np.nan)])
    def test_a_state_needs_six_finite_numbers(self, bad: np.ndarray) -> None:
        with pytest.raises(RobotError, match="six finite numbers"):
            SafetyState(bad, HOME)
        with pytest.raises(RobotError, match="read the arm"):
            SafetyState(HOME, bad)

    def test_start_takes_the_arm_where_it_is_but_inside_the_limits(self) -> None:
        state = started(nudge(0, 9.0))
        assert state.sent[0] == SO101.upper[0] and np.array_equal(state.sent[1:], READY[1:])

    def test_reasons_are_an_enum_with_words_for_people(self) -> None:
        assert all(isinstance(reason.value, str) and reason.value[0].islower() for reason in Reason)
        assert Applied(HOME, "pass").reasons == ()
