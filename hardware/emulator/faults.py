"""One vocabulary of faults for wire, servos and cameras; off unless a plan names them.

A plan is a line of text, so that the same words work on the command line, in a test and in a report::

    drop=0.005,corrupt=0.01,unplug@3.0,freeze:elbow@2-4,delay=0.05~0.1,corrupt.12:3@1x1

    WORD [.INDEX] [:TARGET] [@START[-END]] [=VALUE] [~PROBABILITY] [xTIMES]

TARGET is a joint (its beginning is enough), a servo's id or a camera; without one, all. Times are seconds of the emulator's
clock. Words whose value is a probability (``drop=0.005``) take it after ``=``. A plan draws from its own generator, so
the same seed and the same traffic give the same faults.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from hardware.errors import RobotError

Layer = Literal["reply", "request", "port", "servo", "event", "camera"]


@dataclass(frozen=True)
class Word:
    """What a word of the vocabulary does. ``rows`` are those of the fault table that it can produce."""

    layer: Layer  # event: happens once, at its start; all others act from start to end
    text: str
    value: str = ""  # what VALUE means; "probability" or empty when there is none
    default: float = 1.0
    index: str = ""  # what INDEX means
    rows: tuple[int, ...] = ()
    needs_index: bool = False


#: Every fault there is. Rows: the fault table of the safety documentation.
WORDS: Mapping[str, Word] = MappingProxyType({
    # What happens to a servo's reply on its way to the host
    "drop": Word("reply", "the reply never comes", "probability", rows=(1, 9, 10)),
    "lose_byte": Word("reply", "one byte of the reply is missing", "probability", index="which byte", rows=(1,)),
    "corrupt": Word("reply", "one bit of the reply is flipped", "probability", index="which bit", rows=(2,)),
    "swap": Word("reply", "two bytes of the reply's data change places, which a sum cannot see", "probability",
                 index="the first of the two", rows=(3,)),
    "forge": Word("reply", "a bit of the data is flipped and the checksum fits", "probability", index="which bit of the data",
                  rows=(3,)),
    "wrong_id": Word("reply", "the reply bears another id", "probability", index="which id", rows=(4,)),
    "duplicate_id": Word("reply", "a second servo with the same id talks at the same time", "probability", rows=(4,)),
    "delay": Word("reply", "the reply comes late", "seconds", 0.05, rows=(5, 16)),
    "duplicate": Word("reply", "the reply comes twice", "probability", rows=(6,)),
    "garbage": Word("reply", "random bytes come before the reply", "probability", index="how many", rows=(8,)),
    "truncate": Word("reply", "the reply ends early", "probability", index="after how many bytes", rows=(9,)),
    "error": Word("reply", "a bit is set in the reply's error byte; bit 7 is Dynamixel's alert", "probability",
                  index="which bit", rows=(17, 18, 19, 20), needs_index=True),
    # What happens to what the host sends
    "echo": Word("request", "the adapter sends the host's own bytes back", "probability", index="only this many bytes",
                 rows=(7,)),
    "contention": Word("request", "the same, with a flipped bit", "probability", rows=(7,)),
    "lose_request": Word("request", "no servo hears the request", "probability", rows=(1, 9)),
    "lose_write": Word("request", "sync- and broadcast writes are lost, reads work", "probability", rows=(11,)),
    # The port
    "unplug": Word("port", "the port vanishes, and comes back at END", rows=(12, 13, 54)),
    # A servo, from start to end
    "mute": Word("servo", "obeys, but never answers", rows=(10,)),
    "dead": Word("servo", "has no power: neither answers nor holds", rows=(10,)),
    "freeze": Word("servo", "its firmware hangs: answers with old values and ignores goals", rows=(25,)),
    "block": Word("servo", "something holds the shaft; load rises until the overload protection acts", rows=(17, 25)),
    "overload": Word("servo", "something as strong as the motor turns the shaft back", "share of the stall torque", 1.2,
                     rows=(17, 25)),
    "overheat": Word("servo", "temperature rises 5 degC a second to this", "degC", 90.0, rows=(18,)),
    "sag": Word("servo", "the supply falls to this", "V", 3.5, rows=(19,)),
    "jump": Word("servo", "the encoder reads this much more", "ticks", 1000.0, rows=(23, 24)),
    "stuck_off": Word("servo", "torque is off and cannot be switched on", rows=(21, 25)),
    "backlash": Word("servo", "a worn gear: the encoder lags the shaft by this", "degrees", 3.0, rows=(25,)),
    # A servo, once
    "reboot": Word("event", "restarts: RAM and torque are lost", rows=(21,)),
    "factory": Word("event", "all registers but the id are as new", rows=(22,)),
    "torque_off": Word("event", "the torque flag falls", rows=(21,)),
    "poke": Word("event", "a register is overwritten, whatever its access", "value", 0.0, index="address",
                 rows=(15, 22, 26, 28, 35), needs_index=True),
    "baud": Word("event", "talks at another rate from now on", "bits per second", 57_600.0, rows=(15,)),
    # Cameras of the twin
    "camera_freeze": Word("camera", "the same picture with new time stamps", rows=(42,)),
    "camera_stale": Word("camera", "the same picture with its old time stamp", rows=(41,)),
    "camera_black": Word("camera", "black pictures", rows=(43,)),
    "camera_unplug": Word("camera", "no pictures", rows=(44,)),
})  # fmt: skip

_ITEM = re.compile(
    r"(?P<kind>[a-z_]+)(\.(?P<index>\d+))?(:(?P<target>\w+?))?(@(?P<at>[\d.]+)(-(?P<until>[\d.]+))?)?"
    r"(=(?P<value>-?[\d.]+))?(~(?P<p>[\d.]+))?(x(?P<times>\d+))?"
)


@dataclass(frozen=True)
class Fault:
    """One fault: what, to whom, from when until when, how often. Raises ``RobotError`` for what makes no sense."""

    kind: str
    target: str = ""
    at_s: float = 0.0
    until_s: float = math.inf
    value: float | None = None  # the word's default when None; a probability goes into ``p``
    p: float = 1.0
    index: int | None = None
    times: int | None = None  # at most this often

    def __post_init__(self) -> None:
        if self.kind not in WORDS:
            raise RobotError(f"no fault is called {self.kind!r}; choose from: {', '.join(WORDS)}")
        word = WORDS[self.kind]
        if self.value is not None and word.value in ("", "probability"):
            raise RobotError(f"the fault {self.kind} takes no value but a probability")
        if not 0.0 <= self.p <= 1.0:
            raise RobotError(f"the probability of {self.kind} must be from 0 to 1, not {self.p}")
        if not 0.0 <= self.at_s <= self.until_s or (self.value is not None and not math.isfinite(self.value)):
            raise RobotError(f"the fault {self.kind} must begin at 0 or later, end after that and have a finite value")
        if word.needs_index and self.index is None:
            raise RobotError(f"the fault {self.kind} needs its {word.index}: {self.kind}.5")
        if self.index is not None and not word.index:
            raise RobotError(f"the fault {self.kind} takes no index")

    @property
    def magnitude(self) -> float:
        """Its value, or the word's default."""
        return WORDS[self.kind].default if self.value is None else self.value

    def hits(self, name: str, id_: int | None = None) -> bool:
        """Whether it is meant for this joint or camera, or for the servo with this id."""
        return not self.target or name.startswith(self.target) or self.target == str(id_)

    def __str__(self) -> str:
        end = "" if math.isinf(self.until_s) else f"-{self.until_s:g}"
        at = f"@{self.at_s:g}{end}" if self.at_s or end else ""
        return "".join((
            self.kind,
            "" if self.index is None else f".{self.index}",
            f":{self.target}" if self.target else "",
            at,
            "" if self.value is None else f"={self.value:g}",
            "" if self.p == 1.0 else f"~{self.p:g}",
            "" if self.times is None else f"x{self.times}",
        ))  # fmt: skip


