"""Teleoperation: devices, clutch and jog; an emulated leader drives an emulated follower; what happens when things break."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.cli import main
from embodied.teleop import Pacer, Session, Status, StatusLine
from hardware.arm_spec import SO101
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.kinematics import tool_pitch, tool_position
from hardware.profile import Profile
from hardware.rig import Rig, RigError, load_rig, save_rig
from hardware.serial_arm import SerialArm
from hardware.servo.port import PortLost
from hardware.servo.registers import STS3215
from hardware.teleop import (
    Clutch,
    Device,
    DeviceLost,
    EmulatedLeader,
    Gamepad,
    JogSpeeds,
    Key,
    Keyboard,
    Lead,
    LeaderArm,
    Rate,
    Reading,
    jog,
)
from hardware.teleop.gamepad import JoystickFile, PygamePad

ROOT = Path(__file__).resolve().parents[1]
HZ = 60.0
MIDDLE = np.array([0.0, -0.3, 0.4, 0.5, 0.0, 0.4])


# ---- clutch


@settings(max_examples=25)
@given(st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6), st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6))
def test_engaging_never_jumps_and_ends_where_the_hand_is(hand: list[float], arm: list[float]) -> None:
    clutch = Clutch()
    pose, command = np.array(hand), np.array(arm)
    clutch.engage(pose, command)
    before = command
    for _ in range(600):
        after = clutch.follow(pose, 1.0 / HZ)
        assert np.abs(after - before).max() <= 0.8 / HZ + 1e-12
        before = after
    assert before == pytest.approx(pose, abs=1e-9) and clutch.apart_rad < 1e-9


def test_a_relative_clutch_keeps_the_offset_of_the_joints_but_not_of_the_gripper() -> None:
    clutch = Clutch(relative=True)
    clutch.engage(np.zeros(6), np.full(6, 0.5))
    for _ in range(200):
        after = clutch.follow(np.full(6, 0.1), 1.0 / HZ)
    assert after == pytest.approx([0.6] * 5 + [0.1])


# ---- looking ahead


class Soft:
    """A follower whose every joint answers as two equal lags in a row, ``sag`` rad below; one step is one period."""

    def __init__(self, lag_s: float, sag: float = 0.0) -> None:
        self.half_s, self.sag = 0.5 * lag_s, sag
        self.between, self.q = np.zeros(6), np.zeros(6)

    def follow(self, sent: np.ndarray) -> None:
        for _ in range(20):
            share = 0.05 / HZ / self.half_s
            self.between = self.between + share * (sent - self.between)
            self.q = self.q + share * (self.between - self.q)


def counted(q: np.ndarray) -> np.ndarray:
    """As an encoder of 4096 counts tells it."""
    return np.round(np.asarray(q) * 4096 / (2.0 * np.pi)) * 2.0 * np.pi / 4096


def led(
    path: Callable[[float], np.ndarray], seconds: float, lag_s: float = 0.1, sag: float = 0.0
) -> tuple[Lead, np.ndarray, np.ndarray]:
    """A soft follower driven through a ``Lead``: that, and where hand and follower were at the end of each period."""
    lead, arm = Lead(1.0 / HZ), Soft(lag_s, sag)
    hands, arms = [], []
    sent: np.ndarray | None = None
    for k in range(int(seconds * HZ)):
        at_s = k / HZ
        if sent is not None:
            lead.learn(sent, counted(arm.q - sag), at_s)
        sent = lead.ahead(counted(path(at_s - 0.004)), at_s, 0.004)
        arm.follow(sent)
        hands.append(path(at_s + 1.0 / HZ))
        arms.append(arm.q - sag)
    return lead, np.array(hands), np.array(arms)


def wave(at_s: float) -> np.ndarray:
    return np.full(6, 0.2) * np.sin(2.0 * np.pi * at_s)


@pytest.mark.parametrize("lag_s", [0.04, 0.07, 0.1])
def test_the_lag_of_a_follower_is_learnt_and_made_up_for(lag_s: float) -> None:
    lead, hand, arm = led(wave, 6.0, lag_s)
    assert lead.lag_s == pytest.approx(lag_s, abs=0.012)  # a command that is held for a period comes half of it later
    without = 0.2 * 2.0 * np.pi * lag_s * 2.0 / np.pi
    error = np.abs(hand - arm)[int(3 * HZ) :, :5].mean()
    assert error <= 0.2 * 2.0 * np.pi / HZ and error <= 0.5 * without


def test_a_load_that_makes_the_follower_sag_is_no_lag() -> None:
    def to_and_fro(at_s: float) -> np.ndarray:  # up slowly and down fast, so that the sag does not cancel
        return np.full(6, 0.3) * (at_s % 2.0 / 1.5 if at_s % 2.0 < 1.5 else 4.0 - 2.0 * (at_s % 2.0))

    heavy, light = led(to_and_fro, 8.0, sag=0.04)[0], led(to_and_fro, 8.0)[0]
    assert heavy.lag_s == pytest.approx(light.lag_s, abs=0.01) and light.lag_s > 0.05


def test_what_was_learnt_outlasts_a_rest_and_a_hand_at_rest_is_sent_as_it_is() -> None:
    lead, _, _ = led(lambda at_s: wave(min(at_s, 4.0)), 30.0)
    assert lead.lag_s > 0.08
    resting = counted(wave(4.0))
    count = 2.0 * np.pi / 4096
    for k in range(20):  # the last count of an encoder is never quiet
        pose = resting + count * (k % 2)
        assert lead.ahead(pose, 31.0 + k / HZ) == pytest.approx(pose, abs=1e-12)


@pytest.mark.parametrize(("brake_s", "most_deg"), [(0.0, 2.5), (0.1, 1.0)])
def test_a_hand_that_stops_from_top_speed_is_hardly_overrun(brake_s: float, most_deg: float) -> None:
    def path(at_s: float) -> np.ndarray:
        q = wave(min(at_s, 5.0))
        run = min(max(at_s - 6.0, 0.0), 0.5)
        braking = min(max(at_s - 6.5, 0.0), brake_s)
        way = 1.3 * run + (1.3 * (braking - braking**2 / (2.0 * brake_s)) if brake_s else 0.0)
        return np.asarray(q + way)

    lead, hand, arm = led(path, 8.0)
    assert lead.lag_s > 0.08
    assert np.rad2deg((arm - hand[-1]).max()) <= most_deg
    assert np.abs(arm - hand[-1])[-int(0.8 * HZ) :].max() <= np.deg2rad(0.5)  # and is reached soon


def test_readings_a_moment_apart_tell_no_speed_and_no_reading_sends_the_arm_far() -> None:
    lead, _, _ = led(wave, 5.0)
    lead.restart()
    assert lead.ahead(np.zeros(6), 9.0) == pytest.approx(np.zeros(6))
    assert lead.ahead(np.full(6, 0.2), 9.003) == pytest.approx(np.full(6, 0.2))  # a pause is made up for in one go
    for k in range(12):
        pose = np.full(6, 2.0 * (k % 2))
        assert np.abs(lead.ahead(pose, 9.01 + k / HZ) - pose).max() <= 0.3 + 1e-9


def test_readings_that_come_unevenly_twice_or_never_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    lead, at_s = Lead(1.0 / HZ), 0.0
    for k in range(600):
        at_s += float(rng.choice([0.0, 0.001, 0.01, 0.0167, 0.5]))
        pose = wave(at_s)
        sent = lead.ahead(pose, at_s, float(rng.choice([0.0, 0.01, 0.09])))
        lead.learn(sent, pose, at_s)
        assert np.isfinite(sent).all() and 0.0 <= lead.lag_s <= 0.12, k
    for _ in range(10):  # a clock that stands still
        assert lead.ahead(wave(0.3), at_s) == pytest.approx(wave(0.3), abs=0.5)


# ---- jog


def test_the_tool_is_jogged_along_a_line_with_its_pitch_kept() -> None:
    sent = MIDDLE.copy()
    begun, pitch = np.array(tool_position(SO101, sent)), tool_pitch(SO101, sent)
    for _ in range(30):
        sent, why = jog(SO101, sent, Rate(tool=np.array([1.0, 0.0, 0.0])), JogSpeeds(), 1.0 / HZ)
        assert why == ""
    assert np.array(tool_position(SO101, sent)) - begun == pytest.approx([0.04, 0.0, 0.0], abs=1e-5)
    assert tool_pitch(SO101, sent) == pytest.approx(pitch, abs=1e-4) and sent[4] == MIDDLE[4]


def test_a_jog_out_of_reach_is_said_and_joints_still_move() -> None:
    sent, why = MIDDLE.copy(), ""
    for _ in range(1000):
        sent, why = jog(SO101, sent, Rate(tool=np.array([1.0, 0.0, 0.0])), JogSpeeds(), 1.0 / HZ)
    assert "cannot go on in that direction" in why
    turn = Rate(joints=np.array([1.0, 0, 0, 0, 0, -1.0]), tool=np.array([1.0, 0.0, 0.0]))
    after, why = jog(SO101, sent, turn, JogSpeeds(), 0.1)
    assert "cannot go on in that direction" in why and after - sent == pytest.approx([0.05, 0, 0, 0, 0, -0.08])


def test_joints_do_not_race_near_the_arms_own_axis() -> None:
    sent = np.array([0.0, -1.6, 1.5, 1.2, 0.0, 0.0])
    for _ in range(200):
        after, _ = jog(SO101, sent, Rate(tool=np.array([-1.0, 0.3, 0.0])), JogSpeeds(), 1.0 / HZ)
        assert np.abs(after - sent)[:5].max() <= 4.0 * JogSpeeds().joint_rad_s / HZ + 1e-6
        sent = after


# ---- keyboard


class Clock:
    """A clock that a test winds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def terminal(clock: Callable[[], float] = time.monotonic) -> Iterator[tuple[Keyboard, Callable[[bytes], None]]]:
    """A keyboard over a pseudo-terminal, and a way to type on it."""
    ours, theirs = pty.openpty()

    def typed(text: bytes) -> None:
        os.write(ours, text)
        time.sleep(0.02)

    try:
        with Keyboard(theirs, clock=clock) as keyboard:
            yield keyboard, typed
    finally:
        os.close(ours)
        os.close(theirs)


