"""How often it works: suites of episodes for planner and agent, with Wilson intervals.

    agent     single       one instruction of one step: pick, put in, put on, put beside
              skills       the same for the other skills: reach, push, open, close, press
              long         chains, groups, sorting, clearing the table
    planner   seen         words and patterns of the training, unseen scenes
              paraphrase   sentence patterns and verbs that training never saw
              novel        objects of colour and kind pairs that training never saw

Episode ``k`` of seed ``s`` draws everything from ``default_rng([FIRST + s, k])``, so a suite is the same on every machine
and any episode can be repeated alone. The seeds of training and evaluation never meet, because training's are smaller.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.plan import Plan
from embodied.statistics import Rate
from hardware.camera_model import CameraModel
from hardware.errors import EmbodiedError, PlanError, SceneError

if TYPE_CHECKING:
    from embodied.agent import Agent
    from embodied.language.view import View
    from embodied.planners import Planner
    from sim.scene import Kind, Scene
    from sim.world import World

#: Evaluation seeds start here; training uses smaller ones.
FIRST = 9_000_000
AGENT_SUITES: dict[str, tuple[str, ...]] = {
    "single": ("pick", "put_in", "put_on", "relation"),
    "skills": ("reach", "push", "open", "close", "press"),
    "long": ("chain", "group", "sort", "clear"),
}
PLANNER_SUITES: tuple[str, ...] = ("seen", "paraphrase", "novel")
#: Kinds of which the order of the moves does not matter.
ORDER_FREE = ("group", "sort", "clear")
#: A plan's point counts as right within this distance (m) on the table.
POINT_M = 0.02
_NEEDED: dict[str, tuple[Kind, ...]] = {
    "pick": ("cube",), "put_in": ("cube", "bowl"), "put_on": ("cube", "cube"), "relation": ("cube", "cylinder"),
    "reach": ("ball",), "push": ("cube",), "open": ("drawer",), "close": ("drawer",), "press": ("button",),
    "chain": ("cube", "bowl", "cylinder"), "group": ("cube", "cube", "tray"), "clear": ("cube", "ball", "tray"),
    "sort": ("cube", "cylinder", "bowl", "tray"),
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A scene, an instruction about it and the plan it means."""

    index: int
    seed: tuple[int, int]
    scene: Scene
    instruction: str
    truth: Plan
    kind: str


