"""One evaluation of a planner under way: who is asked, where the pictures come from, what has been counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embodied.score import Answer, Gallery, Report, Tally, Watcher
from embodied.statistics import Rate
from hardware.camera_model import Frame
from hardware.errors import PlanError

if TYPE_CHECKING:
    from embodied.planners import Planner
    from sim.scene import Scene
    from sim.world import World

T = TypeVar("T")
DEFAULT_EPISODES = 100


@dataclass
class Bench:
    """Shared by all suites. ``episodes`` None: as many as the suite has, or 100."""

    world: World
    planner: Planner
    suite: str
    episodes: int | None
    seed: int
    on_episode: Watcher | None
    on_answer: Gallery | None
    tally: Tally = field(default_factory=Tally)
    seconds: list[float] = field(default_factory=list)
    errors_m: list[float] = field(default_factory=list)

    def count(self) -> int:
        """How many questions there are, where their number is free."""
        return DEFAULT_EPISODES if self.episodes is None else self.episodes

    def show(self, scene: Scene) -> Frame:
        """The picture of a scene with the arm at home."""
        self.world.load(scene)
        return self.world.render(next(c.name for c in scene.cameras if c.mount == "fixed"))

    def timed(self, ask: Callable[[str, Frame], T], words: str, frame: Frame) -> tuple[T | None, str]:
        """The answer, or None and why there is none."""
        began = time.perf_counter()
        try:
            return ask(words, frame), ""
        except PlanError as error:
            return None, str(error)
        finally:
            self.seconds.append(time.perf_counter() - began)

    def told(self, answer: Answer) -> None:
        """Count it and show it."""
        self.tally.add(answer.kind, answer.right)
        if self.on_answer is not None:
            self.on_answer(answer)
        if self.on_episode is not None:
            self.on_episode(answer, answer.right, f"{answer.got} (wanted: {answer.wanted})")

    def report(self, metrics: dict[str, float], rates: dict[str, Rate], success: Rate | None = None) -> Report:
        """The figures so far. Every rate is a metric too, so that programs find it among the numbers."""
        overall, by = self.tally.rates()
        shares = {name: rate.rate if rate.episodes else math.nan for name, rate in rates.items()}
        rates = {name: rate for name, rate in rates.items() if rate.episodes}
        latency = {"latency_ms": 1000 * float(np.median(self.seconds or [math.nan]))}
        return Report(
            self.suite, overall.episodes, self.seed, success or overall, by, {**shares, **metrics, **latency},
            self.planner.name, rates,
        )  # fmt: skip