def test_keys_move_joints_and_tool_while_they_are_held() -> None:
    clock = Clock()
    with terminal(clock) as (keyboard, typed):
        assert isinstance(keyboard, Device)
        typed(b"1y\x1b[Au")
        rate = keyboard.read().rate
        assert rate is not None
        assert rate.joints.tolist() == [1.0, 0, 0, 0, 0, -1.0] and rate.tool.tolist() == [1.0, 0.0, 1.0]
        clock.now += 0.1
        assert keyboard.read().rate is not None and not keyboard.read().rate.still  # type: ignore[union-attr]
        clock.now += 0.1
        rate = keyboard.read().rate
        assert rate is not None and rate.still


def test_commands_are_given_once_and_stop_ends_the_jog() -> None:
    with terminal(Clock()) as (keyboard, typed):
        typed(b"1 sk\rxzfnd+-")
        reading = keyboard.read()
        assert reading.keys == (
            "stop", "record", "keep", "engage", "quit", "rereference", "reset", "fail", "discard", "faster", "slower"
        )  # fmt: skip
        assert reading.rate is not None and reading.rate.still
        assert keyboard.read().keys == ()


def test_an_arrow_that_comes_in_pieces_is_one_key() -> None:
    with terminal(Clock()) as (keyboard, typed):
        for piece in (b"\x1b", b"[", b"D"):
            typed(piece)
            reading = keyboard.read()
            assert reading.keys == ()
        assert reading.rate is not None and reading.rate.tool.tolist() == [0.0, 1.0, 0.0]


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_no_text_whatever_breaks_the_keyboard(text: str) -> None:
    keyboard = Keyboard.__new__(Keyboard)
    keyboard._rest = ""
    words = [word for part in (text[:7], text[7:]) for word in keyboard._words(part)]
    assert all(isinstance(word, str) for word in words) and len(keyboard._rest) <= 2


