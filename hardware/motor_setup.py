"""New motors for a rig: each gets its id, the rig's baud rate and settings, while it is alone on the line.

Motors come from the factory with one id, so they are set up one at a time, from the gripper to the base. A motor is found
whatever its id and baud rate, so that a setup that was cut off at any point is simply run again: what a motor holds
already is not written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardware.asking import Ask
from hardware.errors import RobotError
from hardware.rig import Joint, Rig
from hardware.servo.bus import Bus, Identity, NoReply
from hardware.servo.port import BusError
from hardware.servo.scan import PROTOCOLS, Found, alone, known_model, scan

#: Ids asked one by one when a broadcast is not understood.
_LIKELY_IDS = range(1, 13)
_STS_ANSWER_ALL = {"status_return_level": 1}


class SetupError(RobotError):
    """A motor cannot be set up; the message says what to do."""


@dataclass(frozen=True)
class Motor:
    """A motor that was set up."""

    joint: str
    was: Found  # how it was found
    written: tuple[str, ...]  # registers that had to be written


def setup_order(rig: Rig) -> tuple[str, ...]:
    """From the gripper to the base: the last motor of the chain first."""
    return tuple(reversed(list(rig.joints)))


def joints_from(rig: Rig, begin: str = "", only: Sequence[str] = ()) -> tuple[str, ...]:
    """Which joints to set up, in order. Raises ``SetupError`` for a joint that the rig does not have."""
    order = setup_order(rig)
    for name in (*only, *([begin] if begin else [])):
        if name not in order:
            raise SetupError(f"{rig.name} has no joint {name!r}; it has, in this order: {', '.join(order)}")
    first = order.index(begin) if begin else 0
    return tuple(name for name in order[first:] if not only or name in only)


def set_up(rig: Rig, joints: Sequence[str], ask: Ask, say: Callable[[str], None]) -> list[Motor]:
    """Set motors up one at a time. Raises ``SetupError`` naming the joint to go on with, ``PortError``."""
    done: list[Motor] = []
    for name in joints:
        joint = rig.joints[name]
        ask(f"Connect the motor of {name} alone ({joint.servo}, to get id {joint.id}), power on, and press Enter")
        try:
            motor = _one_motor(rig, name)
        except BusError as error:
            raise SetupError(f"{name}: {error}. Go on with: --begin {name}") from error
        done.append(motor)
        before = f"was id {motor.was.servos[0].id} at {motor.was.baud} baud"
        changed = f"written: {', '.join(motor.written)}" if motor.written else "nothing to write"
        say(f"{name}: id {joint.id} at {rig.bus.baud} baud ({before}); {changed}")
    return done


def apply_settings(rig: Rig) -> dict[str, tuple[str, ...]]:
    """All motors on the line, with their ids: write the rig's settings where they differ; registers written by joint.

    Raises ``BusError``; ``HandshakeError`` when they are not the rig's motors.
    """
    from hardware.handshake import identify

    models = {joint.id: joint.model for joint in rig.joints.values()}
    with Bus.open(rig.bus.port, models, baud=rig.bus.baud) as bus:
        identify(bus, rig)
        for name, joint in rig.joints.items():
            if not alone(bus, joint.id):
                raise SetupError(
                    f"{name}: two motors seem to answer to id {joint.id}, or the line is bad; check the cables, or set "
                    "the motors up one at a time without --together"
                )
        return {name: tuple(_settings(bus, joint)) for name, joint in rig.joints.items()}


def _one_motor(rig: Rig, name: str) -> Motor:
    joint = rig.joints[name]
    found = _the_only(rig, name)
    here = found.servos[0]
    written: list[str] = []
    with Bus.open(rig.bus.port, {here.id: joint.model}, baud=found.baud) as bus:
        if not alone(bus, here.id):
            raise SetupError(
                f"{name}: two motors answer to id {here.id}, or the line is bad; leave only the motor of {name} connected, "
                f"then go on with: --begin {name}"
            )
        if bus.read(here.id, "torque_enable"):
            bus.write(here.id, "torque_enable", 0)
        if here.id != joint.id:
            _readdress(bus, here, joint)
            written.append("id")
        if found.baud != rig.bus.baud:
            _change_baud(bus, joint, rig.bus.baud)
            written.append("baud_rate")
    with Bus.open(rig.bus.port, {joint.id: joint.model}, baud=rig.bus.baud) as bus:
        bus.identify(joint.id)
        return Motor(name, found, (*written, *_settings(bus, joint)))


def _the_only(rig: Rig, name: str) -> Found:
    """The line with exactly one motor of the right model on it."""
    joint = rig.joints[name]
    mine = joint.model.protocol
    others = tuple(protocol for protocol in PROTOCOLS if protocol != mine)
    lines = scan(rig.bus.port, (mine,), ids=_LIKELY_IDS) or scan(rig.bus.port, others, ids=_LIKELY_IDS)
    servos = [servo for line in lines for servo in line.servos]
    resume = f"then go on with: --begin {name}"
    if len(servos) > 1 or (not servos and lines):
        ids = f" (ids {', '.join(str(servo.id) for servo in servos)})" if servos else ", all at once"
        raise SetupError(
            f"{name}: more than one motor answers{ids}; leave only the motor of {name} connected, {resume}"
        )
    if not servos:
        raise SetupError(
            f"{name}: no motor answers on {rig.bus.port} at any baud rate; check its cable and the power supply, {resume}"
        )
    line = next(line for line in lines if line.servos)
    number = servos[0].model_number
    if number != joint.model.number or line.protocol != joint.model.protocol:
        model = known_model(number, line.protocol)
        what = f"a {model.name}" if model else f"of unknown model {number}"
        raise SetupError(f"{name}: the motor is {what}, not a {joint.servo}; connect the right one, {resume}")
    return line


def _readdress(bus: Bus, here: Identity, joint: Joint) -> None:
    """Give a motor its id; the answer may bear the old id, the new one, or be missed."""
    bus.models[joint.id] = joint.model
    if "lock" in joint.model:
        bus.write(here.id, "lock", 0)
    with contextlib.suppress(NoReply):
        bus.write(here.id, "id", joint.id)
    bus.identify(joint.id)
    if "lock" in joint.model:
        bus.write(joint.id, "lock", 1)


def _change_baud(bus: Bus, joint: Joint, baud: int) -> None:
    """Give a motor its baud rate; from then on this bus does not hear it."""
    code = joint.model.baud_code(baud)
    if "lock" in joint.model:
        bus.write(joint.id, "lock", 0)
    with contextlib.suppress(NoReply):
        bus.write(joint.id, "baud_rate", code)


def _settings(bus: Bus, joint: Joint) -> list[str]:
    """Make a motor hold the rig's settings; leaves its EEPROM locked."""
    wanted = {**(_STS_ANSWER_ALL if joint.model.protocol == "feetech" else {}), **joint.settings}
    written = [
        name
        for name, value in sorted(wanted.items(), key=lambda item: item[0] != "operating_mode")
        if bus.ensure(joint.id, name, value)
    ]
    if "lock" in joint.model and bus.read(joint.id, "lock") == 0:
        bus.write(joint.id, "lock", 1)
    return written
