"""What is known of one episode, and the folder that keeps it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np

from embodied.executor import Event, StepRecord
from embodied.plan import Plan
from embodied.referee import Judgement
from hardware.errors import EmbodiedError

#: ``succeeded``/``failed``: the arm moved and the referee judged. ``refused``/``asked``: nothing moved, and
#: ``sentence`` says why. ``interrupted``: the user stopped it.
Outcome = Literal["succeeded", "failed", "refused", "asked", "interrupted"]


@dataclass(frozen=True)
class Episode:
    """One instruction and what became of it."""

    instruction: str
    outcome: Outcome
    sentence: str  # the outcome in words
    planner: str
    policy: str
    scripted: tuple[str, ...]  # which of planner and policy are scripted
    scene: str  # where the scene came from
    seed: int
    plan: Plan | None
    records: tuple[StepRecord, ...] = ()
    judgement: Judgement | None = None  # None where there is no simulation to ask
    seconds: dict[str, float] = field(default_factory=dict)  # plan, motion (robot's time), wall
    folder: Path | None = None

    @property
    def success(self) -> bool:
        """Whether the task was carried out."""
        return self.outcome == "succeeded"

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in ``result.json``."""
        return {
            "success": self.success,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "instruction": self.instruction,
            "planner": self.planner,
            "policy": self.policy,
            "scripted": list(self.scripted),
            "scene": self.scene,
            "seed": self.seed,
            "plan": None if self.plan is None else self.plan.model_dump(mode="json", exclude_none=True)["calls"],
            "steps": [record_json(record) for record in self.records],
            "judged_by": None if self.judgement is None else self.judgement.yardstick,
            "conditions": [asdict(c) for c in self.judgement.conditions] if self.judgement else [],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "folder": None if self.folder is None else str(self.folder),
        }


def record_json(record: StepRecord) -> dict[str, Any]:
    """A step as plain data."""
    return {
        "call": record.call.model_dump(mode="json", exclude_none=True),
        "goal": None if record.goal is None else {
            "skill": record.goal.skill, "point_m": _rounded(record.goal.point), "to_m": _rounded(record.goal.to),
        },
        "status": record.status,
        "attempts": record.attempts,
        "control_steps": record.steps,
        "ended_by": record.reason,
        "why": record.why,
    }  # fmt: skip


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 4) for v in values]


class RunFolder:
    """``runs/<time>-<words>/``: made before anything moves, so that a full or read-only disk is found in time."""

    def __init__(self, parent: Path | str, instruction: str) -> None:
        """Raises ``EmbodiedError`` when the folder cannot be made."""
        words = re.sub(r"[^a-z0-9]+", "-", instruction.lower()).strip("-")[:48].strip("-") or "episode"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.path = self._make(Path(parent), f"{stamp}-{words}")
        self._began = time.monotonic()
        self._log: IO[str] | None = None

    @staticmethod
    def _make(parent: Path, name: str) -> Path:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for suffix in ("", *(f"-{k}" for k in range(2, 100))):
                path = parent / (name + suffix)
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                (path / "log.jsonl").touch()
                return path
        except OSError as error:
            raise EmbodiedError(
                f"cannot write to the output folder {parent}: {error.strerror or error}; choose another with --out"
            ) from error
        raise EmbodiedError(f"there are already 99 folders called {name} in {parent}; choose another with --out")

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the folder. Raises ``EmbodiedError``."""
        path = self.path / name
        try:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise EmbodiedError(f"cannot write {path}: {error.strerror or error}; is the disk full?") from error
        return path

    def write_json(self, name: str, data: Any) -> Path:
        """A JSON file in the folder, indented for people."""
        return self.write(name, json.dumps(data, indent=2) + "\n")

    def log(self, event: Event) -> None:
        """A line in ``log.jsonl``."""
        if self._log is None:
            self._log = (self.path / "log.jsonl").open("a", encoding="utf-8")
        line = {"t": round(time.monotonic() - self._began, 3), "event": event.kind, **_plain(event.data)}
        self._log.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Finish the log; safe to call twice."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, StepRecord):
            out[name] = record_json(value)
        elif hasattr(value, "model_dump"):
            out[name] = value.model_dump(mode="json", exclude_none=True)
        elif isinstance(value, np.ndarray):
            out[name] = _rounded(value)
        elif isinstance(value, str | int | float | bool | list | type(None)):
            out[name] = round(value, 4) if isinstance(value, float) else value
    return out
