"""Collects demonstrations from the scripted experts, and their corrections of a policy's own mistakes (DAgger).

What varies from episode to episode is named in ``policies/randomization.py``; injected noise (DART) comes from the
experts' side, ``sim/rollout.py``. With ``views`` the demonstrations also hold what the cameras saw.

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
from policies.dagger import Turns
from policies.data import PICTURE_STRIDE, SHARD, Demo, Float, load_shard, save_shard
from policies.goal import Goal
from policies.images import View
from policies.looks import PictureKeeper, still_looks
from policies.policy import Policy
from policies.randomization import (
    LIGHT,
    Level,
    Randomization,
    level,
    point_error,
    random_appearance,
    random_hardware,
)
from policies.skills import SKILLS, Skill

if TYPE_CHECKING:
    from rich.console import Console

    from policies.worn_robot import WornStage
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


def _told(goal: SkillGoal, rng: np.random.Generator, randomization: Randomization) -> SkillGoal:
    """The goal as the expert (and later the policy) is told it: sometimes a little off."""
    from sim.experts import SkillGoal

    if rng.random() >= randomization.goal_error.share:
        return goal
    errors = rng.normal(0.0, randomization.goal_error_m.deviation, (2, 3))
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
    stage: WornStage,
    skill: Skill,
    rng: np.random.Generator,
    *,
    policy: Policy | None = None,
    randomization: Randomization = LIGHT,
    views: Sequence[View] = (),
) -> Demo | None:
    """One episode. Without ``policy`` the expert acts, disturbed by noise; None unless it succeeds.

    With ``policy`` the two take turns in acting, and what the expert would do is recorded at every step; None only if
    the episode could not be set up. ``views``: the pictures to keep.
    """
    from sim.conditions import holds
    from sim.experts import make_expert
    from sim.rollout import CALM, DWELL_STEPS, MAX_STEPS, Noise, SkillEpisode

    episode = SkillEpisode.sample(skill, rng)
    dynamics, stage.wear = random_hardware(rng, randomization)
    # From a generator of its own: an episode with pictures moves like the same one without.
    apart = rng.spawn(1)[0]
    stage.appearance = random_appearance(apart, randomization) if views else None
    begun = begin(stage, episode, dynamics, rng)
    if begun is None:
        return None
    goal, start = begun
    told = _told(goal, rng, randomization)
    camera = PictureKeeper(stage, episode, told.point, views) if views else None
    noise = CALM if rng.random() < randomization.calm.share else Noise()
    disturb = noise.source(rng)
    steer = None
    if policy is not None:
        off = np.zeros(3) if camera is None else camera.off + point_error(apart, skill, randomization)
        steer = Turns(policy, Goal(skill, told.point + off, told.to + off), rng)
    expert, robot = make_expert(stage.world.spec, _pushed_on(told, stage.world.spec)), stage.robot
    rows: list[tuple[Float, Float, Float, bool]] = []
    done_for = 0
    for step in range(MAX_STEPS):
        observation = robot.observe()
        move = expert.act(observation)
        rows.append((observation.q, observation.command, move.target, move.done))
        if camera is not None and (step % PICTURE_STRIDE == 0 or (policy is not None and policy.cameras)):
            observation = camera.see(observation, step if step % PICTURE_STRIDE == 0 else None)
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
    pictures = None if camera is None else camera.pictures()
    return Demo(skill, 0, q, command, target, done.astype(np.float64), use, told.point, told.to, pictures)


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


def collect(
    skill: Skill,
    n: int,
    seed: int,
    *,
    first: int = 0,
    round_: int = 0,
    policy: Policy | None = None,
    randomization: Randomization = LIGHT,
    views: Sequence[View] = (),
    still: bool = False,
) -> list[Demo]:
    """Demonstrations ``first`` to ``first + n - 1`` of a skill; ``still``: looks at scenes in which nothing moves.

    Raises ``CheckpointError`` if the expert keeps failing.
    """
    stage = _stage()
    demos = []
    for index in range(first, first + n):
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng((seed, round_, SKILLS.index(skill), index, attempt))
            if still:
                demo: Demo | None = still_looks(stage, skill, rng, randomization=randomization, views=views)
            else:
                demo = demonstrate(stage, skill, rng, policy=policy, randomization=randomization, views=views)
            if demo is not None:
                demos.append(replace(demo, seed=index))
                break
        else:
            raise CheckpointError(f"the expert for {skill} failed {MAX_ATTEMPTS} times in a row; nothing to learn from")
    return demos


@cache
def _stage() -> WornStage:
    """One world per process: building it costs more than an episode."""
    from policies.worn_robot import WornStage

    return WornStage()


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
    randomization: Level = "light"
    views: tuple[View, ...] = ()
    still: bool = False


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
    randomization: Level = "light",
    views: Sequence[View] = (),
    kind: str = "point",
    still: bool = False,
) -> list[Demo]:
    """All demonstrations of a round: those missing are collected, shard by shard, the others read from ``data``.

    Round 0 is the experts' own, or ``still`` looks. Later rounds need ``policy_folder``, the checkpoint that is corrected,
    and its ``kind``. Raises ``CheckpointError`` if ``data`` cannot be written or an expert keeps failing.
    """
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    folder = data / shard_folder(round_, randomization, views, kind, still=still)
    jobs = []
    for skill in skills:
        for number, first in enumerate(range(0, per_skill, SHARD)):
            count = min(SHARD, per_skill - first)
            path = folder / f"seed{seed}-{skill}-{number:04d}-{count}.npz"
            jobs.append(
                _Job(path, skill, first, count, seed, round_, policy_folder, randomization, tuple(views), still)
            )
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


def shard_folder(round_: int, randomization: Level, views: Sequence[View], kind: str, *, still: bool = False) -> str:
    """Where a round's demonstrations lie: what differs in kind must not be taken for one another."""
    words = ["looks" if still else "demos"] if round_ == 0 else [f"round{round_}", *([kind] if kind != "point" else [])]
    if views or randomization != "light":
        words.append(randomization)
    return "-".join([*words, *(f"{view.camera}{view.pixels}" for view in views)])


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
    demos = collect(
        job.skill, job.count, job.seed, first=job.first, round_=job.round_, policy=policy,
        randomization=level(job.randomization), views=job.views, still=job.still,
    )  # fmt: skip
    save_shard(job.path, demos)


@cache
def _policy(folder: Path, round_: int) -> Policy:
    """The policy as it is in this round: the same folder holds a better one in the next."""
    import torch

    from policies.checkpoint import load_policy

    torch.set_num_threads(1)  # a network this small gains nothing from more, and workers share the cores
    return load_policy(folder)
