"""``embodied robot find``: which serial port is an arm, which servos answer there, and which rig fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embodied.commands.output import print_json
from embodied.commands.robot_rig import wide_console
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from rich.console import Console

    from hardware.find_ports import UsbPort
    from hardware.servo.scan import Found

DONE, FAILED = 0, 1
_ALL_IDS = range(253)
_USUAL_IDS = range(1, 13)


@dataclass(frozen=True)
class Find:
    """Find arms: serial ports by their USB identity, the servos that answer there, and the rigs that fit."""

    port: tuple[str, ...] = ()
    """Look only at these ports; all with a USB device behind them when left out."""
    unplug: bool = False
    """Find the port by pulling its cable and plugging it in again."""
    thorough: bool = False
    """Try every id at every baud rate of both protocols (minutes); else the usual ones, until somebody answers."""
    yes: bool = False
    """Ask nothing."""
    answers: Path | None = None
    """Take the answers from this file, one a line (an empty line is Enter)."""
    json: bool = False
    """Print what was found as one JSON object on the last line."""


def run(command: Find) -> int:
    """Exit status: 0 servos answer on a port, 1 none do. Raises ``EmbodiedError``."""
    console = wide_console(command.json)
    ports = _ports(command, console)
    if not ports:
        console.print(
            "No serial port with a USB device behind it. Is the cable in? Network ports: --port socket://host:port"
        )
    found = [_look(command, port, console) for port in ports]
    if command.json:
        print_json({"ports": found})
    return DONE if any(line["servos"] for port in found for line in port["lines"]) else FAILED


def _ports(command: Find, console: Console) -> Sequence[UsbPort]:
    from embodied.commands.asking import answers
    from hardware.find_ports import describe, find_by_plugging, usb_ports

    if command.unplug:
        if command.port:
            raise EmbodiedError("--unplug finds the port; leave --port out")
        return [find_by_plugging(answers(console, command.yes, command.answers))]
    return [describe(port) for port in command.port] if command.port else usb_ports()


def _look(command: Find, port: UsbPort, console: Console) -> dict[str, Any]:
    from hardware.find_ports import fitting_rigs
    from hardware.servo.port import BusError
    from hardware.servo.scan import scan

    console.print(str(port), markup=False)
    if port.stable:
        console.print(f"  its lasting name: {port.stable}", markup=False)
    told: dict[str, Any] = {
        "device": port.device, "stable": port.stable, "adapter": port.adapter, "usb_serial": port.serial,
        "usb": None if port.vendor is None else f"{port.vendor:04x}:{port.product or 0:04x}",
        "lines": [], "rigs": [], "error": "",
    }  # fmt: skip
    try:
        with console.status(f"asking at {port.device}"):
            lines = scan(port.device, ids=_ALL_IDS if command.thorough else _USUAL_IDS, thorough=command.thorough)
    except BusError as error:
        console.print(f"  {error}", markup=False)
        return {**told, "error": str(error)}
    for line in lines:
        told["lines"].append(_told(line, console))
    servos = [servo for line in lines for servo in line.servos]
    fits = fitting_rigs(servos) if servos else []
    told["rigs"] = [{"rig": fit.rig, "missing": list(fit.missing)} for fit in fits]
    if not lines:
        console.print("  nobody answers; is the arm's power supply on?")
    elif fits:
        whole = [fit.rig for fit in fits if not fit.missing]
        words = [f"{fit.rig} without {', '.join(fit.missing)}" for fit in fits if fit.missing]
        console.print(f"  rigs with these servos: {', '.join(whole or words)}", markup=False)
    elif servos:
        console.print("  no shipped rig has these servos; new motors get their ids with: embodied robot setup")
    return told


def _told(line: Found, console: Console) -> dict[str, Any]:
    from hardware.servo.scan import known_model

    names = {
        servo.id: model.name
        if (model := known_model(servo.model_number, line.protocol))
        else f"model {servo.model_number}"
        for servo in line.servos
    }
    for servo in line.servos:
        console.print(
            f"  id {servo.id:3}  {names[servo.id]}  firmware {servo.firmware}  at {line.baud} baud", markup=False
        )
    if line.damaged:
        console.print(f"  some answers at {line.baud} baud were damaged: two servos with one id, or a bad line")
    return {
        "protocol": line.protocol, "baud": line.baud, "damaged": line.damaged,
        "servos": [
            {"id": s.id, "model": names[s.id], "model_number": s.model_number, "firmware": s.firmware}
            for s in line.servos
        ],
    }  # fmt: skip
