"""The suites of ``embodied eval planner``: plans, refusals, points and yes/no questions, each from one picture.

    seen paraphrase novel   drawn instructions against the plans they mean
    free                    instructions written by hand; see ``free_suite``
    refuse                  half must be refused or asked about (five kinds take turns), half must not
    point verify            see ``look_suites``

Pictures are rendered with the arm at home. What the planner answers is compared with the scene that was rendered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embodied.drawn_questions import question
from embodied.look_suites import point_suite, verify_suite
from embodied.plan import Plan
from embodied.plan_match import best_match
from embodied.planner_bench import DEFAULT_EPISODES, Bench
from embodied.score import FIRST, Answer, Gallery, Mark, Question, Report, Watcher, errors_cm
from embodied.statistics import Rate
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from embodied.planners import Planner
    from sim.world import World

#: What must be refused or asked about, in the suite ``refuse``; the kinds take turns.
REFUSALS: tuple[str, ...] = ("absent", "ambiguous", "impossible", "unsafe", "unclear")
#: What all other instructions of that suite are counted as.
FEASIBLE = "feasible"
_RATES = ("exact_plan", "valid", "right_skills", "right_objects", "right_refusals", "false_refusals")


def evaluate_planner(
    make: Callable[[World], Planner],
    suite: str,
    episodes: int | None,
    seed: int,
    *,
    on_episode: Watcher | None = None,
    on_answer: Gallery | None = None,
) -> Report:
    """Ask a planner the questions of a suite; ``episodes`` None: 100, or all of ``free``.

    ``success`` is the share of right answers: exact plans (the same calls about the same objects, every point within
    2 cm), right speech acts and needless ones avoided in ``refuse``, all points found in ``point``, right yes or no in
    ``verify``. Raises ``EmbodiedError`` on an unknown suite, ``PlanError`` when the planner cannot do the suite's job.
    """
    from sim.world import World

    if suite not in PLANNER_SUITES:
        raise EmbodiedError(f"there is no planner suite {suite!r}; choose one of: {', '.join(PLANNER_SUITES)}")
    world = World(seed=seed)
    try:
        return _SUITES[suite](Bench(world, make(world), suite, episodes, seed, on_episode, on_answer))
    finally:
        world.close()


def size_of(suite: str, episodes: int | None) -> int:
    """How many questions ``evaluate_planner`` will ask."""
    if suite == "free":
        from embodied.free_suite import load_suite

        most = len(load_suite().cases)
        return most if episodes is None else min(episodes, most)
    return DEFAULT_EPISODES if episodes is None else episodes


def plan_questions(suite: str, episodes: int | None, seed: int) -> Iterator[Question]:
    """The questions of a suite that is answered with plans."""
    if suite == "free":
        yield from _free_questions(episodes, seed)
        return
    for index in range(size_of(suite, episodes)):
        if suite == "refuse":
            yield _refuse_question(index, seed)
        else:
            yield question(seed, index, None, suite)


def _free_questions(episodes: int | None, seed: int) -> Iterator[Question]:
    """All of them, or a sample when fewer are wanted."""
    from embodied.free_suite import load_suite

    suite = load_suite()
    chosen: Sequence[int] = range(len(suite.cases))
    if (episodes := size_of("free", episodes)) < len(chosen):
        chosen = sorted(np.random.default_rng([FIRST + seed]).choice(len(chosen), episodes, replace=False).tolist())
    for index in chosen:
        yield suite.question(index)


def _refuse_question(index: int, seed: int) -> Question:
    from embodied.language.generate import KINDS

    if index % 2 == 0:
        return question(seed, index, REFUSALS[index // 2 % len(REFUSALS)], "seen")
    feasible = {kind: weight for kind, weight in KINDS.items() if kind not in REFUSALS}
    rng = np.random.default_rng([FIRST + seed, index, 1])
    weights = np.array(list(feasible.values()))
    return question(seed, index, str(rng.choice(list(feasible), p=weights / weights.sum())), "seen")


def _plan_suite(bench: Bench) -> Report:
    counts: dict[str, list[bool]] = {name: [] for name in _RATES}
    one_step, five_step = list[float](), list[float]()
    for asked in plan_questions(bench.suite, bench.episodes, bench.seed):
        frame = bench.show(asked.scene)
        plan, why = bench.timed(bench.planner.plan, asked.instruction, frame)
        match, truth = best_match(plan, asked.truths, asked.scene, any_order=asked.order_free)
        bench.errors_m += match.distances_m
        refused = plan is not None and plan.speech is not None
        acting = [t.speech is None for t in asked.truths]
        counts["exact_plan"].append(match.exact)
        counts["valid"].append(plan is not None)
        counts["right_skills"].append(match.skills)
        counts["right_objects"].append(match.objects)
        if all(acting):
            counts["false_refusals"].append(refused)
        elif not any(acting):
            counts["right_refusals"].append(match.exact)
        if plan is not None and not refused:
            # Moves are pairs of calls, so plans of exactly five are rare; six are five at least.
            calls = len(plan.calls)
            (one_step if calls == 1 else five_step if calls in (5, 6) else []).append(bench.seconds[-1])
        kind, right = asked.kind, match.exact
        if bench.suite == "refuse" and all(acting):
            kind, right = FEASIBLE, plan is not None and not refused
        said, marks = (why, ()) if plan is None else (in_words(plan), _marks(plan))
        answer = Answer(
            asked.index, kind, asked.instruction, right, in_words(truth), said, "" if right else match.fault, frame.rgb,
            _marks(truth), marks, match.pairs, asked.tags,
        )  # fmt: skip
        bench.told(answer)
    metrics = {
        **errors_cm(bench.errors_m),
        "latency_one_step_ms": 1000 * float(np.median(one_step or [math.nan])),
        "latency_five_step_ms": 1000 * float(np.median(five_step or [math.nan])),
    }
    return bench.report(metrics, {name: Rate(sum(flags), len(flags)) for name, flags in counts.items()})


def in_words(plan: Plan) -> str:
    """A plan in one line for people."""
    from embodied.executor import describe

    if plan.speech is None:
        return ", ".join(describe(call) for call in plan.calls)
    speech = plan.speech
    about = f" ({speech.object})" if speech.object else ""
    return f"{speech.skill} {getattr(speech, 'reason', '')}".strip() + about


def _marks(plan: Plan) -> tuple[Mark, ...]:
    points = [getattr(call, "point", None) for call in plan.calls]
    return tuple(Mark(point, str(index + 1)) for index, point in enumerate(points) if point is not None)


_SUITES: dict[str, Callable[[Bench], Report]] = {
    "seen": _plan_suite, "paraphrase": _plan_suite, "novel": _plan_suite, "free": _plan_suite, "refuse": _plan_suite,
    "point": point_suite, "verify": verify_suite,
}  # fmt: skip
PLANNER_SUITES: tuple[str, ...] = tuple(_SUITES)
