"""What a joint's counts did while a hand moved it: unwrapped over the end of the encoder, single wrong samples left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

TURN = 4096


def nearest_turn(count: int, last: int) -> int:
    """``count``, known up to whole turns, as the value nearest to ``last``."""
    return last + (count - last + TURN // 2) % TURN - TURN // 2


@dataclass
class Track:
    """One joint's way. Counts are unwrapped: below 0 or above 4095 the joint has crossed the end of the encoder.

    A value counts only when it is the middle one of three in a row, so that one damaged sample moves no end.
    """

    low: int | None = None
    high: int | None = None
    last: int | None = None
    _recent: list[int] = field(default_factory=list)

    def add(self, count: int) -> bool:
        """One sample; True when it has widened the range by more than a little."""
        self.last = count % TURN if self.last is None else nearest_turn(count, self.last)
        self._recent = [*self._recent[-2:], self.last]
        if len(self._recent) < 3:
            return False
        value = int(median(self._recent))
        before = self.span
        self.low = value if self.low is None else min(self.low, value)
        self.high = value if self.high is None else max(self.high, value)
        return self.span - before > 2

    @property
    def span(self) -> int:
        """Counts between the ends."""
        return 0 if self.low is None or self.high is None else self.high - self.low

    @property
    def ends(self) -> tuple[int, int] | None:
        """Lowest and highest count; None before three samples."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Sweep:
    """The tracks of several joints, and how long nothing new has come."""

    def __init__(self, joints: Iterable[str], known: Mapping[str, tuple[int, int]] | None = None) -> None:
        """``known`` are ends found earlier, by joint: a sweep that goes on."""
        known = known or {}
        self.tracks = {joint: Track(*known.get(joint, (None, None))) for joint in joints}
        self.news_s = 0.0  # time of the last sample that widened a range

    def add(self, counts: Mapping[str, int], now_s: float) -> None:
        """Samples by joint; joints that are not swept are ignored."""
        for joint, count in counts.items():
            if joint in self.tracks and self.tracks[joint].add(count):
                self.news_s = now_s

    @property
    def ends(self) -> dict[str, tuple[int, int]]:
        """Lowest and highest count of the joints heard so far."""
        return {joint: track.ends for joint, track in self.tracks.items() if track.ends is not None}
