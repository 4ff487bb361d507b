"""Collects demonstrations from the scripted experts, and their corrections of a policy's own mistakes (DAgger).

What varies from episode to episode is drawn here, in one place: injected noise (DART), the arm's dynamics, and small errors
of the goal point, because the points that a planner gives are a few millimetres off.

Seeds: episode ``index`` of a skill depends on (seed, round, skill, index) alone, with seed 0..9999; evaluation draws from
seeds of 1_000_000 and more, so no evaluation episode was ever trained on.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.arm_spec import ArmSpec
from hardware.errors import CheckpointError
from hardware.robot import Observation
from policies.data import SHARD, Demo, Float, load_shard, save_shard
from policies.goal import SKILLS, Goal, Skill
from policies.policy import Policy
from policies.runtime import ChunkBlender, RuntimeOptions

if TYPE_CHECKING:
    from rich.console import Console

    from sim.conditions import Start
    from sim.dynamics import Dynamics
    from sim.experts import SkillGoal
    from sim.rollout import SkillEpisode, Stage

#: So much further (m) than told is a drawer pushed; with goal points 4 mm off, 78 % were shut without it, 100 % with it.
PUSH_ON_M = 0.010
#: Joint motion per control step while something held is carried home, rad.
CARRY_RAD = 0.06
#: Attempts at one demonstration before the expert is taken to be broken.
MAX_ATTEMPTS = 40


@dataclass(frozen=True)
class Variation:
    """Shares and sizes of what varies between training episodes."""

    calm_share: float = 0.3  # episodes without injected noise
    dynamics_share: float = 0.35  # episodes with random dynamics
    max_latency_s: float = 0.1
    gain: tuple[float, float] = (0.06, 0.2)  # share of the error that a servo removes per physics step
    friction: tuple[float, float] = (0.5, 1.2)
    mass_scale: tuple[float, float] = (0.7, 1.4)
    joint_offset_rad: float = 0.006  # standard deviation, arm joints only
    goal_error_share: float = 0.35  # episodes in which the expert is told a goal slightly off
    goal_error_m: float = 0.003  # standard deviation along x and y; half of it along z when stacking


def random_dynamics(rng: np.random.Generator, variation: Variation) -> Dynamics:
    """The dynamics of one training episode; nominal in most."""
    from sim.dynamics import Dynamics

    if rng.random() >= variation.dynamics_share:
        return Dynamics()
    return Dynamics(
        latency_s=float(rng.choice([0.0, rng.uniform(0.0, variation.max_latency_s)])),
        position_gain=float(rng.uniform(*variation.gain)),
        friction=float(rng.uniform(*variation.friction)),
        mass_scale=float(rng.uniform(*variation.mass_scale)),
        joint_offset=(*rng.normal(0.0, variation.joint_offset_rad, 5).tolist(), 0.0),
    )


def _told(goal: SkillGoal, rng: np.random.Generator, variation: Variation) -> SkillGoal:
    """The goal as the expert (and later the policy) is told it: sometimes a little off."""
    from sim.experts import SkillGoal

    if rng.random() >= variation.goal_error_share:
        return goal
    errors = rng.normal(0.0, variation.goal_error_m, (2, 3))
    errors[:, 2] *= 0.5 if goal.skill == "stack" else 0.0
    point = goal.point + errors[0]
    return SkillGoal(goal.skill, point, goal.to + errors[1] if goal.skill == "push" else point)


def _pushed_on(goal: SkillGoal, spec: ArmSpec) -> SkillGoal:
    """What the expert is told so that it shuts a drawer as far as it goes, and not as far as an inexact point says."""
    from sim.experts import SkillGoal

    if goal.skill != "close":
        return goal
    outwards = goal.point[:2] - spec.arm_origins[0].xyz[:2]
    point = goal.point + np.append(PUSH_ON_M * outwards / np.linalg.norm(outwards), 0.0)
    return SkillGoal(goal.skill, point, point)


def demonstrate(
    stage: Stage,
    skill: Skill,
    rng: np.random.Generator,
    *,
    policy: Policy | None = None,
    variation: Variation = Variation(),
) -> Demo | None:
    """One episode. Without ``policy`` the expert acts, disturbed by noise; None unless it succeeds.

    With ``policy`` the two take turns in acting, and what the expert would do is recorded at every step; None only if
    the episode could not be set up.
    """
    from sim.conditions import holds
    from sim.experts import make_expert
    from sim.rollout import CALM, DWELL_STEPS, MAX_STEPS, Noise, SkillEpisode

    episode = SkillEpisode.sample(skill, rng)
    begun = begin(stage, episode, random_dynamics(rng, variation), rng)
    if begun is None:
        return None
    goal, start = begun
    told = _told(goal, rng, variation)
    noise = CALM if rng.random() < variation.calm_share else Noise()
    disturb = noise.source(rng)
    steer = None if policy is None else Turns(policy, Goal(skill, told.point, told.to), rng)
    expert, robot = make_expert(stage.world.spec, _pushed_on(told, stage.world.spec)), stage.robot
    rows: list[tuple[Float, Float, Float, bool]] = []
    done_for = 0
    for _ in range(MAX_STEPS):
        observation = robot.observe()
        move = expert.act(observation)
        rows.append((observation.q, observation.command, move.target, move.done))
        done_for = done_for + 1 if move.done else 0
        if done_for >= DWELL_STEPS:
            break
        wanted = move.target if steer is None else steer.next(observation, move.target)
        robot.act(stage.world.spec.clip(wanted + disturb.next()))
    success = done_for >= DWELL_STEPS and holds(stage.world, episode.condition, start)
    if policy is None and not success:
        return None
    q, command, target, done = (np.array(column) for column in zip(*rows, strict=True))
    # An expert that believes in a success that is none must not teach that belief.
    use = np.ones(len(q)) if success else 1.0 - done
    return Demo(skill, 0, q, command, target, done.astype(np.float64), use, told.point, told.to)


def begin(
    stage: Stage, episode: SkillEpisode, dynamics: Dynamics, rng: np.random.Generator
) -> tuple[SkillGoal, Start] | None:
    """Set an episode up; half of those that begin with something in the gripper begin at home, where an agent takes
    what it picked to look at the table again, the others over the place of the pick. None if that fails."""
    from sim.conditions import Held, holds

    begun = stage.begin(episode, dynamics)
    if begun is None or not episode.held or rng.random() < 0.5:
        return begun
    robot = stage.robot
    first = robot.observe().command
    home = np.append(robot.spec.home[:5] + rng.normal(0.0, 0.03, 5), first[5])
    steps = max(1, math.ceil(float(np.abs(home - first).max()) / CARRY_RAD))
    for share in np.minimum(np.arange(1, steps + 4) / steps, 1.0):  # a few more steps to come to rest
        robot.act(first + share * (home - first))
    return begun if holds(stage.world, Held(episode.held), begun[1]) else None


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
            self._left = int(self._rng.integers(10, 60) if self._policy_acts else self._rng.integers(4, 12))
        self._left -= 1
        return policy_target if self._policy_acts else expert_target


def collect(
    skill: Skill, n: int, seed: int, *, first: int = 0, round_: int = 0, policy: Policy | None = None
) -> list[Demo]:
    """Demonstrations ``first`` to ``first + n - 1`` of a skill. Raises ``CheckpointError`` if the expert keeps failing."""
    stage = _stage()
    demos = []
    for index in range(first, first + n):
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng((seed, round_, SKILLS.index(skill), index, attempt))
            demo = demonstrate(stage, skill, rng, policy=policy)
            if demo is not None:
                demos.append(replace(demo, seed=index))
                break
        else:
            raise CheckpointError(f"the expert for {skill} failed {MAX_ATTEMPTS} times in a row; nothing to learn from")
    return demos


@cache
def _stage() -> Stage:
    """One world per process: building it costs more than an episode."""
    from sim.rollout import Stage

    return Stage()


# Shards --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    path: Path
    skill: Skill
    first: int
    count: int
    seed: int
    round_: int
    policy_folder: Path | None


def collect_shards(
    data: Path,
    skills: Sequence[Skill],
    per_skill: int,
    *,
    seed: int = 0,
    round_: int = 0,
    policy_folder: Path | None = None,
    workers: int = 1,
    console: Console | None = None,
) -> list[Demo]:
    """All demonstrations of a round: those missing are collected, shard by shard, the others read from ``data``.

    Round 0 is the experts' own; later rounds need ``policy_folder``, the checkpoint that is corrected.
    Raises ``CheckpointError`` if ``data`` cannot be written or an expert keeps failing.
    """
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    folder = data / ("demos" if round_ == 0 else f"round{round_}")
    jobs = []
    for skill in skills:
        for number, first in enumerate(range(0, per_skill, SHARD)):
            count = min(SHARD, per_skill - first)
            path = folder / f"seed{seed}-{skill}-{number:04d}-{count}.npz"
            jobs.append(_Job(path, skill, first, count, seed, round_, policy_folder))
    missing = [job for job in jobs if not job.path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        say = console or RichConsole(stderr=True)
        with Progress(console=say, transient=True) as progress:
            bar = progress.add_task(f"collecting, round {round_}", total=len(missing))
            for _ in _carry_out(missing, workers):
                progress.advance(bar)
    except OSError as error:
        raise CheckpointError(
            f"cannot write demonstrations to {folder}: {error.strerror}; choose another --data"
        ) from error
    return [demo for job in jobs for demo in load_shard(job.path)]


def _carry_out(jobs: Sequence[_Job], workers: int, work: Callable[[_Job], None] | None = None) -> Iterator[None]:
    work = work or _work
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield work(job)
        return
    # Spawned, not forked: a physics client and torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()


def _work(job: _Job) -> None:
    policy = None if job.policy_folder is None else _policy(job.policy_folder, job.round_)
    save_shard(job.path, collect(job.skill, job.count, job.seed, first=job.first, round_=job.round_, policy=policy))


@cache
def _policy(folder: Path, round_: int) -> Policy:
    """The policy as it is in this round: the same folder holds a better one in the next."""
    import torch

    from policies.checkpoint import load_policy

    torch.set_num_threads(1)  # a network this small gains nothing from more, and workers share the cores
    return load_policy(folder)
