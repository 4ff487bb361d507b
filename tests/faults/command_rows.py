"""Rows 29 to 37: commands that must not be carried out as they are, and limits that are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lab import STEP, Float, Lab, goals, refused, row, stands_still, torques, walk

from embodied.teleop.pace import Pacer
from embodied.teleop.session import Session
from hardware.arm_spec import SO101
from hardware.emulator.chains import nominal
from hardware.errors import RobotError
from hardware.rig import Calibration, RigError, format_rig, load_rig, parse_rig
from hardware.safety import Limits, Reason
from hardware.safety.collision import capsules, gaps, gripper_height
from hardware.teleop.device import Key, Reading


@row(29, "a command holds NaN or infinity")
def not_finite(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        for bad, joint in ((math.nan, 0), (math.inf, 2), (-math.inf, 4), (math.nan, 5)):
            walk(arm, 2)
            wanted = arm.observe().command + STEP
            before = goals(servos)
            if on:
                wanted[joint] = bad
                arm.act(wanted)
                arm.act(arm.observe().command)
                assert goals(servos) == before and arm.fault is None  # one such command leaves no trace
                assert refused([arm.act(wanted) for _ in range(3)])
                assert arm.fault is not None and goals(servos) == before
                assert stands_still(servos, arm)
                arm.reset_fault()
            else:
                assert not refused([arm.act(wanted), arm.act(wanted)]) and goals(servos) != before


@row(30, "a command has another shape, type or unit")
def other_units(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 1)
        before = goals(servos)
        if not on:
            assert not refused(walk(arm, 2)) and goals(servos) != before
            return
        degrees = np.degrees(arm.observe().command + STEP) + 30.0
        wrong: list[Any] = [
            np.zeros(5),
            np.zeros((2, 6)),
            np.zeros(7),
            "home",
            None,
            [0.0] * 5,
            degrees,
            np.full(6, 2048.0),
        ]
        for wanted in wrong:
            assert arm.act(wanted).verdict == "reject", wanted
        assert goals(servos) == before


@row(31, "a command lies outside the joint limits")
def outside(lab: Lab, on: bool) -> None:
    with lab.arm(profile="sim") as (servos, arm):
        arm.act(arm.read())
        rig = nominal(load_rig("so101"))
        ends = {name: joint.calibration for name, joint in rig.joints.items()}
        target = arm.observe().command
        reasons: set[Reason] = set()
        for _ in range(50):
            target = np.append(target[:5], 0.5) + np.array([0.06, 0, 0, 0, 0, 0])
            if not on:
                target = np.minimum(target, arm.spec.upper - 0.1)
            applied = arm.act(target)
            reasons |= set(applied.reasons)
            assert np.all((applied.q >= arm.spec.lower) & (applied.q <= arm.spec.upper))
            for name, goal in goals(servos).items():
                end = ends[name]
                assert end is not None and end.min <= goal <= end.max
        assert (Reason.POSITION in reasons) == on  # and it is said, not done in silence


@row(32, "a command is faster than the arm may move")
def spike(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 1)
        allowed = arm._map.max_speed(arm.limits.velocity)
        ids = {joint: servo.id for joint, servo in servos.servos.items()}
        last, verdicts = goals(servos), set()
        for k in range(20):
            size = (1.0, 8.0, 200.0)[k % 3] if on else 0.5
            verdicts.add(arm.act(arm.observe().command + size * STEP * (-1) ** k).verdict)
            now = goals(servos)
            for joint, goal in now.items():
                assert abs(goal - last[joint]) <= allowed[ids[joint]] * 0.05 + 1
            last = now
        assert verdicts == ({"pass", "clamp", "reject"} if on else {"pass"})


@row(33, "the first command is far from where the arm is")
def far_start(lab: Lab, on: bool) -> None:
    for joint in range(5):
        with lab.arm() as (servos, arm):
            here = arm.read()
            wanted = here + STEP
            wanted[joint] += 0.9 if on else 0.0
            applied = arm.act(wanted)
            assert refused([applied]) == on
            assert (Reason.JUMP in applied.reasons) == on
            if on:
                angles = list(servos.angles().values())
                for _ in range(3):
                    arm.act(wanted)
                assert list(servos.angles().values()) == pytest.approx(angles, abs=0.002)


class Hand:
    """A leader that someone moves, also while the follower does not listen."""

    name = "hand"

    def __init__(self, pose: Float) -> None:
        self.pose, self.keys = np.array(pose), list[Key]()

    def read(self) -> Reading:
        """The pose, and what was pressed since."""
        pressed, self.keys = tuple(self.keys), []
        return Reading(pose=self.pose.copy(), keys=pressed)

    def reopen(self) -> None:
        """It never goes."""

    def close(self) -> None:
        """Nothing to release."""


@row(34, "teleoperation goes on with the leader somewhere else")
def reclutch(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        hand = Hand(arm.read())
        session = Session(arm, hand, pacer=Pacer(20.0, clock=lambda: 0.0, sleep=lambda seconds: None))
        hand.keys.append("engage")
        for _ in range(4):
            session.step()
        hand.keys.append("engage")  # the follower stops listening ..
        session.step()
        if on:
            hand.pose[:5] += 0.8  # .. and the hand goes elsewhere meanwhile
        session.step()
        stood, last = goals(servos), goals(servos)
        hand.keys.append("engage")
        moved = 0
        for _ in range(30):
            session.step()
            now = goals(servos)
            steps = [abs(now[joint] - last[joint]) for joint in now if joint != "gripper"]
            assert max(steps) <= 2 * 0.4 * 0.05 * 652 + 2  # the speed at which it melts, of two periods at most
            moved, last = max(moved, abs(now["shoulder_pan"] - stood["shoulder_pan"])), now
        assert session.state == "driving" and session.verdicts["reject"] == 0 and arm.fault is None
        assert (moved > 100) == on  # it comes after the hand, slowly
        if on:  # the same jump without a clutch
            assert refused([arm.act(hand.pose + 1.0)])


@row(35, "a joint is outside its limits when the arm is switched on")
def starts_outside(lab: Lab, on: bool) -> None:
    for over in (0.01, 0.5) if on else (-0.1,):
        end = 2048 + round(over * 4096 / (2 * math.pi))  # the joint stands at 2048
        rig = nominal(load_rig("so101")).with_calibration(
            {"shoulder_pan": Calibration(min=end, max=end + 1000, zero=float(end + 500))}
        )
        with lab.arm(rig=rig) as (servos, arm):
            worst = servos.angles()["shoulder_pan"]
            inside = arm.spec.clip(arm.read()) + STEP
            try:
                for _ in range(30):
                    arm.act(inside)
                    now = servos.angles()["shoulder_pan"]
                    assert now >= worst - 0.002  # inwards, if at all
                    worst = max(worst, now)
                assert abs(arm.read()[0] - inside[0]) < 0.05 or over > 0.05
            except RobotError as error:
                assert over > 0.05 and "shoulder_pan" in str(error) and "outside its limits" in str(error)
                assert set(torques(servos).values()) == {0}


@row(36, "a command leads into the table or into the arm itself")
def collision(lab: Lab, on: bool) -> None:
    # Hand into the base, hand into the upper arm, forearm and hand onto the table; and three poses that are free.
    bad = ((0.0, -1.6, 1.65, 1.6, 0.0, 0.2), (0.6, -1.2, 1.69, 1.6, 1.2, 0.9), (-0.5, 1.5, 1.2, 0.2, 0.0, 0.4))
    free = ((0.0, -0.6, 0.6, 0.9, 0.0, 0.2), (0.6, 0.1, 0.4, 0.3, 1.2, 0.9), (-0.5, -0.2, 0.2, -0.2, 0.0, 0.4))
    for pose in bad if on else free:
        with lab.arm(profile="sim") as (_, arm):
            spec, target = arm.spec, np.array(pose)
            arm.act(arm.read())
            reasons: set[Reason] = set()
            for _ in range(45):
                here = arm.observe().command
                applied = arm.act(here + np.clip(target - here, -0.08, 0.08))
                reasons |= set(applied.reasons)
                for share in (0.0, 0.5, 1.0):  # on the way as well as at its end
                    between = here + share * (applied.q - here)
                    assert min(gaps(capsules(spec, between))) >= -1e-4
                    assert gripper_height(spec, between) >= arm.limits.table_margin_m - 1e-3
            stopped = bool(reasons & {Reason.TABLE, Reason.COLLISION})
            assert stopped == on, pose
            assert (float(np.abs(arm.observe().command - target).max()) > 0.05) == on


@row(37, "a limit in the configuration is negative, zero or no number")
def bad_limits(lab: Lab, on: bool) -> None:
    good = Limits.profile(SO101)
    text = format_rig(nominal(load_rig("so101")))
    if not on:
        assert Limits(SO101, good.velocity).tip_speed_m_s > 0 and parse_rig(text).bus.rate_hz == 100
        return
    for bad in (-5.0, 0.0, math.nan, math.inf):
        for name in ("tip_speed_m_s", "following", "reject_s", "hold_age_s", "latch_age_s", "max_dt_s"):
            with pytest.raises(RobotError):
                Limits(SO101, good.velocity, **{name: bad})
        for joint in range(6):
            velocity = np.array(good.velocity)
            velocity[joint] = bad
            with pytest.raises(RobotError, match="velocity"):
                Limits(SO101, velocity)
    with pytest.raises(RobotError):
        Limits(SO101, good.velocity, latch_after=0)
    with pytest.raises(RobotError, match="no safety profile is named"):
        Limits.profile(SO101, "fast")  # type: ignore[arg-type]
    for old, new in (
        ("rate_hz = 100.0", "rate_hz = -100.0"), ("rate_hz = 100.0", "rate_hz = 0"), ("rate_hz = 100.0", "rate_hz = nan"),
        ("silence_s = 0.1", "silence_s = 0.0"), ("baud = 1000000", "baud = -1"), ("schema = 1", "schema = 1\nvelocity = -5"),
    ):  # fmt: skip
        assert old in text, old
        with pytest.raises(RigError):
            parse_rig(text.replace(old, new))
