"""Runs a policy on a robot until the policy itself says that it is done.

A chunk holds the targets of the next H steps; a new one is computed at every step because it is cheap. Two ways to turn
overlapping chunks into one command per step (H = 6 here, ``.`` computed, ``#`` executed):

    receding horizon, execute = 2               temporal ensembling
    step   0 1 2 3 4 5 6 7                      step   0 1 2 3 4 5 6 7
    chunk0 # # . . . .                          chunk0 # # # # # #
    chunk2     # # . . . .                      chunk1   # # # # # #
    chunk4         # # . . . .                  chunk2     # # # # # #
                                                command(t) = weighted mean of column t, newer chunks weigh more

Every command is sent with the time of the observation that this step began with, so that a robot whose clock runs on does
not obey a policy that has stalled: its answer is refused, and after half a second without one the robot latches a fault.
What is left of an earlier chunk counts as made in this step, because it is meant for it.

The runtime never asks the simulator whether a skill succeeded: it ends on the policy's done output, a timeout, a fault of
the safety core, or because the caller interrupts it.

What this does not protect against: a policy that is sure of itself and wrong. Whether the post-condition holds is for
the executor to verify from the picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardware.robot import Observation, Robot
from hardware.safety import Applied
from policies.goal import Goal
from policies.policy import Chunk, Policy
from policies.skills import Skill

Reason = Literal["done", "timeout", "fault", "interrupted"]

#: Seconds after which a skill is given up: about twice what the slowest demonstration takes.
TIMEOUT_S: dict[Skill, float] = {
    "reach": 10.0,
    "pick": 15.0,
    "place": 15.0,
    "bowl": 15.0,
    "stack": 20.0,
    "push": 20.0,
    "open": 20.0,
    "close": 20.0,
    "press": 15.0,
}
#: A chain of refused commands this long ends the skill: the safety core will not change its mind.
MAX_REJECTED = 20


@dataclass(frozen=True)
class SkillResult:
    """How one skill ended. ``done`` is what the policy claims, not what is true."""

    done: bool
    steps: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Step:
    """One control step, for whoever watches: recorder, video, progress bar."""

    index: int
    observation: Observation  # before the command
    goal: Goal
    target: NDArray[np.float64]  # (6,) what the policy wanted
    applied: Applied  # what was sent
    done: float  # the policy's belief that it is done


@dataclass(frozen=True)
class RuntimeOptions:
    """How chunks become commands and when the policy is believed to be done."""

    mode: Literal["receding", "ensemble"] = "ensemble"
    execute: int = 2
    """receding: how many steps of a chunk are executed before the next one is used."""
    decay: float = 0.25
    """ensemble: weight exp(-decay * age) of a chunk computed ``age`` steps ago."""
    done_threshold: float = 0.5
    """A step counts as done when the policy's belief is above this."""
    done_steps: int = 3
    """So many steps in a row must count as done."""

    def __post_init__(self) -> None:
        if self.execute < 1 or self.done_steps < 1:
            raise ValueError(f"execute and done_steps must be at least 1, not {self.execute} and {self.done_steps}")
        if not 0.0 < self.done_threshold < 1.0:
            raise ValueError(f"done_threshold must lie between 0 and 1, not {self.done_threshold}")
        if self.decay < 0.0:
            raise ValueError(f"decay must not be negative, not {self.decay}")


class ChunkBlender:
    """Turns a stream of overlapping chunks, one per step, into one target (6,) per step."""

    def __init__(self, options: RuntimeOptions) -> None:
        self._options = options
        self._chunks: deque[NDArray[np.float64]] = deque()  # newest first, entry k is k steps old
        self._age = 0

    def next(self, chunk: Chunk) -> NDArray[np.float64]:
        """The target for this step, given the chunk computed at this step."""
        targets = chunk.targets
        if self._options.mode == "receding":
            if not self._chunks or self._age >= min(self._options.execute, len(self._chunks[0])):
                self._chunks = deque([targets])
                self._age = 0
            target = self._chunks[0][self._age]
            self._age += 1
            return target.copy()
        self._chunks.appendleft(targets)
        while len(self._chunks) > len(targets):
            self._chunks.pop()
        votes = np.stack([old[age] for age, old in enumerate(self._chunks) if age < len(old)])
        weights = np.exp(-self._options.decay * np.arange(len(votes)))
        return np.asarray(weights @ votes / weights.sum())


class PolicyRuntime:
    """Carries out one goal after the other with a policy."""

    def __init__(self, policy: Policy, options: RuntimeOptions = RuntimeOptions()) -> None:
        self.policy = policy
        self.options = options

    def run(
        self,
        robot: Robot,
        goal: Goal,
        *,
        timeout_s: float | None = None,
        on_step: Callable[[Step], bool | None] | None = None,
    ) -> SkillResult:
        """Carry out ``goal``; returns when the policy says done, at the timeout (seconds of the robot's control clock;
        None: the skill's default), at a fault, or when ``on_step`` returns False."""
        limit = round((TIMEOUT_S[goal.skill] if timeout_s is None else timeout_s) * robot.control_hz)
        self.policy.reset()
        blender = ChunkBlender(self.options)
        done_in_a_row = rejected_in_a_row = 0
        for index in range(limit):
            # A policy may want more cameras than there are; what it cannot do without it says itself.
            observation = robot.observe([name for name in self.policy.cameras if name in robot.camera_names])
            chunk = self.policy.act(observation, goal)
            done_in_a_row = done_in_a_row + 1 if chunk.done > self.options.done_threshold else 0
            if done_in_a_row >= self.options.done_steps:
                return SkillResult(True, index, "done")
            target = blender.next(chunk)
            applied = robot.act(target, made_s=observation.stamp_s)
            if on_step is not None:
                watched = on_step(Step(index, observation, goal, target, applied, chunk.done))
                if watched is False:
                    return SkillResult(False, index + 1, "interrupted")
            rejected_in_a_row = rejected_in_a_row + 1 if applied.verdict == "reject" else 0
            if rejected_in_a_row >= MAX_REJECTED:
                reasons = "; ".join(reason.value for reason in applied.reasons)
                return SkillResult(False, index + 1, "fault", f"the safety core keeps refusing: {reasons}")
        return SkillResult(False, limit, "timeout", f"the policy did not report done within {limit} steps")
