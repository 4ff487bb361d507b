"""``embodied robot calibrate``: find an arm's offsets, ranges and directions by hand; LeRobot's files in and out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from embodied.commands.output import print_json, save
from embodied.commands.robot_rig import rig_at, wide_console
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from hardware.calibration.ranges import Sweep
    from hardware.rig import Rig

DONE = 0
_QUIET_S = 1.5  # a scripted sweep ends when every joint has moved enough and nothing new came for this long


@dataclass(frozen=True)
class Calibrate:
    """Calibrate an arm: hold its middle pose, move every joint to its ends, hold one more pose."""

    rig: Positional[Annotated[str, arg(metavar="RIG")]]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    port: str = ""
    """The serial port; the rig file's when left out."""
    out: Path | None = None
    """The rig file to write; when left out: RIG if it is a file, or else RIG.toml here."""
    restart: bool = False
    """Begin anew instead of going on with an unfinished calibration."""
    mirrored: tuple[str, ...] = ()
    """Joints whose motor is mounted the other way around, so that counts fall as the angle rises."""
    import_lerobot: Path | None = None
    """Take LeRobot's calibration file (JSON) instead; with --port, check that it is this arm's."""
    export_lerobot: Path | None = None
    """Write the rig's calibration as LeRobot's file (JSON); the arm is not needed."""
    yes: bool = False
    """Ask nothing: go on at once at every step."""
    answers: Path | None = None
    """Take the answers from this file or pipe, one a line (an empty line is Enter)."""
    sweep_s: float = 60.0
    """With --yes or --answers: wait this long for every joint to be moved."""
    json: bool = False
    """Print the calibration as one JSON object on the last line."""


def run(command: Calibrate) -> int:
    """Exit status 0. Raises ``EmbodiedError``; what was done by then is kept and gone on with."""
    console = wide_console(command.json)
    if command.import_lerobot is not None and command.export_lerobot is not None:
        raise EmbodiedError("import or export LeRobot's file, not both at once")
    if command.export_lerobot is not None:
        return _export(command, command.export_lerobot, console)
    out = _out(command)
    rig = (
        _import(command, command.import_lerobot, console) if command.import_lerobot else _by_hand(command, out, console)
    )
    if not command.import_lerobot:
        console.print(f"Calibrated: {out}. Check it with: embodied robot doctor {out}", markup=False)
    if command.json:
        print_json({"rig": str(out), "calibration": _figures(rig)})
    return DONE


def _by_hand(command: Calibrate, out: Path, console: Console) -> Rig:
    from embodied.commands.asking import answers
    from hardware import handshake
    from hardware.calibration.session import Calibrator, Options
    from hardware.find_ports import describe
    from hardware.rig import save_rig
    from hardware.servo.bus import Bus

    rig = rig_at(command.rig, command.port)
    unknown = sorted(set(command.mirrored) - set(rig.joints))
    if unknown:
        raise EmbodiedError(f"{rig.name} has no joint {unknown[0]!r}; it has: {', '.join(rig.joints)}")
    ask = answers(console, command.yes, command.answers)
    handshake.check_adapter(rig)
    usb = describe(rig.bus.port)
    models = {joint.id: joint.model for joint in rig.joints.values()}
    scripted = command.yes or command.answers is not None
    with (
        Bus.open(rig.bus.port, models, baud=rig.bus.baud) as bus,
        _Watch(rig, console, scripted, command.sweep_s) as watch,
    ):
        calibrator = Calibrator(
            bus, rig, ask=ask, watch=watch, say=lambda words: console.print(words, markup=False),
            partial=out.with_name(f".{out.name}.unfinished"), usb_serial=usb.serial,
            options=Options(command.restart, command.mirrored),
        )  # fmt: skip
        calibrated = calibrator.run()
    lasting = calibrated.bus.model_copy(update={"port": usb.stable or rig.bus.port})
    calibrated = calibrated.model_copy(update={"bus": lasting})
    save_rig(calibrated, out)
    calibrator.done()
    return calibrated


