"""The suites ``point`` and ``verify``: where something is, and whether something is so.

Scenes before and after some work take turns: things on the table, then the same things in containers and on one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embodied.plan import Point
from embodied.plan_match import POINT_M
from embodied.planner_bench import Bench
from embodied.score import FIRST, Answer, Mark, Report, apart_m, errors_cm, front_camera
from embodied.statistics import Rate
from hardware.camera_model import CameraModel, Frame
from hardware.errors import EmbodiedError, PlanError

if TYPE_CHECKING:
    from embodied.language.questions import Question as SceneQuestion
    from embodied.planner.jobs import Located
    from sim.scene import Scene


class PointingPlanner(Protocol):
    """A planner that also says where things are. Raises ``PlanError`` when no answer comes out."""

    name: str

    def locate(self, query: str, frame: Frame) -> tuple[Located, ...]: ...


class VerifyingPlanner(Protocol):
    """A planner that also says how probable it is that the answer is yes. Raises ``PlanError`` like the others."""

    name: str

    def verify(self, question: str, frame: Frame) -> float: ...


def _drawn(
    bench: Bench, index: int, ask: Callable[..., list[SceneQuestion]], *, after: bool
) -> tuple[Scene, SceneQuestion]:
    """A scene and a question about it; ``after``: things have been moved about."""
    from embodied.language import scene_fits
    from sim.generate import arranged, random_scene

    # Two questions in a row share the scene: before and after.
    rng = np.random.default_rng([FIRST + bench.seed, index // 2])
    own = np.random.default_rng([FIRST + bench.seed, index // 2, index % 2])
    for _ in range(1000):
        scene = random_scene(rng, n_objects=(2, 8))
        if not scene_fits(scene, "seen"):
            continue
        scene = arranged(scene, own) if after else scene
        questions = ask(scene, front_camera(scene), own, 1, split="seen")
        if questions:
            return scene, questions[0]
    raise EmbodiedError(f"no scene for the suite {bench.suite!r} was found in 1000 draws")


def _able(planner: object, method: str, job: str) -> None:
    if not callable(getattr(planner, method, None)):
        name = getattr(planner, "name", "?")
        raise PlanError(f"the planner {name!r} cannot do the job {job!r}; choose another one, such as --planner local")


def point_suite(bench: Bench) -> Report:
    """Where is it? Right when every object asked for was found within 2 cm under its name, and nothing else was."""
    from embodied.language.questions import locate_questions
    from embodied.language.view import look

    _able(bench.planner, "locate", "point")
    planner: PointingPlanner = bench.planner  # type: ignore[assignment]
    found_flags, absent_flags = list[bool](), list[bool]()
    for index in range(bench.count()):
        scene, asked = _drawn(bench, index, locate_questions, after=index % 2 == 1)
        frame, camera = bench.show(scene), front_camera(scene)
        truth = [(i.label, i.foot) for i in look(scene, camera).items if i.name in asked.names]
        said, why = bench.timed(planner.locate, asked.text, frame)
        answer = said or ()
        distances = [d for d in nearest_m(truth, answer, camera) if d is not None]
        bench.errors_m += distances
        hits = sum(d <= POINT_M for d in distances)
        found_flags += [True] * hits + [False] * (len(truth) - hits)
        if not truth:
            absent_flags.append(said == ())
        right = said is not None and hits == len(truth) == len(answer)
        fault = "" if right else _pointing_fault(said is None, hits, len(truth), len(answer))
        kind = "absent" if not truth else "one" if len(truth) == 1 else "several"
        bench.told(
            Answer(
                index, kind, asked.text, right, ", ".join(label for label, _ in truth) or "nothing",
                ", ".join(a.label for a in answer) or why or "nothing", fault, frame.rgb,
                tuple(Mark(foot, label) for label, foot in truth), tuple(Mark(a.point, a.label) for a in answer),
                ((_amount(len(truth)), _amount(len(answer))),),
            ),
        )  # fmt: skip
    rates = {
        "found": Rate(sum(found_flags), len(found_flags)),
        "absent_right": Rate(sum(absent_flags), len(absent_flags)),
    }
    return bench.report(errors_cm(bench.errors_m), rates)


def nearest_m(truth: Sequence[tuple[str, Point]], found: Sequence[Located], camera: CameraModel) -> list[float | None]:
    """For each true object the distance (m) to the answer about it; None where no answer is left with its name.

    Closest pairs first, each answer used once.
    """
    pairs = sorted(
        (apart_m(camera, foot, item.point), t, f)
        for t, (label, foot) in enumerate(truth)
        for f, item in enumerate(found)
        if item.label == label
    )
    distances: list[float | None] = [None] * len(truth)
    used: set[int] = set()
    for distance, t, f in pairs:
        if distances[t] is None and f not in used:
            distances[t] = distance
            used.add(f)
    return distances


def _pointing_fault(failed: bool, hits: int, wanted: int, got: int) -> str:
    if failed:
        return "no valid answer"
    if wanted == 0:
        return "found what is not there"
    if got == 0:
        return "found nothing"
    if hits == wanted:
        return "found too much"
    return "wrong place or object" if got >= wanted else "found too little"


def _amount(count: int) -> str:
    return "nothing" if count == 0 else "one object" if count == 1 else "several objects"


def verify_suite(bench: Bench) -> Report:
    """Is it so? Right when the more probable answer is; ``balanced_accuracy`` weighs yes and no alike."""
    from embodied.language.questions import verify_questions

    _able(bench.planner, "verify", "verify")
    planner: VerifyingPlanner = bench.planner  # type: ignore[assignment]
    yes_flags, no_flags, squares = list[bool](), list[bool](), list[float]()
    for index in range(bench.count()):
        scene, asked = _drawn(bench, index, verify_questions, after=index % 2 == 1)
        frame = bench.show(scene)
        said, why = bench.timed(planner.verify, asked.text, frame)
        truth = bool(asked.answer)
        right = said is not None and (said >= 0.5) == truth
        (yes_flags if truth else no_flags).append(right)
        if said is not None:
            squares.append((said - truth) ** 2)
        wanted = "yes" if truth else "no"
        got = why if said is None else f"{'yes' if said >= 0.5 else 'no'} ({said:.0%} yes)"
        fault = "" if right else "no valid answer" if said is None else f"{wanted} taken for {got.split()[0]}"
        pairs = ((wanted, "no answer" if said is None else got.split()[0]),)
        bench.told(
            Answer(index, asked.topic, asked.text, right, wanted, got, fault, frame.rgb, pairs=pairs),
        )
    yes, no = Rate(sum(yes_flags), len(yes_flags)), Rate(sum(no_flags), len(no_flags))
    both = [rate.rate for rate in (yes, no) if rate.episodes]
    metrics = {
        "balanced_accuracy": float(np.mean(both)) if both else math.nan,
        "brier": float(np.mean(squares)) if squares else math.nan,
    }
    return bench.report(metrics, {"yes_right": yes, "no_right": no})
