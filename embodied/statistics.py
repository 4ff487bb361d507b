"""Success rates with honest intervals."""

from __future__ import annotations

from dataclasses import dataclass

from policies.intervals import wilson


@dataclass(frozen=True)
class Rate:
    """A success rate with its Wilson 95 % interval."""

    successes: int
    episodes: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.episodes:
            raise ValueError(f"{self.successes} successes of {self.episodes} episodes cannot be")

    @property
    def rate(self) -> float:
        """Successes over episodes; 0 when there were none."""
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval: unlike the normal one it stays inside 0..1 and is right near 0 and 1."""
        return wilson(self.successes, self.episodes)

    def to_json(self, *, with_episodes: bool = True) -> dict[str, float]:
        """``{"rate", "low", "high", "episodes"}``, rounded to four digits."""
        low, high = self.interval
        data: dict[str, float] = {"rate": round(self.rate, 4), "low": round(low, 4), "high": round(high, 4)}
        if with_episodes:
            data["episodes"] = self.episodes
        return data

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.rate:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {self.episodes})"
