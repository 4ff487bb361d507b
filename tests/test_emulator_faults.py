"""The fault vocabulary: as text, and what each word does. Every word is tried off and on."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servo_client import STEPPED, Client, dynamixel_client, feetech_client

from hardware.emulator.emulator import Emulator
from hardware.emulator.faults import WORDS, Fault, FaultPlan, Injector, vocabulary
from hardware.errors import RobotError
from hardware.servo import dynamixel, feetech

# Text ------------------------------------------------------------------------------------------------------------------


def test_a_plan_from_text() -> None:
    plan = FaultPlan.parse("drop=0.005, corrupt=0.01,unplug@3.0,freeze:elbow@2-4,delay=0.05~0.1,corrupt.12:3@1x1")
    assert plan.faults == (
        Fault("drop", p=0.005),
        Fault("corrupt", p=0.01),
        Fault("unplug", at_s=3.0),
        Fault("freeze", "elbow", 2.0, 4.0),
        Fault("delay", value=0.05, p=0.1),
        Fault("corrupt", "3", 1.0, index=12, times=1),
    )
    assert FaultPlan.parse(str(plan)) == FaultPlan(tuple(plan.faults))
    assert FaultPlan.parse("").faults == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode", "no fault is called 'explode'"),
        ("drop=2", "from 0 to 1"),
        ("freeze=3", "takes no value"),
        ("freeze@4-2", "end after that"),
        ("poke=3", "needs its address"),
        ("freeze.3", "takes no index"),
        ("drop==1", "is no fault; write"),
        ("drop=1.2.3", "a number is not one"),
    ],
)
def test_nonsense_is_refused_with_a_hint(text: str, words: str) -> None:
    with pytest.raises(RobotError, match=words):
        FaultPlan.parse(text)


def test_a_fault_for_a_joint_that_is_not_there_is_refused() -> None:
    with pytest.raises(RobotError, match="no 'tail' here; there are: shoulder_pan"):
        Emulator("so101", faults=FaultPlan.parse("freeze:tail"))
    with Emulator("so101", pace=STEPPED) as arm, pytest.raises(RobotError, match="no 'tail'"):
        arm.inject("freeze:tail")


@given(
    st.builds(
        Fault,
        kind=st.sampled_from(
            [k for k, w in WORDS.items() if w.index and w.value not in ("", "probability")] or ["poke"]
        ),
        target=st.sampled_from(["", "elbow", "3"]),
        at_s=st.integers(0, 50).map(float),
        value=st.integers(-999, 999).map(float),
        index=st.integers(0, 99),
        times=st.none() | st.integers(1, 9),
    )
)
def test_text_and_plan_are_the_same_thing(fault: Fault) -> None:
    assert FaultPlan.parse(str(fault)).faults == (fault,)


@given(st.text(max_size=30))
def test_any_text_is_a_plan_or_a_sentence(text: str) -> None:
    try:
        FaultPlan.parse(text)
    except RobotError as error:
        assert str(error)


def test_the_vocabulary_names_every_word() -> None:
    assert [line.split()[0] for line in vocabulary().splitlines()] == list(WORDS)


def test_a_span_that_was_slept_through_is_noticed_once() -> None:
    injector = Injector(FaultPlan.parse("unplug@1-2"))
    assert injector.begun("unplug", 0.5) is None
    assert injector.begun("unplug", 3.0) is not None
    assert injector.begun("unplug", 3.1) is None
    injector = Injector(FaultPlan.parse("unplug@1-2"))
    assert injector.begun("unplug", 1.5) is injector.begun("unplug", 1.6) is not None
    assert injector.begun("unplug", 2.5) is None


def test_draws_repeat_with_the_seed_and_match_their_probability() -> None:
    def draws(seed: int) -> list[bool]:
        injector = Injector(FaultPlan.parse("drop=0.2", seed))
        return [injector.strike("drop", 0.0) is not None for _ in range(2000)]

    assert draws(1) == draws(1) != draws(2)
    assert 0.17 < np.mean(draws(3)) < 0.23


# Replies ---------------------------------------------------------------------------------------------------------------

REQUEST = feetech.encode(feetech.read(3, 56, 2))
HEALTHY = feetech.encode(feetech.Packet(3, 0, b"\x00\x08"), "status")


def _changed(test: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    return lambda heard: heard != HEALTHY and test(heard)


def _valid(heard: bytes) -> list[feetech.Packet]:
    return feetech.Parser("status").feed(heard)


REPLIES: dict[str, Callable[[bytes], bool]] = {
    "drop": lambda heard: heard == b"",
    "lose_byte.4": lambda heard: heard == HEALTHY[:4] + HEALTHY[5:],
    "lose_byte": lambda heard: len(heard) == 7,
    "corrupt.43": lambda heard: heard == HEALTHY[:5] + bytes((HEALTHY[5] ^ 8,)) + HEALTHY[6:],
    "corrupt": lambda heard: sum(bin(a ^ b).count("1") for a, b in zip(heard, HEALTHY, strict=True)) == 1,
    "swap": lambda heard: _valid(heard)[0].params == b"\x08\x00",
    "forge.10": lambda heard: _valid(heard)[0].params == b"\x00\x0c",
    "wrong_id.5": lambda heard: _valid(heard)[0].id == 5,
    "wrong_id": lambda heard: _valid(heard)[0].id != 3,
    "duplicate_id": lambda heard: _valid(heard) == [] and len(heard) == 8,
    "duplicate": lambda heard: heard == HEALTHY * 2,
    "garbage.9": lambda heard: heard.endswith(HEALTHY) and len(heard) in (8 + 7, 8 + 9),
    "truncate.3": lambda heard: heard == HEALTHY[:3],
    "error.5": lambda heard: _valid(heard)[0].code == 0x20,
    "echo": lambda heard: heard == REQUEST + HEALTHY,
    "echo.3": lambda heard: heard == REQUEST[:3] + HEALTHY,
    "contention": lambda heard: heard.endswith(HEALTHY) and len(heard) == 16 and not heard.startswith(REQUEST),
    "lose_request": lambda heard: heard == b"",
    "mute:elbow": lambda heard: heard == b"",
    "dead:elbow": lambda heard: heard == b"",
}


@pytest.mark.parametrize("text", REPLIES)
def test_what_a_fault_makes_of_a_reply(text: str) -> None:
    with Emulator("so101", pace=STEPPED) as arm, feetech_client(arm) as client:
        arm.advance(0.1)
        assert client.raw(REQUEST, 8) == HEALTHY  # off
        arm.inject(text)
        arm.advance(0.1)
        assert _changed(REPLIES[text])(client.raw(REQUEST, 99, wait_s=0.04))  # on
        arm.heal()
        arm.advance(1.0)
        assert client.raw(REQUEST, 8) == HEALTHY  # and off again


def test_a_late_reply_comes_after_the_question_has_been_given_up() -> None:
    with Emulator("so101", pace=STEPPED) as arm, feetech_client(arm) as client:
        arm.inject("delay=0.1x1")
        begin = time.monotonic()
        assert client.raw(REQUEST, 8, wait_s=0.03) == b""
        heard = b""
        while len(heard) < 8 and time.monotonic() < begin + 2.0:
            heard += client.serial.read(8)
        assert heard == HEALTHY
        assert time.monotonic() - begin >= 0.1
        assert client.raw(REQUEST, 8, wait_s=0.5) == HEALTHY


def test_lost_writes_leave_reads_alive() -> None:
    with Emulator("so101", pace=STEPPED) as arm, feetech_client(arm) as client:
        arm.inject("lose_write")
        client.ask(feetech.sync_write(42, {3: b"\x00\x09"}), 0, 0.0)
        assert client.get(arm, 3, "goal_position") == 0
        arm.heal()
        client.ask(feetech.sync_write(42, {3: b"\x00\x09"}), 0, 0.0)
        assert client.get(arm, 3, "goal_position") == 0x900


def test_a_reply_bit_can_be_the_alert_of_a_dynamixel() -> None:
    with (
        Emulator("koch", pace=STEPPED, faults=FaultPlan.parse("error.7:elbow")) as arm,
        dynamixel_client(arm) as client,
    ):
        (reply,) = client.ask(dynamixel.read(3, 132, 4))
        assert (reply.code, reply.params) == (0x80, struct.pack("<i", 2048))
        assert client.ask(dynamixel.ping(1))[0].code == 0


# Servos ----------------------------------------------------------------------------------------------------------------


def _moving(arm: Emulator, client: Client) -> None:
    """All joints are on their way from 2048 to 2348 and back to 2048 at 100 counts a second."""
    for id_ in range(1, 7):
        client.put(arm, id_, "goal_velocity", 100)
        client.put(arm, id_, "goal_position", 2348)
        client.put(arm, id_, "torque_enable", 1)


def _look(arm: Emulator, client: Client, seconds: float, name: str) -> int:
    arm.advance(seconds)
    return client.get(arm, 3, name)


@pytest.fixture
def moving():
    with Emulator("so101", pace=STEPPED) as arm, feetech_client(arm) as client:
        _moving(arm, client)
        assert _look(arm, client, 1.0, "present_position") == pytest.approx(2148, abs=12)
        yield arm, client


def test_freeze_answers_with_old_values(moving) -> None:
    arm, client = moving
    arm.inject("freeze:elbow")
    arm.advance(0.1)
    before = client.get(arm, 3, "present_position")
    client.put(arm, 3, "goal_position", 1000)
    assert _look(arm, client, 1.0, "present_position") == before
    assert arm.angles()["elbow_flex"] < 0.3 < arm.angles()["wrist_flex"]
    assert arm.servos["elbow_flex"].registers.get("goal_position") == 2348


def test_block_lets_the_load_rise_until_the_protection_acts(moving) -> None:
    arm, client = moving
    arm.inject("block:elbow")
    stuck = _look(arm, client, 0.1, "present_position")
    assert _look(arm, client, 1.5, "present_position") == stuck
    assert client.get(arm, 3, "present_load") > 900
    assert _look(arm, client, 2.5, "hardware_error") == feetech.Error.OVERLOAD
    assert client.ask(feetech.ping(3))[0].code == feetech.Error.OVERLOAD
    assert client.ask(feetech.ping(4))[0].code == 0


def test_overload_without_any_motion(moving) -> None:
    arm, client = moving
    arm.inject("overload:elbow")
    assert _look(arm, client, 1.0, "hardware_error") == 0
    assert _look(arm, client, 1.5, "hardware_error") == feetech.Error.OVERLOAD


def test_overheat_ramps_and_lets_go_of_the_joint(moving) -> None:
    arm, client = moving
    arm.inject("overheat:elbow=80")
    warm = _look(arm, client, 4.0, "present_temperature")
    assert 43 <= warm <= 47
    assert client.get(arm, 3, "hardware_error") == 0
    assert _look(arm, client, 6.0, "hardware_error") == feetech.Error.OVERHEAT
    assert arm.servos["elbow_flex"].drive.mode == "free"
    assert client.ask(feetech.ping(4))[0].code == 0


def test_a_sag_ends(moving) -> None:
    arm, client = moving
    now = arm.time_s
    arm.inject(f"sag@{now:.3f}-{now + 0.5:.3f}=3.5")
    assert _look(arm, client, 0.1, "present_voltage") == pytest.approx(35, abs=2)
    assert client.ask(feetech.ping(3))[0].code == feetech.Error.VOLTAGE
    assert _look(arm, client, 0.6, "present_voltage") == pytest.approx(73, abs=2)
    assert client.ask(feetech.ping(3))[0].code == 0


def test_an_encoder_jump_for_one_sample_and_for_good(moving) -> None:
    arm, client = moving
    here = client.get(arm, 3, "present_position")
    arm.inject("jump:elbow=700")
    assert _look(arm, client, 0.002, "present_position") == pytest.approx(here + 700, abs=5)
    arm.heal()
    assert _look(arm, client, 0.002, "present_position") == pytest.approx(here, abs=20)
    arm.inject("jump:elbow=-2200")
    assert _look(arm, client, 0.002, "present_position") > 3900  # past the seam


def test_torque_that_cannot_be_switched_on(moving) -> None:
    arm, client = moving
    arm.inject("stuck_off:elbow")
    assert _look(arm, client, 0.1, "torque_enable") == 0
    client.put(arm, 3, "torque_enable", 1)
    assert _look(arm, client, 0.1, "torque_enable") == 0
    assert client.get(arm, 4, "torque_enable") == 1


def test_a_worn_gear_lags_behind(moving) -> None:
    arm, client = moving
    arm.inject("backlash:elbow=6")
    arm.advance(0.5)
    lag_deg = math.degrees(arm.angles()["elbow_flex"]) - (client.get(arm, 3, "present_position") - 2048) * 360 / 4096
    assert lag_deg == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(
    ("text", "name", "after"),
    [
        ("reboot:elbow@1", "torque_enable", 0),
        ("reboot:elbow@1", "goal_position", 0),
        ("factory:elbow@1", "goal_velocity", 0),
        ("torque_off:elbow@1", "torque_enable", 0),
        ("torque_off:elbow@1", "goal_position", 2348),
        ("poke.33:elbow@1=3", "operating_mode", 3),
        ("poke.3:elbow@1=1234", "model_number", 1234),
    ],
)
def test_what_happens_once(text: str, name: str, after: int) -> None:
    with Emulator("so101", pace=STEPPED, faults=FaultPlan.parse(text)) as arm, feetech_client(arm) as client:
        _moving(arm, client)
        before = client.get(arm, 3, name)
        assert (before == after) == (text.startswith("torque_off") and name == "goal_position")
        arm.advance(2.0)
        assert client.get(arm, 3, name) == after
        assert client.get(arm, 4, "torque_enable") == 1
        assert arm.injector.counts[text.split(":")[0].split(".")[0]] == 1
        client.put(arm, 3, "torque_enable", 1)
        arm.advance(1.0)
        assert client.get(arm, 3, "torque_enable") == 1  # it happened once


def test_a_servo_at_another_baud_rate_hears_only_that_rate() -> None:
    with Emulator("so101", pace=STEPPED, faults=FaultPlan.parse("baud:elbow=115200")) as arm:
        arm.advance(0.1)
        with feetech_client(arm) as client:
            assert client.silence(feetech.ping(3))
            assert client.ask(feetech.ping(4))
        with feetech_client(arm, 115_200) as client:
            assert client.ask(feetech.ping(3))[0].id == 3
            assert client.silence(feetech.ping(4))


def test_a_dead_servo_comes_back_as_after_power_on(moving) -> None:
    arm, client = moving
    now = arm.time_s
    arm.inject(f"dead:elbow@{now:.3f}-{now + 0.2:.3f}")
    arm.advance(0.1)
    assert client.silence(feetech.ping(3))
    arm.advance(1.2)
    assert client.get(arm, 3, "torque_enable") == 0


def test_unplug_and_replug_under_the_same_link(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    with Emulator("so101", link=link) as arm:
        first = link.readlink()
        client = feetech_client(arm)
        assert client.raw(REQUEST, 8) == HEALTHY
        arm.inject(f"unplug@{arm.time_s:.3f}-{arm.time_s + 0.3:.3f}")
        end = time.monotonic() + 20.0
        with pytest.raises(OSError):
            while time.monotonic() < end:
                client.raw(REQUEST, 8, wait_s=0.02)
        client.serial.close()
        assert arm.injector.counts["unplug"] == 1
        end = time.monotonic() + 5.0
        while not link.is_symlink() and time.monotonic() < end:
            time.sleep(0.01)
        with feetech_client(arm) as again:
            assert again.raw(REQUEST, 8) == HEALTHY
        assert first.name.isdigit()
        assert arm.injector.counts["unplug"] == 1


def test_every_word_has_been_tried() -> None:
    tried = {text.split(":")[0].split(".")[0] for text in REPLIES} | {
        "delay", "lose_write", "error", "unplug", "freeze", "block", "overload", "overheat", "sag", "jump", "stuck_off",
        "backlash", "reboot", "factory", "torque_off", "poke", "baud",
    }  # fmt: skip
    cameras = {word for word, entry in WORDS.items() if entry.layer == "camera"}  # tests/test_twin.py
    assert tried | cameras == set(WORDS)
