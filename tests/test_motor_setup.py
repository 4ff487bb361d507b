"""New motors: found at any id and rate, one at a time, written only where something differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from arm_in_hand import bus_of, rig_on

from hardware.asking import take_defaults
from hardware.emulator.emulator import Emulator, Pace
from hardware.emulator.hands import Hands
from hardware.handshake import HandshakeError
from hardware.motor_setup import SetupError, apply_settings, joints_from, set_up, setup_order
from hardware.rig import load_rig

ORDER = ("gripper", "wrist_roll", "wrist_flex", "elbow_flex", "shoulder_lift", "shoulder_pan")


@pytest.fixture(params=["so101", "koch"])
def new(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """An arm as it comes out of the box: every motor with the factory's id and baud rate."""
    with Emulator(request.param, pace=Pace("stepped")) as arm:
        for servo in arm.servos.values():
            servo.reset(())
        arm.advance(2.0)
        yield arm


def one_at_a_time(arm: Emulator, asked: list[str] | None = None) -> Callable[..., str]:
    """Connects the motor that is asked for, alone."""
    hands = Hands(arm)

    def ask(question: str, default: str = "") -> str:
        joint = question.removeprefix("Connect the motor of ").split()[0]
        if asked is not None:
            asked.append(joint)
        hands.do(f"alone {joint}")
        arm.advance(2.0)
        return default

    return ask


def _together(arm: Emulator) -> None:
    Hands(arm).do("together")
    arm.advance(2.0)


def test_new_motors_become_an_arm(new: Emulator) -> None:
    asked: list[str] = []
    rig = rig_on(new)
    motors = set_up(rig, setup_order(rig), one_at_a_time(new, asked), lambda words: None)
    assert tuple(asked) == ORDER == tuple(motor.joint for motor in motors)
    assert all("id" in motor.written for motor in motors[:-1]) and "id" not in motors[-1].written
    assert ("baud_rate" in motors[0].written) == (new.chain.name == "koch")
    _together(new)
    new.power_cycle()
    new.advance(2.0)
    with bus_of(new) as bus:
        for joint in rig.joints.values():
            assert bus.identify(joint.id).model_number == joint.model.number
            assert bus.read(joint.id, "return_delay") == 0  # it was kept over the power cut
            if "lock" in joint.model:
                assert bus.read(joint.id, "lock") == 1
    again = apply_settings(rig)
    eeprom = {name: [r for r in regs if rig.joints[name].model[r].storage == "eeprom"] for name, regs in again.items()}
    assert not any(eeprom.values()) and set(eeprom) == set(rig.joints)


def test_a_motor_that_is_set_up_already_is_not_written(new: Emulator) -> None:
    rig = rig_on(new)
    ask = one_at_a_time(new)
    set_up(rig, ("gripper",), ask, lambda words: None)
    saved = new.servos["gripper"].registers.saved
    (motor,) = set_up(rig, ("gripper",), ask, lambda words: None)
    assert motor.written == () and new.servos["gripper"].registers.saved == saved


def test_it_goes_on_after_a_power_cut(new: Emulator) -> None:
    rig, hands = rig_on(new), Hands(new)

    def cut(question: str, default: str = "") -> str:
        joint = question.removeprefix("Connect the motor of ").split()[0]
        hands.do(f"alone {joint}")
        if joint == "elbow_flex":
            new.inject("dead")
        new.advance(2.0)
        return default

    with pytest.raises(SetupError, match=r"elbow_flex: no motor answers .* --begin elbow_flex"):
        set_up(rig, setup_order(rig), cut, lambda words: None)
    new.heal("dead")
    rest = joints_from(rig, begin="elbow_flex")
    assert rest == ORDER[3:]
    set_up(rig, rest, one_at_a_time(new), lambda words: None)
    _together(new)
    with bus_of(new) as bus:
        assert [bus.identify(k).id for k in range(1, 7)] == [1, 2, 3, 4, 5, 6]


def test_an_id_that_was_given_before_the_baud_rate_was_is_gone_on_with() -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        arm.inject("baud:gripper=38400")
        arm.advance(0.1)
        rig = rig_on(arm)
        (motor,) = set_up(rig, ("gripper",), one_at_a_time(arm), lambda words: None)
        assert motor.was.baud == 38_400 and "baud_rate" in motor.written and "id" not in motor.written


def test_two_motors_at_once_are_refused() -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        rig = rig_on(arm)
        with pytest.raises(SetupError, match=r"more than one motor answers \(ids 1, 2, 3, 4, 5, 6\)"):
            set_up(rig, ("gripper",), take_defaults, lambda words: None)
        saved = {joint: servo.registers.saved for joint, servo in arm.servos.items()}
        arm.inject(",".join(f"dead:{joint}" for joint in ORDER[2:]))
        arm.inject("poke.5:gripper=1,poke.5:wrist_roll=1")
        arm.hold({"gripper": 0.5, "wrist_roll": -0.3})
        arm.advance(2.0)
        with pytest.raises(SetupError, match="gripper: (two motors answer to id 1|more than one)"):
            set_up(rig, ("gripper",), take_defaults, lambda words: None)
        assert saved["elbow_flex"] == arm.servos["elbow_flex"].registers.saved
        assert arm.servos["gripper"].registers.get("id") == 1  # not written


def test_a_wrong_motor_is_refused() -> None:
    with Emulator("koch", pace=Pace("stepped")) as arm:
        Hands(arm).do("alone shoulder_pan")
        arm.advance(1.0)
        with pytest.raises(
            SetupError, match=r"gripper: the motor is a xl430-w250, not a xl330-m288; connect the right"
        ):
            set_up(rig_on(arm), ("gripper",), take_defaults, lambda words: None)
        so101 = load_rig("so101")
        rig = so101.model_copy(update={"bus": so101.bus.model_copy(update={"port": arm.port})})
        with pytest.raises(SetupError, match="is a xl430-w250, not a sts3215"):
            set_up(rig, ("gripper",), take_defaults, lambda words: None)


def test_a_motor_that_holds_is_let_go_before_it_is_changed() -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        with bus_of(arm) as bus:
            bus.write(6, "torque_enable", 1)
        set_up(rig_on(arm), ("gripper",), one_at_a_time(arm), lambda words: None)
        assert arm.servos["gripper"].registers.get("torque_enable") == 0


def test_joints_that_do_not_exist() -> None:
    rig = load_rig("so101")
    assert joints_from(rig, only=("elbow_flex",)) == ("elbow_flex",)
    with pytest.raises(SetupError, match="no joint 'tail'; it has, in this order: gripper, wrist_roll"):
        joints_from(rig, begin="tail")
    with pytest.raises(SetupError, match="no joint 'tail'"):
        joints_from(rig, only=("tail",))


def test_together_checks_before_it_writes() -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        rig = rig_on(arm)
        arm.inject("dead:elbow")
        arm.advance(0.1)
        with pytest.raises(HandshakeError, match="elbow_flex: servo 3 does not answer"):
            apply_settings(rig)
        arm.heal("dead")
        arm.inject("poke.5:elbow=2x1")
        arm.hold({"elbow_flex": 0.4})
        arm.advance(2.0)
        with pytest.raises((HandshakeError, SetupError)):
            apply_settings(rig)
        assert all(servo.registers.get("return_delay") == 250 for servo in arm.servos.values())
