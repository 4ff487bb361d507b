"""How often it works: suites of episodes for planner and agent, with Wilson intervals.

    agent     single       one instruction of one step: pick, put in, put on, put beside
              skills       the same for the other skills: reach, push, open, close, press
              long         chains, groups, sorting, clearing the table
              sequence     five instructions one after another in one scene, as CALVIN counts them
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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embodied.drawn_questions import already_so, question
from embodied.plan_match import POINT_M, same_plan
from embodied.planner_suites import PLANNER_SUITES, evaluate_planner
from embodied.score import Question, Report, Tally, Watcher
from embodied.sequences import LENGTH, Lengths, instructions, rich_scene
from embodied.statistics import Rate
from hardware.errors import EmbodiedError, PlanError

if TYPE_CHECKING:
    from embodied.agent import Agent
    from sim.world import World

__all__ = [
    "AGENT_KINDS", "AGENT_SUITES", "PLANNER_SUITES", "POINT_M", "Question", "Report", "Watcher", "agent_questions",
    "already_so", "evaluate_agent", "evaluate_planner", "question", "same_plan",
]  # fmt: skip

#: Kinds of instructions in the agent's suites of single episodes.
AGENT_KINDS: dict[str, tuple[str, ...]] = {
    "single": ("pick", "put_in", "put_on", "relation"),
    "skills": ("reach", "push", "open", "close", "press"),
    "long": ("chain", "group", "sort", "clear"),
}
SEQUENCE = "sequence"
AGENT_SUITES: tuple[str, ...] = (*AGENT_KINDS, SEQUENCE)


def agent_questions(suite: str, episodes: int, seed: int, world: World) -> Iterator[Question]:
    """The questions of an agent suite of single episodes; its kinds take turns, and none is fulfilled from the start.

    Raises ``EmbodiedError`` on an unknown suite.
    """
    kinds = AGENT_KINDS.get(suite)
    if kinds is None:
        raise EmbodiedError(f"there is no agent suite {suite!r}; choose one of: {', '.join(AGENT_SUITES)}")
    for index in range(episodes):
        yield question(seed, index, kinds[index % len(kinds)], "seen", world)


def evaluate_agent(
    agent: Agent, suite: str, episodes: int, seed: int, *, on_episode: Watcher | None = None, out: str | None = None
) -> Report:
    """Success of planner, policy and executor together, judged on the true scene; ``out`` keeps the episodes' folders.

    In the suite ``sequence`` an episode is a sequence of five instructions. ``success`` is the share of sequences with
    all five fulfilled; ``by`` counts the instructions that were reached, by kind; the metrics hold ``average_length``
    with its bootstrap 95 % interval, and ``reached_1`` .. ``reached_5``. Nothing on the table and nothing of the arm is
    reset inside a sequence: the arm starts at home and then drives there by itself whenever it wants to see the table.
    """
    if agent.world is None:
        raise EmbodiedError("an agent can only be evaluated in simulation: success is judged on the true scene")
    started, answers = time.perf_counter(), _Answers(agent, out)
    if suite == SEQUENCE:
        success, metrics, rates = _sequences(answers, agent.world, episodes, seed, on_episode)
    else:
        for asked in agent_questions(suite, episodes, seed, agent.world):
            agent.load(asked.scene)
            right, sentence = answers.to(asked)
            if on_episode is not None:
                on_episode(asked, right, sentence)
        success, metrics, rates = answers.tally.rates()[0], {}, {}
    metrics |= answers.metrics() | {
        "seconds_per_episode": (time.perf_counter() - started) / max(success.episodes, 1),
    }
    by, subject = answers.tally.rates()[1], f"{agent.planner.name} + {agent.policy.name}"
    return Report(suite, success.episodes, seed, success, by, metrics, subject, rates)


def _sequences(
    answers: _Answers, world: World, episodes: int, seed: int, on_episode: Watcher | None
) -> tuple[Rate, dict[str, float], dict[str, Rate]]:
    """Sequence after sequence: the share with all instructions fulfilled, and how far they came."""
    lengths, dried_up = Lengths(), 0
    for index in range(episodes):
        answers.agent.load(rich_scene(seed, index, world))
        fulfilled, right, sentence = 0, True, ""
        for asked in instructions(world, seed, index):
            right, sentence = answers.to(asked)
            if not right:
                break
            fulfilled += 1
        lengths.counts.append(fulfilled)
        if right and fulfilled < LENGTH:  # what could not be asked was not fulfilled
            dried_up, sentence = dried_up + 1, "nothing more could be asked about what is on the table"
        if on_episode is not None:
            on_episode(asked, fulfilled == LENGTH, f"{fulfilled} of {LENGTH} in a row, then {sentence}")
    rates = {f"reached_{length}": lengths.reached(length) for length in range(1, LENGTH + 1)}
    low, high = lengths.interval(seed)
    metrics = {
        "average_length": lengths.average, "average_length_low": low, "average_length_high": high,
        **{name: rate.rate for name, rate in rates.items()}, "nothing_left_to_ask": float(dried_up),
    }  # fmt: skip
    return lengths.reached(LENGTH), metrics, rates


@dataclass
class _Answers:
    """What an agent made of one question after another."""

    agent: Agent
    out: str | None
    tally: Tally = field(default_factory=Tally)
    exact: int = 0
    planning_s: float = 0.0

    def to(self, asked: Question) -> tuple[bool, str]:
        """Have it done in the world as it stands: whether it is so afterwards, and the outcome in words."""
        try:
            episode = self.agent.run(asked.instruction, truth=asked.truth, out=self.out)
            success, sentence = episode.success, f"{episode.outcome}: {episode.sentence}"
            self.planning_s += episode.seconds.get("plan", 0.0)
            if episode.plan is not None:
                self.exact += same_plan(episode.plan, asked.truth, asked.scene, asked.kind)[0]
        except PlanError as error:
            success, sentence = False, str(error)
        self.tally.add(asked.kind, success)
        return success, sentence

    def metrics(self) -> dict[str, float]:
        """Per question: the share of exact plans, and how long planning took."""
        n = max(sum(self.tally.episodes.values()), 1)
        return {"exact_plan": self.exact / n, "latency_ms": 1000 * self.planning_s / n}