def test_without_a_terminal_a_sentence_says_so() -> None:
    reader, writer = os.pipe()
    with pytest.raises(RobotError, match="run this in a terminal"):
        Keyboard(reader)
    os.close(reader)
    os.close(writer)


# ---- gamepad


def event(kind: int, number: int, value: int) -> bytes:
    return struct.pack("<IhBB", 0, value, kind, number)


@pytest.fixture
def pad(tmp_path: Path) -> Iterator[tuple[JoystickFile, int]]:
    path = tmp_path / "js0"
    os.mkfifo(path)
    stick = JoystickFile(path)
    writer = os.open(path, os.O_WRONLY)
    yield stick, writer
    stick.close()


def test_sticks_and_buttons_of_a_joystick_device(pad: tuple[JoystickFile, int]) -> None:
    stick, writer = pad
    gamepad = Gamepad(stick)
    assert isinstance(gamepad, Device)
    assert gamepad.read().rate.still  # type: ignore[union-attr]
    os.write(
        writer, event(2, 1, -32767) + event(2, 0, 3000) + event(2, 3, 16384) + event(2, 5, 32767) + event(1, 0, 1)[:5]
    )
    rate = gamepad.read().rate
    assert rate is not None and rate.tool.tolist() == [1.0, 0.0, 0.0]
    assert rate.joints[4] == pytest.approx(0.41, abs=0.01) and rate.joints[5] == -1.0
    os.write(writer, event(1, 0, 1)[5:] + event(1, 1, 1) + event(1, 1, 0) + event(0x81, 2, 0) + event(1, 15, 1))
    assert gamepad.read().keys == ("engage",)
    assert gamepad.read().keys == ()
    os.close(writer)
    with pytest.raises(DeviceLost, match="gone"):
        gamepad.read()


def test_without_a_gamepad_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="is it plugged in"):
        JoystickFile(tmp_path / "js7")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(RobotError, match=r"pip install 'embodied\[teleop\]'"):
        PygamePad()


