"""What all evaluations share: a question about a scene, the answer to it, and the report of a suite."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied.plan import Plan, Point
from embodied.statistics import Rate
from hardware.camera_model import CameraModel

if TYPE_CHECKING:
    from sim.scene import Scene

Picture = NDArray[np.uint8]  # (H, W, 3)
#: Evaluation seeds start here; training uses smaller ones.
FIRST = 9_000_000
#: Kinds of which the order of the moves does not matter.
ORDER_FREE = ("group", "sort", "clear")


@dataclass(frozen=True)
class Question:
    """A scene, an instruction about it and the plan it means.

    ``others``: plans that are as good as ``truth``. ``any_order``: whether the moves may come in any order; None leaves
    that to the kind.
    """

    index: int
    seed: tuple[int, int]
    scene: Scene
    instruction: str
    truth: Plan
    kind: str
    others: tuple[Plan, ...] = ()
    any_order: bool | None = None
    tags: tuple[str, ...] = ()

    @property
    def truths(self) -> tuple[Plan, ...]:
        """All plans that count as right."""
        return (self.truth, *self.others)

    @property
    def order_free(self) -> bool:
        """Whether the moves may come in any order."""
        return self.kind in ORDER_FREE if self.any_order is None else self.any_order


class Asked(Protocol):
    """What can be told of any question, whatever its answer looks like."""

    @property
    def index(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True)
class Mark:
    """A point of an answer or of the truth in the picture, and its name."""

    point: Point
    label: str


@dataclass(frozen=True)
class Answer:
    """One question as it was answered, with what is needed to show it to a person.

    ``pairs``: what was wanted and what came, skill by skill, for the confusion table.
    ``fault``: why it is wrong, in two or three words; empty when it is right.
    """

    index: int
    kind: str
    instruction: str
    right: bool
    wanted: str
    got: str
    fault: str
    rgb: Picture
    wanted_marks: tuple[Mark, ...] = ()
    got_marks: tuple[Mark, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()


@dataclass
class Report:
    """The figures of one suite. ``rates``: shares that have an interval of their own, beside ``success``."""

    suite: str
    episodes: int
    seed: int
    success: Rate
    by: dict[str, Rate]
    metrics: dict[str, float] = field(default_factory=dict)
    subject: str = ""  # what was evaluated, for people
    rates: dict[str, Rate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints as its last line; figures that nothing was measured for are left out."""
        data: dict[str, Any] = {
            "suite": self.suite,
            "episodes": self.episodes,
            "seed": self.seed,
            "success": self.success.to_json(with_episodes=False),
            "by": {name: rate.to_json() for name, rate in sorted(self.by.items())},
            "metrics": {name: round(value, 4) for name, value in self.metrics.items() if math.isfinite(value)},
        }
        if self.rates:
            data["rates"] = {name: rate.to_json() for name, rate in self.rates.items()}
        return data


@dataclass
class Tally:
    """Successes by kind."""

    successes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kind: str, success: bool) -> None:
        """Count one episode."""
        self.successes[kind] += success
        self.episodes[kind] += 1

    def rate(self, kind: str) -> Rate:
        """Of one kind."""
        return Rate(self.successes.get(kind, 0), self.episodes.get(kind, 0))

    def rates(self) -> tuple[Rate, dict[str, Rate]]:
        """Overall and by kind."""
        by = {kind: self.rate(kind) for kind in self.episodes}
        return Rate(sum(self.successes.values()), sum(self.episodes.values())), by


#: Called after each episode with its question, whether it succeeded, and a sentence.
Watcher = Callable[[Asked, bool, str], None]
#: Called after each question to a planner.
Gallery = Callable[[Answer], None]


def front_camera(scene: Scene) -> CameraModel:
    """The model of the camera that planners look through: ``front``, or the first one."""
    from sim.rendering import camera_model

    spec = next((c for c in scene.cameras if c.name == "front"), scene.cameras[0])
    return camera_model(spec, np.eye(4), None)


def apart_m(camera: CameraModel, p: Point, q: Point) -> float:
    """Distance (m) on the table between two picture points; a metre when one is not on the table."""
    size = (camera.intrinsics.width, camera.intrinsics.height)
    a, b = camera.on_plane(np.array([p, q]) * size)
    distance = float(np.linalg.norm(a - b))
    return distance if math.isfinite(distance) else 1.0


def errors_cm(distances_m: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the share within 1.5 cm; NaN without distances."""
    cm = 100.0 * np.array(distances_m or [math.nan])
    return {
        "median_cm": float(np.median(cm)),
        "p95_cm": float(np.percentile(cm, 95)),
        "within_1_5_cm": float(np.mean(cm <= 1.5)) if distances_m else math.nan,
    }