@dataclass
class Report:
    """The figures of one suite."""

    suite: str
    episodes: int
    seed: int
    success: Rate
    by: dict[str, Rate]
    metrics: dict[str, float] = field(default_factory=dict)
    subject: str = ""  # what was evaluated, for people

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints as its last line."""
        return {
            "suite": self.suite,
            "episodes": self.episodes,
            "seed": self.seed,
            "success": self.success.to_json(with_episodes=False),
            "by": {name: rate.to_json() for name, rate in sorted(self.by.items())},
            "metrics": {name: round(value, 4) for name, value in self.metrics.items()},
        }


@dataclass
class _Tally:
    successes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kind: str, success: bool) -> None:
        self.successes[kind] += success
        self.episodes[kind] += 1

    def rates(self) -> tuple[Rate, dict[str, Rate]]:
        by = {kind: Rate(self.successes[kind], n) for kind, n in self.episodes.items()}
        return Rate(sum(self.successes.values()), sum(self.episodes.values())), by


#: Called after each episode with its question, whether it succeeded, and a sentence.
Watcher = Callable[[Question, bool, str], None]


def _camera(scene: Scene) -> CameraModel:
    from sim.rendering import camera_model

    spec = next((c for c in scene.cameras if c.name == "front"), scene.cameras[0])
    return camera_model(spec, np.eye(4), None)


def question(seed: int, index: int, kind: str | None, split: str, world: World | None = None) -> Question:
    """The ``index``-th question of a suite. ``kind``: of instruction, drawn by weight when None.

    With a ``world`` questions are drawn again while any part of what they ask is already so: closing a shut drawer would
    count as a success of whoever does nothing. The world is left with the question's scene.
    """
    from embodied.language import example, scene_fits
    from sim.generate import random_scene

    rng = np.random.default_rng([FIRST + seed, index])
    for _ in range(1000):
        try:
            scene = random_scene(rng, kinds_required=_NEEDED[kind] if kind else ())
            if not scene_fits(scene, split):  # type: ignore[arg-type]
                continue
            asked = example(scene, _camera(scene), rng, split=split, kind=kind)  # type: ignore[arg-type]
        except SceneError:
            continue  # the scene has nothing for this kind of instruction: draw another
        found = Question(index, (seed, index), scene, asked.instruction, asked.plan, asked.kind)
        if world is None or not already_so(found, world):
            return found
    raise EmbodiedError(f"no scene for instructions of kind {kind!r} in the split {split!r} was found in 1000 draws")


def already_so(asked: Question, world: World) -> bool:
    """Whether any condition of a question holds before anything has moved. Loads its scene into ``world``."""
    from embodied.language.view import look
    from embodied.referee import conditions_of
    from sim.conditions import Start, holds

    world.load(asked.scene)
    start = Start.of(world)
    return any(holds(world, c, start) for c in conditions_of(asked.truth, look(asked.scene, _camera(asked.scene))))


def agent_questions(suite: str, episodes: int, seed: int, world: World) -> Iterator[Question]:
    """The questions of an agent suite; its kinds take turns, and none is fulfilled from the start.

    Raises ``EmbodiedError`` on an unknown suite.
    """
    kinds = AGENT_SUITES.get(suite)
    if kinds is None:
        raise EmbodiedError(f"there is no agent suite {suite!r}; choose one of: {', '.join(AGENT_SUITES)}")
    for index in range(episodes):
        yield question(seed, index, kinds[index % len(kinds)], "seen", world)


def evaluate_agent(
    agent: Agent, suite: str, episodes: int, seed: int, *, on_episode: Watcher | None = None, out: str | None = None
) -> Report:
    """Success of planner, policy and executor together, judged on the true scene; ``out`` keeps the episodes' folders."""
    tally, started = _Tally(), time.perf_counter()
    understood = planning_s = 0.0
    if agent.world is None:
        raise EmbodiedError("an agent can only be evaluated in simulation: success is judged on the true scene")
    for asked in agent_questions(suite, episodes, seed, agent.world):
        agent.load(asked.scene)
        try:
            episode = agent.run(asked.instruction, truth=asked.truth, out=out)
            success, sentence = episode.success, f"{episode.outcome}: {episode.sentence}"
            planning_s += episode.seconds.get("plan", 0.0)
            if episode.plan is not None:
                understood += same_plan(episode.plan, asked.truth, asked.scene, asked.kind)[0]
        except PlanError as error:
            success, sentence = False, str(error)
        tally.add(asked.kind, success)
        if on_episode is not None:
            on_episode(asked, success, sentence)
    overall, by = tally.rates()
    n = max(overall.episodes, 1)
    metrics = {
        "exact_plan": understood / n,
        "latency_ms": 1000 * planning_s / n,
        "seconds_per_episode": (time.perf_counter() - started) / n,
    }
    return Report(suite, overall.episodes, seed, overall, by, metrics, f"{agent.planner.name} + {agent.policy.name}")


