"""How often it works: suites of episodes for planner and agent, with Wilson intervals.

    agent     single       one instruction of one step: pick, put in, put on, put beside
              skills       the same for the other skills: reach, push, open, close, press
              long         chains, groups, sorting, clearing the table
    planner   seen         words and patterns of the training, unseen scenes
              paraphrase   sentence patterns and verbs that training never saw
              novel        objects of colour and kind pairs that training never saw
              free         instructions written by hand in everyday language
              refuse       what must be refused or asked about, and as much that must not
              point        where things are
              verify       whether things are so

The planner's suites are in ``planner_suites``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embodied.drawn_questions import already_so, question
from embodied.plan_match import POINT_M, same_plan
from embodied.planner_suites import PLANNER_SUITES, evaluate_planner
from embodied.score import Question, Report, Tally, Watcher
from hardware.errors import EmbodiedError, PlanError

if TYPE_CHECKING:
    from embodied.agent import Agent
    from sim.world import World

__all__ = [
    "AGENT_SUITES", "PLANNER_SUITES", "POINT_M", "Question", "Report", "Watcher", "agent_questions", "already_so",
    "evaluate_agent", "evaluate_planner", "question", "same_plan",
]  # fmt: skip

AGENT_SUITES: dict[str, tuple[str, ...]] = {
    "single": ("pick", "put_in", "put_on", "relation"),
    "skills": ("reach", "push", "open", "close", "press"),
    "long": ("chain", "group", "sort", "clear"),
}


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
    tally, started = Tally(), time.perf_counter()
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