def _parse(item: str) -> Fault:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise RobotError(
            f"{item!r} is no fault; write WORD[.INDEX][:TARGET][@START[-END]][=VALUE][~PROBABILITY][xTIMES], "
            f"for example drop=0.005 or freeze:elbow@2-4"
        )
    part = match.groupdict()
    try:
        at, until, value, p = (None if part[k] is None else float(part[k]) for k in ("at", "until", "value", "p"))
    except ValueError as error:
        raise RobotError(f"{item!r}: a number is not one ({error})") from error
    kind = part["kind"]
    if kind in WORDS and WORDS[kind].value == "probability" and value is not None:
        p, value = value, None
    index, times = (None if part[k] is None else int(part[k]) for k in ("index", "times"))
    return Fault(
        kind, part["target"] or "", at or 0.0, math.inf if until is None else until, value,
        1.0 if p is None else p, index, times,
    )  # fmt: skip


@dataclass(frozen=True)
class FaultPlan:
    """Which faults shall happen; empty by default."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> FaultPlan:
        """From a line such as ``drop=0.005,unplug@3``. Raises ``RobotError`` naming what was not understood."""
        return cls(tuple(_parse(item.strip()) for item in text.split(",") if item.strip()), seed)

    def __str__(self) -> str:
        return ",".join(map(str, self.faults))

    def check_targets(self, names: Iterable[tuple[str, int | None]]) -> None:
        """Raise ``RobotError`` when a fault is meant for a joint, id or camera that does not exist."""
        known = list(names)
        for fault in self.faults:
            if not any(fault.hits(name, id_) for name, id_ in known):
                raise RobotError(f"{fault}: no {fault.target!r} here; there are: {', '.join(n for n, _ in known)}")


def vocabulary() -> str:
    """All words with their meaning, a line each, for people."""
    lines = []
    for name, word in WORDS.items():
        value = f" (=: {word.value})" if word.value else ""
        index = f" (.: {word.index})" if word.index else ""
        lines.append(f"{name:14} {word.text}{value}{index}")
    return "\n".join(lines)


@dataclass(eq=False)
class _Armed:
    """A fault in the injector's hands."""

    fault: Fault
    left: int | None  # how often it may still strike
    seen: bool = False  # an event that has happened, or a span that was noticed

    def acts_on(self, now_s: float, name: str, id_: int | None) -> bool:
        fault = self.fault
        return fault.at_s <= now_s < fault.until_s and fault.hits(name, id_)