def _import(command: Calibrate, file: Path, console: Console) -> Rig:
    from hardware import handshake
    from hardware.calibration.lerobot import read_lerobot
    from hardware.calibration.same_arm import verify_offsets
    from hardware.find_ports import describe
    from hardware.rig import save_rig
    from hardware.servo.bus import Bus

    out = _out(command)
    rig = rig_at(command.rig, command.port)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmbodiedError(f"cannot read {file}: {error}; give the file that LeRobot wrote") from error
    converted = read_lerobot(text, rig, str(file))
    serial = rig.bus.usb_serial
    if command.port:
        handshake.check_adapter(rig)
        serial = describe(command.port).serial
        with Bus.open(command.port, {j.id: j.model for j in rig.joints.values()}, baud=rig.bus.baud) as bus:
            handshake.identify(bus, rig)
            verify_offsets(bus, rig, converted.calibrations)
    for remark in converted.remarks:
        console.print(f"remark  {remark}", markup=False)
    if serial:
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"usb_serial": serial})})
    rig = rig.with_calibration(converted.calibrations).stamped(serial)
    save_rig(rig, out)
    whose = (
        "the arm's servos hold these offsets"
        if command.port
        else "whether it is this arm's is checked when it is opened"
    )
    console.print(f"Imported: {out}; {whose}", markup=False)
    return rig


def _export(command: Calibrate, file: Path, console: Console) -> int:
    from hardware.calibration.lerobot import write_lerobot
    from hardware.rig import load_rig

    rig = load_rig(command.rig)
    text, remarks = write_lerobot(rig)
    for remark in remarks:
        console.print(f"remark  {remark}", markup=False)
    save(file, text.encode())
    console.print(f"LeRobot's calibration: {file}", markup=False)
    if command.json:
        print_json({"file": str(file), "remarks": list(remarks)})
    return DONE


def _out(command: Calibrate) -> Path:
    """The file to write. Raises ``EmbodiedError`` when that would overwrite another rig."""
    source = Path(command.rig)
    mine = source if source.suffix or source.exists() else None
    out = command.out or mine or Path(f"{command.rig}.toml")
    if out.exists() and (mine is None or out.resolve() != mine.resolve()):
        raise EmbodiedError(
            f"{out} is there already; to calibrate that arm again, name it: embodied robot calibrate {out}. Or choose "
            "another file with --out"
        )
    if not out.parent.is_dir():
        raise EmbodiedError(f"there is no folder {out.parent}; make it, or choose another file with --out")
    return out


def _figures(rig: Rig) -> dict[str, dict[str, object]]:
    return {
        name: joint.calibration.model_dump(exclude_none=True) for name, joint in rig.joints.items() if joint.calibration
    }


class _Watch:
    """Shows the ranges while they grow; ends the sweep at Enter, or by itself when there is nobody at the keyboard."""

    def __init__(self, rig: Rig, console: Console, scripted: bool, seconds: float) -> None:
        self._rig, self._console, self._scripted, self._seconds = rig, console, scripted, seconds
        self._live: Live | None = None
        self._begun = self._shown = 0.0

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, sweep: Sweep) -> bool:
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._shown > 0.1 and self._console.is_terminal:
            self._shown = now
            self._show(sweep)
        over = self._enough(sweep, now) if self._scripted else _enter_pressed()
        if over:
            self._shown = 0.0
            self._show(sweep)
            if self._live is not None:
                self._live.stop()
                self._live = None
        return over

    def _enough(self, sweep: Sweep, now: float) -> bool:
        from hardware.calibration.solve import doubt_range

        doubted = any(doubt_range(self._rig.spec, name, track.ends) for name, track in sweep.tracks.items())
        return now - self._begun > self._seconds or (not doubted and now - sweep.news_s > _QUIET_S)

    def _show(self, sweep: Sweep) -> None:
        table = _table(self._rig, sweep)
        table.title = "Ranges" if self._scripted else "Ranges; press Enter when every joint was moved to both ends"
        if not self._console.is_terminal:
            self._console.print(table)
            return
        if self._live is None:
            from rich.live import Live

            self._live = Live(table, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(table, refresh=True)


def _table(rig: Rig, sweep: Sweep) -> Table:
    from rich.table import Table

    from hardware.calibration.solve import doubt_range

    table = Table("joint", "lowest", "now", "highest", "degrees", "")
    for name, track in sweep.tracks.items():
        doubt = doubt_range(rig.spec, name, track.ends)
        degrees = f"{track.span * 360 / 4096:.0f}"
        table.add_row(
            name, _count(track.low), _count(track.last), _count(track.high), degrees, "ok" if doubt is None else "..."
        )
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _enter_pressed() -> bool:
    import select

    if select.select([sys.stdin], [], [], 0.0)[0]:
        sys.stdin.readline()
        return True
    return False