def evaluate_planner(
    make: Callable[[World], Planner], suite: str, episodes: int, seed: int, *, on_episode: Watcher | None = None
) -> Report:
    """Plans against the plans that the instructions mean; pictures are rendered with the arm at home.

    ``success`` is ``exact_plan``: the same calls about the same objects, every point within 2 cm.
    """
    from sim.world import World

    if suite not in PLANNER_SUITES:
        raise EmbodiedError(f"there is no planner suite {suite!r}; choose one of: {', '.join(PLANNER_SUITES)}")
    world = World(seed=seed)
    try:
        planner = make(world)
        tally, errors_m, latencies, valid = _Tally(), list[float](), list[float](), 0
        for index in range(episodes):
            asked = question(seed, index, None, suite)
            world.load(asked.scene)
            frame = world.render(next(c.name for c in asked.scene.cameras if c.mount == "fixed"))
            began = time.perf_counter()
            try:
                plan: Plan | None = planner.plan(asked.instruction, frame)
            except PlanError:
                plan = None
            latencies.append(time.perf_counter() - began)
            exact = False
            said = "no valid plan"
            if plan is not None:
                valid += 1
                exact, distances = same_plan(plan, asked.truth, asked.scene, asked.kind)
                errors_m += distances
                said = " ".join(call.skill for call in plan.calls)
            tally.add(asked.kind, exact)
            if on_episode is not None:
                on_episode(asked, exact, said)
    finally:
        world.close()
    overall, by = tally.rates()
    errors_cm = 100 * np.array(errors_m or [math.nan])
    metrics = {
        "exact_plan": overall.rate,
        "valid": valid / max(episodes, 1),
        "median_cm": float(np.median(errors_cm)),
        "p95_cm": float(np.percentile(errors_cm, 95)),
        "latency_ms": 1000 * float(np.median(latencies or [math.nan])),
    }
    return Report(suite, episodes, seed, overall, by, metrics, planner.name)


def same_plan(plan: Plan, truth: Plan, scene: Scene, kind: str) -> tuple[bool, list[float]]:
    """Whether a plan is the true one, and the distances (m) of its points from the true ones where the calls agree.

    Moves may come in any order where the instruction does not say one (group, sort, clear).
    """
    from embodied.language.view import look

    camera = _camera(scene)
    view = look(scene, camera)
    if plan.speech is not None or truth.speech is not None:
        a, b = plan.speech, truth.speech
        same = a is not None and b is not None and a.skill == b.skill
        return same and getattr(a, "reason", "") == getattr(b, "reason", ""), []
    ours, theirs = _moves(plan, view), _moves(truth, view)
    if kind in ORDER_FREE:
        ours, theirs = sorted(ours, key=lambda m: m.key), sorted(theirs, key=lambda m: m.key)
    distances = [
        _apart(camera, p, q)
        for a, b in zip(ours, theirs, strict=False)
        if a.words == b.words
        for p, q in zip(a.points, b.points, strict=False)
    ]
    same = [m.key for m in ours] == [m.key for m in theirs]
    return same and all(d <= POINT_M for d in distances), distances


@dataclass(frozen=True)
class _Move:
    """A call, or a pick with its place: what it is about, in words and as true objects."""

    key: tuple[tuple[str, ...], ...]
    words: tuple[tuple[str, ...], ...]
    points: tuple[tuple[float, float], ...]


def _moves(plan: Plan, view: View) -> list[_Move]:
    from embodied.referee import item_meant

    moves: list[_Move] = []
    for call in plan.calls:
        name, point = getattr(call, "object", ""), getattr(call, "point", None)
        item = item_meant(view, name, point) if point is not None else None
        where = str(getattr(call, "relation", getattr(call, "direction", "")))
        where = "in" if where == "on" and item is not None and item.kind in ("tray", "plate") else where
        key, words = (call.skill, item.name if item else "", where), (call.skill, name, where)
        points = () if point is None else (point,)
        if call.skill == "place" and moves and moves[-1].key[-1][0] == "pick":
            last = moves.pop()
            moves.append(_Move((*last.key, key), (*last.words, words), (*last.points, *points)))
        else:
            moves.append(_Move((key,), (words,), points))
    return moves


def _apart(camera: CameraModel, p: tuple[float, float], q: tuple[float, float]) -> float:
    size = (camera.intrinsics.width, camera.intrinsics.height)
    a, b = camera.on_plane(np.array([p, q]) * size)
    distance = float(np.linalg.norm(a - b))
    return distance if math.isfinite(distance) else 1.0