def test_a_pad_that_pygame_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    joystick = SimpleNamespace(
        get_name=lambda: "Pad", get_numaxes=lambda: 6, get_axis=lambda k: [0, 0, -1, 0, 1.0, -1][k],
        get_numbuttons=lambda: 2, get_button=lambda k: k == 1,
    )  # fmt: skip
    count = [0]
    pygame = SimpleNamespace(
        init=lambda: None, quit=lambda: None, JOYDEVICEREMOVED=7, event=SimpleNamespace(get=lambda: events),
        joystick=SimpleNamespace(get_count=lambda: count[0], Joystick=lambda k: joystick),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pygame", pygame)
    with pytest.raises(RobotError, match="no gamepad is plugged in"):
        PygamePad()
    count[0] = 1
    gamepad = Gamepad(PygamePad())
    reading = gamepad.read()
    assert reading.keys == ("stop",) and reading.rate is not None and reading.rate.tool.tolist() == [0.0, 0.0, -1.0]
    events.append(SimpleNamespace(type=7))
    with pytest.raises(DeviceLost):
        gamepad.read()


# ---- a leader drives a follower; time passes only when a test lets it


class Hand:
    """A ``Device``: an emulated hand on an emulated leader, one control period further at each reading."""

    name = "leader so101_leader"

    def __init__(self, path: Callable[[float], np.ndarray]) -> None:
        self.path, self.at_s = path, 0.0
        self.emulator = Emulator("so101_leader", pace=Pace("stepped")).start()
        rig = nominal(load_rig("so101_leader"), self.emulator.port)
        self.leader = LeaderArm.__new__(LeaderArm)
        self.leader.name, self.leader._rig, self.leader._port = self.name, rig, None
        self.leader._arm = SerialArm.open(rig, lockstep=True)
        self._place(0.0, 1.0)

    def _place(self, at_s: float, seconds: float) -> None:
        q = self.path(at_s)
        angles = dict(zip(SO101.joints, map(float, q), strict=True))
        angles["gripper"] = SO101.jaw_angle(float(q[5]))
        self.emulator.hold(angles)
        self.emulator.advance(seconds)

    def read(self) -> Reading:
        self._place(self.at_s, 1.0 / HZ)
        if self.leader._arm is not None:
            with suppress(PortLost):  # an unplugged one is told by the leader's own reading
                self.leader._arm.refresh()  # a leader is not commanded, so nothing else lets a cycle pass
        self.at_s += 1.0 / HZ
        return self.leader.read()

    def reopen(self) -> None:
        self.leader.reopen()

    def close(self) -> None:
        self.leader.close()
        self.emulator.close()


def still(at_s: float) -> np.ndarray:
    return MIDDLE


def waves(amplitude_rad: float, hz: float = 1.0) -> Callable[[float], np.ndarray]:
    """Every joint to and fro, each with another phase; the gripper too."""

    def path(at_s: float) -> np.ndarray:
        share = np.sin(2.0 * np.pi * hz * at_s + np.arange(6))
        return MIDDLE + share * np.array([amplitude_rad] * 5 + [0.2])

    return path


class Bench:
    """A follower on a stepped emulator, driven by a hand, without real time."""

    def __init__(self, path: Callable[[float], np.ndarray], profile: Profile = "default", **session: Any) -> None:
        self.hand = Hand(path)
        self.emulator = Emulator("so101", pace=Pace("stepped", period_s=1.0 / HZ)).start()
        self.rig: Rig = nominal(load_rig("so101"), self.emulator.port)
        self.arm = SerialArm.open(self.rig, control_hz=HZ, profile=profile, lockstep=True)
        self.said: list[str] = []
        self.keys: list[Key] = []
        clock = Clock()
        self.session = Session(
            self.arm, self.hand, keys=self._pressed, pacer=Pacer(HZ, clock=clock, sleep=clock.sleep),
            say=self.said.append, **session,
        )  # fmt: skip

    def _pressed(self) -> tuple[Key, ...]:
        keys, self.keys = tuple(self.keys), []
        return keys

    def steps(self, count: int, *keys: Key) -> None:
        self.keys += keys
        for _ in range(count):
            self.session.step()

    def true_q(self) -> np.ndarray:
        return _true_q(self.emulator)

    def close(self) -> None:
        with suppress(RobotError):  # a test that pulled the cable has seen what it says
            self.arm.close()
        self.emulator.close()
        self.hand.close()


def _true_q(emulator: Emulator) -> np.ndarray:
    angles = emulator.angles()
    return np.array([*(angles[joint] for joint in SO101.joints[:5]), SO101.jaw_opening(angles["gripper"])])


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*args: Any, **more: Any) -> Bench:
        made.append(Bench(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("profile", "amplitude_deg"), [("default", 4.0), ("sim", 12.0)])
def test_the_follower_follows_one_hertz_within_one_and_a_half_degrees(
    bench: Callable[..., Bench], profile: Profile, amplitude_deg: float, record_property: Callable[[str, object], None]
) -> None:
    b = bench(waves(np.deg2rad(amplitude_deg)), profile)
    b.steps(1, "engage")
    b.steps(int(4 * HZ))  # the offset melts, the lag is learnt
    errors = []
    for _ in range(int(2 * HZ)):
        b.steps(1)
        errors.append(np.abs(b.true_q() - b.hand.path(b.hand.at_s))[:5])  # where the hand is now, not when it was read
    mean, worst = np.rad2deg(np.mean(errors)), np.rad2deg(np.max(errors))
    print(f"\n{profile}: 1 Hz, +-{amplitude_deg:g} deg: mean joint error {mean:.2f} deg, worst {worst:.2f} deg")
    record_property("mean_joint_error_deg", float(mean))
    assert mean <= 1.5
    assert b.session.verdicts["reject"] == 0


@pytest.mark.parametrize(("profile", "speed", "most_deg"), [("default", 0.5, 2.0), ("sim", 1.3, 4.0)])
def test_a_leader_that_stops_at_once_is_hardly_overrun(
    bench: Callable[..., Bench], profile: Profile, speed: float, most_deg: float
) -> None:
    """In no time, as at a table: the worst that a hand can do to looking ahead. The speed limit bounds how fast it ends."""
    learn = waves(np.deg2rad(4.0), 0.5)
    pan = np.array([1.0, 0, 0, 0, 0, 0])

    def path(at_s: float) -> np.ndarray:
        return learn(min(at_s, 4.0)) + pan * speed * min(max(at_s - 4.5, 0.0), 0.5)

    b = bench(path, profile)
    b.steps(int(4.9 * HZ), "engage")
    assert b.session.lead.lag_s > 0.05
    seen = []
    for _ in range(int(0.8 * HZ)):
        b.steps(1)
        seen.append(b.true_q()[0])
    end = path(9.0)[0]
    print(f"\n{profile}: stopped at once from {speed} rad/s: overrun by {np.rad2deg(max(seen) - end):.2f} deg")
    assert np.rad2deg(max(seen) - end) <= most_deg
    assert abs(seen[-1] - end) <= np.deg2rad(0.5)
    assert b.session.verdicts["reject"] == 0


def test_engaging_makes_no_jump_wherever_leader_and_follower_stand(bench: Callable[..., Bench]) -> None:
    b = bench(still)
    for joint, servo in b.emulator.servos.items():  # torque off and a stale goal far away, as after a crash
        b.emulator.inject(f"poke.{servo.model['goal_position'].address}:{joint}=200x1")
    b.steps(5)
    before = b.true_q()
    assert not b.arm.engaged
    b.steps(1, "engage")
    for _ in range(200):
        after = b.true_q()
        assert np.abs(after - before)[:5].max() <= 0.7 / HZ + 0.005
        before = after
        b.steps(1)
    assert b.arm.engaged and b.session.state == "driving"
    assert b.true_q() == pytest.approx(MIDDLE, abs=0.03)


def test_nothing_moves_before_the_hand_is_engaged(bench: Callable[..., Bench]) -> None:
    b = bench(waves(0.2))
    before = b.true_q()
    b.steps(60)
    assert b.true_q() == pytest.approx(before, abs=1e-6) and not b.arm.engaged and b.session.state == "ready"


def test_the_clutch_lets_the_hand_go_elsewhere(bench: Callable[..., Bench]) -> None:
    b = bench(still, relative=True)
    b.steps(30, "engage")
    b.steps(5, "engage")
    held = b.true_q()
    assert b.session.state == "holding"
    b.hand.path = lambda at_s: MIDDLE + np.array([0.4, 0.2, -0.2, 0.3, 0.5, 0.0])
    b.steps(60)
    assert b.true_q() == pytest.approx(held, abs=0.01)
    b.steps(30, "engage")
    assert b.session.state == "driving" and b.true_q()[:5] == pytest.approx(held[:5], abs=0.01)


def test_an_unplugged_leader_holds_the_follower_and_a_plugged_one_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench(waves(0.07))
    b.steps(240, "engage")
    moving = b.true_q()
    b.hand.emulator.unplug()
    b.steps(3)
    assert b.session.state == "holding" and any("leader so101_leader" in s and "holds" in s for s in b.said)
    held = b.true_q()
    assert np.abs(held - moving)[:5].max() <= 4 * 0.7 / HZ + 0.1  # steps until it is noticed, and the following bound
    b.steps(30)
    assert b.true_q() == pytest.approx(held, abs=0.03) and b.arm.engaged
    assert sum("holds" in s for s in b.said) == 1  # told once, not 33 times
    b.steps(1, "engage")
    assert b.session.state == "holding" and "not following" in b.said[-1]


def test_a_leader_that_falls_silent_holds_the_follower() -> None:
    arm, device, session, said = _following()
    device.reading = Reading(pose=np.ones(6), age_s=0.55)
    session.step()
    assert session.state == "holding" and "said nothing for 0.55 s" in said[-1]
    device.reading = Reading(pose=np.ones(6))
    session.step()
    assert session.state == "holding"
    assert arm.sent[-1] == pytest.approx(np.zeros(6), abs=0.02) and len(arm.sent) == 3


def test_after_a_pause_the_follower_goes_on_without_a_jump() -> None:
    arm, device, session, said = _following()
    for _ in range(3):
        device.reading = Reading(pose=np.full(6, 0.5), age_s=0.15)
        session.step()
        assert session.state == "driving" and arm.sent[-1] == pytest.approx(np.zeros(6), abs=1e-12)
    device.reading = Reading(pose=np.full(6, 0.5))
    before = arm.sent[-1]
    for _ in range(120):
        session.step()
        assert np.abs(arm.sent[-1] - before).max() <= 0.8 / HZ + 1e-9
        before = arm.sent[-1]
    assert arm.sent[-1] == pytest.approx(np.full(6, 0.5), abs=1e-6) and len(said) == 1


def test_space_holds_and_a_second_time_lets_go(bench: Callable[..., Bench]) -> None:
    b = bench(waves(0.07))
    b.steps(60, "engage")
    b.steps(1, "stop")
    held = b.true_q()
    b.steps(20)
    assert b.session.state == "holding" and b.arm.engaged
    assert b.true_q()[:5] == pytest.approx(held[:5], abs=0.06)  # what it lagged behind
    b.steps(2, "stop")
    assert b.session.state == "limp" and not b.arm.engaged
    b.steps(1, "engage")
    assert b.session.state == "driving"
    b.steps(5)
    assert b.arm.engaged


def test_a_fault_of_the_arm_is_told_and_only_a_reset_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench(still)
    b.steps(30, "engage")
    b.emulator.inject("mute:elbow_flex")
    b.steps(12)
    assert b.session.state == "holding" and any("elbow_flex" in s and "f releases" in s for s in b.said)
    b.emulator.heal()
    b.steps(1, "engage")
    assert b.session.state == "holding" and "not following" in b.said[-1]
    b.steps(3, "reset")
    b.steps(3, "engage")
    assert b.session.state == "driving" and b.arm.fault is None


def test_pulling_the_followers_cable_ends_the_session_with_a_sentence(bench: Callable[..., Bench]) -> None:
    b = bench(waves(0.07))
    b.steps(60, "engage")
    b.emulator.unplug()
    with pytest.raises(PortLost, match="hold their last goal"):
        b.steps(30)


# ---- the session, without an arm


class FakeArm:
    """A ``Robot`` that obeys at once."""

    spec = SO101
    control_hz = HZ
    camera_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        from hardware.robot import Observation
        from hardware.safety import Applied

        self._observation, self._applied = Observation, Applied
        self.q = np.zeros(6)
        self.sent: list[np.ndarray] = []
        self.fault: str | None = None

    def observe(self, cameras: Any = ()) -> Any:
        return self._observation(0.0, self.q.copy(), self.q.copy())

    def act(self, target: np.ndarray, *, made_s: float | None = None) -> Any:
        self.q = np.array(target)
        self.sent.append(self.q)
        return self._applied(self.q, "pass")

    def reset_fault(self) -> None:
        self.fault = None

    def close(self) -> None:
        pass


class FakeDevice:
    """A ``Device`` that says what it is told to."""

    name = "fake"

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def read(self) -> Reading:
        return self.reading

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


def _session(arm: Any, device: Any, **more: Any) -> tuple[Session, list[str]]:
    clock, said = Clock(), list[str]()
    return Session(arm, device, pacer=Pacer(HZ, clock=clock, sleep=clock.sleep), say=said.append, **more), said


def _following() -> tuple[FakeArm, FakeDevice, Session, list[str]]:
    """A session that has followed a hand at rest for one period."""
    arm, device = FakeArm(), FakeDevice(Reading(pose=np.zeros(6)))
    session, said = _session(arm, device)
    session.engage()
    session.step()
    return arm, device, session, said


def test_a_jog_moves_at_its_speed_and_never_runs_ahead_of_what_was_sent() -> None:
    arm = FakeArm()
    device = FakeDevice(Reading(rate=Rate(joints=np.array([1.0, 0, 0, 0, 0, 0]))))
    session, said = _session(arm, device)
    device.reading = Reading(rate=device.reading.rate, keys=("engage",))
    session.step()
    device.reading = Reading(rate=device.reading.rate)
    session.run(seconds=1.0)
    assert arm.q[0] == pytest.approx(0.5 * 61 / 60, abs=1e-6)
    device.reading = Reading(rate=Rate(), keys=("slower", "quit"))
    assert not session.step()
    assert "80%" in said[-1]


def test_an_arm_without_torque_to_switch_off_says_so_and_holds() -> None:
    session, said = _session(FakeArm(), FakeDevice(Reading(rate=Rate())))
    session.engage()
    session.step()
    session._obey("stop")
    session._obey("stop")
    assert session.state == "holding" and "no torque" in said[-1]
    session._obey("record")
    assert "--record" in said[-1]


def test_the_pace_is_kept_and_lateness_counted() -> None:
    clock = Clock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    for _ in range(10):
        clock.now += 0.005  # work
        pacer.wait()
    assert clock.now == pytest.approx(0.2) and pacer.rate_hz == pytest.approx(50.0) and pacer.late == 0
    clock.now += 0.1
    pacer.wait()
    assert pacer.late == 1
    pacer.wait()
    assert clock.now == pytest.approx(0.32)


def test_the_status_says_rate_age_and_verdicts() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, clock = Screen(), Clock()
    line = StatusLine(screen, clock=clock)
    status = Status("driving", 59.96, 0.004, 0.01, (10, 2, 1), "faster than the joint limits", "REC 7")
    line.show(status)
    line.show(status)  # too soon to be shown again
    text = screen.getvalue()
    assert text.count("\r") == 1
    for part in ("driving", "60.0 Hz", "age   4 ms", "pass 10 clamp 2 reject 1", "REC 7", "faster than"):
        assert part in text
    quiet = io.StringIO()
    plain = StatusLine(quiet)
    plain.show(status)
    plain.say("HOLD")
    plain.close()
    assert quiet.getvalue() == "HOLD\n"


# ---- leaders


def test_a_leader_that_is_none_or_is_not_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RigError, match="is a follower"):
        LeaderArm(load_rig("so101"))
    command = ["teleop", "sim", "--with", "leader", "--leader", "so101_leader", "--seconds", "1", "--engage"]
    assert main(command) == 2
    assert "embodied robot calibrate so101_leader" in capsys.readouterr().err


