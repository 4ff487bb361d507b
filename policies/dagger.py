"""DAgger (Ross et al. 2011): the policy acts, an expert says at every step what it would have done, the policy learns that.

Imitation alone sees only the states that experts get into; a policy's own small errors lead elsewhere, and there it has
learned nothing. Here policy and expert take turns (``Turns``): the policy long enough to get itself into trouble, the expert
long enough that an episode goes on. What is recorded is always the expert's answer.

    learner.learn([])  ->  checkpoint  ->  corrections of its mistakes  ->  learner.learn(them)  ->  ...  (``dagger``)

The loop works for any policy and any way of learning. ``embodied train policy`` runs it with its own trainer, keeping
everything on disk so that it can be interrupted; from Python, with a learner of your own:

    class Mine:
        def learn(self, corrections, round_): ...; return my_policy

    policy = dagger(Mine(), skills=("pick",), rounds=3, episodes=50, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Policy
from policies.runtime import ChunkBlender, RuntimeOptions
from policies.skills import Skill

if TYPE_CHECKING:
    from policies.data import Demo
    from policies.images import View
    from policies.randomization import Randomization

Float = NDArray[np.float64]
P = TypeVar("P", covariant=True)
#: Control steps that the policy acts in a row, and the expert after it: half a second to three, then a fifth to a half.
POLICY_STEPS = (10, 60)
EXPERT_STEPS = (4, 12)


class Turns:
    """Policy and expert take turns in acting, so that the states are those the policy gets itself into."""

    def __init__(self, policy: Policy, goal: Goal, rng: np.random.Generator) -> None:
        self._policy, self._goal, self._rng = policy, goal, rng
        self._blender = ChunkBlender(RuntimeOptions())
        self._policy_acts, self._left = False, 0
        policy.reset()

    def next(self, observation: Observation, expert_target: Float) -> Float:
        """The target (6,) of whoever's turn it is."""
        chunk = self._policy.act(observation, self._goal)  # also while the expert acts: it keeps the history
        policy_target = self._blender.next(chunk)
        if self._left == 0:
            self._policy_acts = not self._policy_acts
            self._left = int(self._rng.integers(*(POLICY_STEPS if self._policy_acts else EXPERT_STEPS)))
        self._left -= 1
        return policy_target if self._policy_acts else expert_target


class Learner(Protocol[P]):
    """Whatever turns demonstrations into a policy."""

    def learn(self, corrections: Sequence[Demo], round_: int) -> P:
        """Learn from everything so far. Round 0 comes without corrections: imitation; later rounds bring the newest."""
        ...


def run_rounds(learner: Learner[P], correct: Callable[[P, int], Sequence[Demo]], rounds: int) -> P:
    """Imitate, then ``rounds`` times: correct the present policy, learn from that. Returns the last policy.

    ``correct`` gets the policy, or whatever stands for it (a checkpoint folder), and the number of the round, from 1.
    """
    policy = learner.learn([], 0)
    for round_ in range(1, rounds + 1):
        policy = learner.learn(correct(policy, round_), round_)
    return policy


def dagger(
    learner: Learner[Policy],
    *,
    skills: Sequence[Skill],
    rounds: int,
    episodes: int,
    seed: int = 0,
    randomization: Randomization | None = None,
    views: Sequence[View] = (),
) -> Policy:
    """DAgger in this process: ``episodes`` corrected episodes per skill and round. Returns the last policy.

    ``views``: the pictures to record, for learners that see. Raises ``CheckpointError`` if an episode cannot be set up.
    """
    from policies.collect import collect
    from policies.randomization import LIGHT

    varied = LIGHT if randomization is None else randomization

    def correct(policy: Policy, round_: int) -> list[Demo]:
        return [
            demo
            for skill in skills
            for demo in collect(skill, episodes, seed, round_=round_, policy=policy, randomization=varied, views=views)
        ]

    return run_rounds(learner, correct, rounds)
