"""A calibration that is not finished, on the disk: what a power cut, a pulled cable or Ctrl-C leaves to go on with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hardware.calibration.solve import CalibrationError
from hardware.rig import write_whole

PARTIAL_SCHEMA = 1


@dataclass
class Partial:
    """What is known so far. A joint that is missing in one of the tables still has that step before it."""

    arm: str
    usb_serial: str
    servos: dict[str, tuple[int, int]]  # id and model number by joint
    offsets: dict[str, int] = field(default_factory=dict)  # homing offsets that the servos hold
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)  # lowest and highest count
    swept: list[str] = field(default_factory=list)  # joints whose ends are final
    directions: dict[str, int] = field(default_factory=dict)  # 1 or -1

    def forget(self, joint: str, step: str) -> None:
        """A step of a joint must be done again, and with it those that follow."""
        steps = ("pose", "sweep", "direction")
        for again in steps[steps.index(step) :]:
            if again == "pose":
                self.offsets.pop(joint, None)
            elif again == "sweep":
                self.ends.pop(joint, None)
                self.swept = [name for name in self.swept if name != joint]
            else:
                self.directions.pop(joint, None)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises ``CalibrationError``."""
        content = asdict(self)
        try:
            write_whole(path, json.dumps({"schema": PARTIAL_SCHEMA, "checksum": _sum(content), **content}, indent=1))
        except OSError as error:
            raise CalibrationError(f"cannot write {path}: {error}; choose another place with --out") from error


def load_partial(path: Path) -> Partial | None:
    """The unfinished calibration in a file; None when there is none. Raises ``CalibrationError`` when it is damaged."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        schema, told = content.pop("schema"), content.pop("checksum")
        if schema != PARTIAL_SCHEMA or told != _sum(content):
            raise ValueError("its checksum does not fit" if schema == PARTIAL_SCHEMA else f"its schema is {schema!r}")
        for table in ("servos", "ends"):
            content[table] = {joint: (int(a), int(b)) for joint, (a, b) in content[table].items()}
        return Partial(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"the unfinished calibration {path} cannot be used ({error}); delete it, or begin anew with --restart"
        ) from error


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
