"""``embodied robot info|doctor|release``: read everything, judge it, make an arm limp."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from embodied.commands.output import print_json
from embodied.commands.robot_rig import rig_at, wide_console

if TYPE_CHECKING:
    from rich.console import Console

    from hardware.arm_report import ArmReport, ServoReport
    from hardware.play import Play
    from hardware.rig import Joint, Rig

DONE, FAILED = 0, 1
_RigWord = Annotated[str, arg(metavar="RIG")]


@dataclass(frozen=True)
class Info:
    """Everything that an arm's servos tell, as a table. Reads only."""

    rig: Positional[_RigWord]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    port: str = ""
    """The serial port; the rig file's when left out."""
    json: bool = False
    """Print all registers as one JSON object on the last line."""


@dataclass(frozen=True)
class Doctor:
    """Say what is wrong with an arm and what to do about it. Reads only, unless --play."""

    rig: Positional[_RigWord]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    port: str = ""
    """The serial port; the rig file's when left out."""
    play: tuple[str, ...] = ()
    """Measure the play of these joints (all: every joint): each is held where it stands while you rock it gently."""
    play_s: float = 4.0
    """--play: seconds per joint."""
    udev: bool = False
    """Print a udev rule for this adapter: a lasting name, the group dialout, no latency."""
    yes: bool = False
    """Ask nothing."""
    answers: Path | None = None
    """Take the answers from this file, one a line (an empty line is Enter)."""
    json: bool = False
    """Print the findings as one JSON object on the last line."""


@dataclass(frozen=True)
class Release:
    """Make every joint of an arm limp that a program left holding."""

    rig: Positional[_RigWord]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    port: str = ""
    """The serial port; the rig file's when left out."""
    json: bool = False
    """Print which joints are limp as one JSON object on the last line."""


def info(command: Info) -> int:
    """Exit status: 0 every servo was read, 1 some were not. Raises ``EmbodiedError``."""
    from hardware.arm_report import read_arm

    rig = rig_at(command.rig, command.port)
    console = wide_console(command.json)
    report = read_arm(rig)
    port = report.port
    console.print(f"{rig.name} ({rig.arm}, {rig.role}) on {port.usb} at {rig.bus.baud} baud", markup=False)
    if not report.servos:
        console.print(
            f"{port.error or 'the port cannot be used'}; see: embodied robot doctor {command.rig}", markup=False
        )
    else:
        _show(rig, report, console)
    if command.json:
        print_json(_as_json(rig, report))
    return DONE if report.complete else FAILED


def doctor(command: Doctor) -> int:
    """Exit status: 0 no problems, 1 problems. Raises ``EmbodiedError``."""
    from hardware.arm_report import read_arm
    from hardware.doctor import diagnose
    from hardware.port_advice import udev_rules

    rig = rig_at(command.rig, command.port)
    console = wide_console(command.json)
    with console.status("reading the arm"):
        report = read_arm(rig)
    findings = diagnose(rig, report)
    rules = udev_rules(report.port, rig.name)
    if command.udev:
        console.print(rules or "No USB device is behind this port, so there is no rule for it.", markup=False)
    plays = _plays(command, rig, report, console) if command.play else []
    for finding in findings:
        console.print(f"{finding.kind:8} {finding}", markup=False)
    problems = sum(finding.kind == "problem" for finding in findings) + sum(play.worn for play in plays)
    remarks = sum(finding.kind == "remark" for finding in findings)
    console.print(f"{rig.name}: {problems} problems, {remarks} remarks")
    if command.json:
        print_json({
            "problems": problems, "findings": [asdict(finding) for finding in findings], "udev": rules,
            "play_degrees": {play.joint: round(play.degrees, 2) for play in plays},
        })  # fmt: skip
    return FAILED if problems else DONE


def release(command: Release) -> int:
    """Exit status: 0 every joint is limp, 1 some may still hold. Raises ``EmbodiedError``."""
    import contextlib

    from hardware import handshake
    from hardware.servo.bus import Bus
    from hardware.servo.port import BusError

    rig = rig_at(command.rig, command.port)
    console = wide_console(command.json)
    with Bus.open(rig.bus.port, {j.id: j.model for j in rig.joints.values()}, baud=rig.bus.baud) as bus:
        failed = bus.torque_off()
        with contextlib.suppress(BusError):
            handshake.clear_watchdog(bus)
    limp: dict[str, str] = {name: failed.get(joint.id, "") for name, joint in rig.joints.items()}
    for name, why in limp.items():
        console.print(f"{name}: {'may still hold: ' + why if why else 'limp'}", markup=False)
    if failed:
        console.print("Support the arm and switch its power off.")
    if command.json:
        print_json(
            {"limp": [name for name, why in limp.items() if not why], "failed": {n: w for n, w in limp.items() if w}}
        )
    return FAILED if failed else DONE