@pytest.mark.parametrize("rig", ["so101_leader", "koch_leader"])
def test_an_emulated_leader_shows_the_pose_of_the_hand_whatever_its_gears(rig: str) -> None:
    spec = load_rig(rig).spec
    pose = 0.5 * (spec.home + 0.5 * (spec.lower + spec.upper))
    device = EmulatedLeader(rig, hand=lambda at_s: pose)
    try:
        deadline = time.monotonic() + 60.0
        while np.abs(np.asarray(device.read().pose) - pose).max() > 0.01 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert device.read().pose == pytest.approx(pose, abs=0.01)
        assert device.arm.rig.bus.silence_s >= 0.5  # a pause is no loss
        device.emulator.unplug()
        with pytest.raises(DeviceLost, match="leader"):
            while time.monotonic() < deadline:
                device.read()
                time.sleep(0.02)
        device.emulator.replug()
        device._rig = device._rig.model_copy(
            update={"bus": device._rig.bus.model_copy(update={"port": device.emulator.port})}
        )
        device.reopen()
        device.reopen()  # it is there: nothing to do
        assert device.read().pose == pytest.approx(pose, abs=0.01)
    finally:
        device.close()
    with pytest.raises(DeviceLost):
        device.read()


# ---- the command, in real time


def _file(folder: Path, emulator: Emulator, name: str = "arm.toml", **bus: Any) -> Path:
    rig = nominal(load_rig(emulator.chain.name), emulator.port)
    # A loaded machine pauses for longer than an arm may be silent; that is not what these tests are about.
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0, **bus})})
    save_rig(rig, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sim", "--hz", "20"], "--hz must be 50 to 200"),
        (["sim", "--record", "x"], "--record needs --task"),
        (["sim", "--seconds", "-1"], "--seconds must be zero or more"),
        (["sim", "--port", "/dev/ttyACM0"], "--port is for a real arm"),
        (["nonsense", "--with", "leader"], "is no rig file"),
        (["so101_leader", "--with", "leader"], "is a leader arm"),
        (["so101", "--with", "leader"], "embodied robot calibrate so101"),
    ],
)
def test_what_cannot_begin_is_said_in_a_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["teleop", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_real_arm_waits_for_a_word_before_it_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = _file(tmp_path, emulator)
        command = ["teleop", str(rig), "--with", "leader", "--leader", "emulated", "--engage", "--seconds", "0.5"]
        before = _true_q(emulator)
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "give --yes" in err and "speed profile: default (joints up to" in err
        assert _true_q(emulator) == pytest.approx(before, abs=0.001)


def test_a_minute_hand_drives_a_rig_in_real_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = _file(tmp_path, emulator)
        command = ["teleop", str(rig), "--with", "leader", "--leader", "emulated", "--engage", "--yes", "--json"]
        before = _true_q(emulator)
        assert main([*command, "--seconds", "1.5"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert 10 <= sum(told["verdicts"].values()) <= 92  # 90, unless the machine is busy
        assert np.abs(_true_q(emulator) - before).max() > 0.05


CHILD = "import sys; from embodied.cli import main; sys.exit(main(sys.argv[1:]))"


DRIVEN = """
import sys, time
import numpy as np
from embodied.robots import open_rig
from embodied.teleop import Session
from hardware.teleop import Reading

class Hand:
    name = "hand"
    begun = time.monotonic()
    def read(self):
        return Reading(pose=np.array([0.6, -0.3, 0.4, 0.5, 0.0, 0.4]) * np.sin(time.monotonic() - self.begun))
    def reopen(self): pass
    def close(self): pass

with open_rig(sys.argv[1], control_hz=60.0) as arm:
    session = Session(arm, Hand())
    session.engage()
    session.run()
"""


def _moving(rig: Path, emulator: Emulator) -> subprocess.Popen[bytes]:
    """A session in a process of its own, once it moves the arm; its hand is never late, however busy the machine is."""
    before = _true_q(emulator)
    process = subprocess.Popen([sys.executable, "-c", DRIVEN, str(rig)], cwd=ROOT)
    deadline = time.monotonic() + 120.0
    while process.poll() is None and time.monotonic() < deadline:
        if np.abs(_true_q(emulator) - before)[:5].max() >= 0.1:
            return process
        time.sleep(0.005)
    process.kill()
    process.wait(10)
    pytest.fail("it never moved")


def test_kill_9_in_motion_leaves_one_small_step(tmp_path: Path) -> None:
    with Emulator("so101") as emulator:
        rig = _file(tmp_path, emulator)
        process = _moving(rig, emulator)
        process.send_signal(signal.SIGKILL)
        killed = _true_q(emulator)
        goals = np.array(
            [
                STS3215["goal_position"].to_si(servo.registers.get("goal_position") - 2048)
                for servo in emulator.servos.values()
            ]
        )
        process.wait(60)
        assert np.abs(goals - killed)[:5].max() <= 0.7 / HZ + 0.1
        until = emulator.time_s + 1.5
        rest = killed
        while emulator.time_s < until:  # the servos' own time, which goes slowly on a busy machine
            time.sleep(0.3)
            before, rest = rest, _true_q(emulator)
        assert np.abs(rest - killed)[:5].max() <= 0.7 / HZ + 0.1 and rest == pytest.approx(before, abs=0.005)


def _wait_for_torque(emulator: Emulator, seconds: float = 120.0) -> None:
    """Until an arm has been switched on, as long as a busy machine may need for that."""
    deadline = time.monotonic() + seconds
    while not emulator.servos["shoulder_pan"].registers.get("torque_enable") and time.monotonic() < deadline:
        time.sleep(0.02)


def test_an_ordinary_kill_lets_go(tmp_path: Path) -> None:
    with Emulator("so101") as emulator:
        rig = _file(tmp_path, emulator)
        command = ["teleop", str(rig), "--with", "leader", "--leader", "emulated", "--engage", "--yes"]
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            _wait_for_torque(emulator)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
        assert [servo.registers.get("torque_enable") for servo in emulator.servos.values()] == [0] * 6


def test_pulling_the_port_in_motion_ends_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = _file(tmp_path, emulator)
        command = ["teleop", str(rig), "--with", "leader", "--leader", "emulated", "--engage", "--yes"]

        def pull() -> None:
            _wait_for_torque(emulator)
            time.sleep(0.5)
            emulator.unplug()

        puller = threading.Thread(target=pull)
        puller.start()
        assert main([*command, "--seconds", "60"]) == 2
        puller.join()
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embodied: ")]
        assert len(err) == 1 and "hold their last goal" in err[0] and "switch its power off" in err[0]


@pytest.mark.slow
def test_in_real_time_too_the_error_stays_small(tmp_path: Path) -> None:
    said: list[str] = []
    with Emulator("so101") as emulator:
        leader = EmulatedLeader(hand=waves(np.deg2rad(12.0)))
        rig = load_rig(_file(tmp_path, emulator))
        with SerialArm.open(rig, control_hz=HZ, profile="sim") as arm:
            session = Session(arm, leader, say=said.append)
            session.engage()
            session.run(seconds=5.0)
            errors = []
            for _ in range(int(5 * HZ)):
                session.step()
                errors.append(np.abs(_true_q(emulator) - _true_q(leader.emulator))[:5])
        leader.close()
    mean = np.rad2deg(np.mean(errors))
    print(
        f"\nreal time, {session.pacer.rate_hz:.1f} Hz, {session.pacer.late} late: mean joint error {mean:.2f} deg; {said[1:]}"
    )
    assert session.state == "driving", said  # else an arm that stands was measured
    assert mean <= 1.5