@dataclass
class Injector:
    """A plan at work: what is due when, what was drawn, and how often each fault happened."""

    plan: FaultPlan = field(default_factory=FaultPlan)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.plan.seed)
        self._by_kind: dict[str, list[_Armed]] = {}
        for fault in self.plan.faults:
            self.add(fault)

    @property
    def busy(self) -> bool:
        """Whether there is any fault to think of."""
        return bool(self._by_kind)

    def add(self, fault: Fault) -> None:
        """One more fault, while the emulator runs."""
        self._by_kind.setdefault(fault.kind, []).append(_Armed(fault, fault.times))

    def clear(self, kind: str | None = None) -> None:
        """Forget all faults, or those of one kind."""
        for key in [kind] if kind is not None else list(self._by_kind):
            self._by_kind.pop(key, None)

    def active(self, kind: str, now_s: float, name: str = "", id_: int | None = None) -> Fault | None:
        """The fault of a kind that acts on something now; no draw."""
        for armed in self._by_kind.get(kind, ()):
            if armed.acts_on(now_s, name, id_):
                return armed.fault
        return None

    def begun(self, kind: str, now_s: float) -> Fault | None:
        """The fault of a kind that acts now, or that has come and gone since the last look."""
        for armed in self._by_kind.get(kind, ()):
            if armed.fault.at_s <= now_s and (now_s < armed.fault.until_s or not armed.seen):
                armed.seen = True
                return armed.fault
        return None

    def strike(self, kind: str, now_s: float, name: str = "", id_: int | None = None) -> Fault | None:
        """The fault of a kind that happens to this very packet; draws, and counts it."""
        for armed in self._by_kind.get(kind, ()):
            if not armed.acts_on(now_s, name, id_) or armed.left == 0:
                continue
            if armed.fault.p < 1.0 and self.rng.random() >= armed.fault.p:
                continue
            if armed.left is not None:
                armed.left -= 1
            self.counts[kind] += 1
            return armed.fault
        return None

    def due(self, now_s: float) -> list[Fault]:
        """Events whose time has come; each is returned once."""
        if not self._by_kind:
            return []
        found: list[Fault] = []
        for kind, several in self._by_kind.items():
            if WORDS[kind].layer != "event":
                continue
            for armed in several:
                if armed.fault.at_s <= now_s and not armed.seen:
                    armed.seen = True
                    found.append(armed.fault)
        self.counts.update(fault.kind for fault in found)
        return sorted(found, key=lambda fault: fault.at_s)

    def draw(self, high: int) -> int:
        """A whole number from 0 to ``high`` - 1."""
        return int(self.rng.integers(max(high, 1)))