def _plays(command: Doctor, rig: Rig, report: ArmReport, console: Console) -> list[Play]:
    from embodied.commands.asking import answers
    from hardware.errors import EmbodiedError
    from hardware.play import SOUND_DEG, measure_play
    from hardware.servo.bus import Bus

    joints = tuple(rig.joints) if command.play == ("all",) else command.play
    unknown = [name for name in joints if name not in rig.joints]
    if unknown:
        raise EmbodiedError(f"{rig.name} has no joint {unknown[0]!r}; it has: {', '.join(rig.joints)}, or all")
    if not report.complete:
        raise EmbodiedError("play is measured on a complete arm only; see to the other findings first (without --play)")
    ask = answers(console, command.yes, command.answers)
    plays = []
    with Bus.open(rig.bus.port, {j.id: j.model for j in rig.joints.values()}, baud=rig.bus.baud) as bus:
        for name in joints:
            ask(
                f"{name}: support the arm. Its motor holds for {command.play_s:g} s; rock the joint gently. Press Enter"
            )
            play = measure_play(bus, rig, name, command.play_s)
            plays.append(play)
            word = "problem " if play.worn else "fine    "
            advice = (
                f"; more than {SOUND_DEG:g}: tighten the horn's screw, and if that does not help, change the worn gear"
                if play.worn
                else ""
            )
            console.print(f"{word} {name}: it gives way by {play.degrees:.1f} degrees{advice}", markup=False)
    return plays


def _show(rig: Rig, report: ArmReport, console: Console) -> None:
    from rich.table import Table

    table = Table("joint", "id", "servo", "firmware", "count", "angle", "volts", "degC", "load", "torque", "faults")
    for servo in report.servos:
        table.add_row(servo.joint, str(servo.id), *_cells(rig, servo))
    console.print(table)


def _cells(rig: Rig, servo: ServoReport) -> list[str]:
    if servo.identity is None:
        return ["no answer", *[""] * 8]
    name = servo.model.name if servo.model is not None else f"model {servo.identity.model_number}"
    reading = servo.reading
    if reading is None:
        return [name, servo.identity.firmware, *[""] * 7]
    angle = _angle(rig, servo.joint, rig.joints[servo.joint], reading.position)
    return [
        name, servo.identity.firmware, str(reading.position), angle, f"{reading.voltage:.1f}",
        f"{reading.temperature:.0f}", f"{reading.load * 100:.0f} %",
        "on" if servo.registers.get("torque_enable") else "off", ", ".join(reading.faults),
    ]  # fmt: skip


def _angle(rig: Rig, name: str, joint: Joint, count: int) -> str:
    """A joint's angle in degrees, the gripper's opening in per cent; nothing before calibration."""
    if rig.uncalibrated:
        return "-"
    from hardware.joint_map import JointMap

    mapping = JointMap(rig)
    counts = dict.fromkeys(mapping.ids, count)
    value = float(mapping.q(counts)[list(rig.joints).index(name)])
    return f"{value * 100:.0f} %" if name == "gripper" else f"{math.degrees(value):.1f}"


def _as_json(rig: Rig, report: ArmReport) -> dict[str, Any]:
    return {
        "rig": rig.name,
        "arm": rig.arm,
        "port": {**asdict(report.port), "adapter": report.port.usb.adapter},
        "calibrated": not rig.uncalibrated,
        "joints": {servo.joint: _servo_json(servo) for servo in report.servos},
    }


def _servo_json(servo: ServoReport) -> dict[str, Any]:
    identity, reading = servo.identity, servo.reading
    return {
        "id": servo.id,
        "model": servo.model.name if servo.model is not None else None,
        "firmware": identity.firmware if identity is not None else None,
        "reading": None if reading is None else reading._asdict(),
        "answered": servo.answered,
        "asked": servo.asked,
        "registers": dict(servo.registers),
    }
