"""Demonstrations of the scripted experts as a LeRobot dataset, pictures and words included, for every trainer that reads one.

    record_demonstrations(Path("data/demos"), ("pick", "bowl"), per_skill=50, seed=0)

``policies/collect.py`` collects what this project's own networks learn from: states that noise has led astray, and crops of
pictures. Here nothing disturbs the expert, so that ``action`` is at every step both what it wanted and what was done; a
step holds whole pictures of the cameras, and each episode the instruction in words. Only successful episodes are kept.

Seeds: as in ``policies/collect.py``; an episode depends on (seed, skill, index) alone. With ``randomization`` light, that is
mostly the nominal arm in its usual light; full varies servos, cameras, tables and lamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.errors import CheckpointError
from policies.collect import MAX_ATTEMPTS, begin
from policies.goal import Goal
from policies.randomization import Level, Randomization, level, random_appearance, random_hardware
from policies.recorder import RecordedRobot, Recorder, open_recording
from policies.skills import SKILLS, Skill

if TYPE_CHECKING:
    from policies.worn_robot import WornStage
    from sim.rollout import SkillEpisode

CAMERAS = ("front", "wrist")
#: Another stream of random numbers than that of ``policies/collect.py``, whose rounds count from 0.
_STREAM = 1_000


def record_demonstrations(
    root: Path | str,
    skills: Sequence[Skill],
    per_skill: int,
    *,
    seed: int = 0,
    cameras: Sequence[str] = CAMERAS,
    randomization: Level = "light",
    on_episode: Callable[[Skill], None] | None = None,
) -> int:
    """Add ``per_skill`` successful episodes of each skill to the dataset in ``root``; returns the rows added.

    Raises ``DatasetError`` when the dataset is another robot's or the disk is full, ``CheckpointError`` when an expert
    keeps failing. Episodes that are complete stay.
    """
    from policies.worn_robot import WornStage

    stage, rows = WornStage(), 0
    try:
        with open_recording(root, stage.robot, cameras=cameras) as writer:
            recorder = Recorder(writer)
            for skill in skills:
                for index in range(per_skill):
                    rows += _recorded(
                        stage, recorder, skill, (seed, _STREAM, SKILLS.index(skill), index), randomization
                    )
                    if on_episode is not None:
                        on_episode(skill)
    finally:
        stage.close()
    return rows


def instruction(episode: SkillEpisode) -> str:
    """What the user of an agent would have said, in words."""
    label = {spec.name: spec.label for spec in episode.scene.objects}
    target, held = label.get(episode.target, ""), label.get(episode.held, "")
    return {
        "reach": f"reach for the {target}",
        "pick": f"pick up the {target}",
        "place": f"put the {held} down on the table",
        "bowl": f"put the {held} into the {target}",
        "stack": f"stack the {held} on the {target}",
        "push": f"push the {target}",
        "open": f"open the {target}",
        "close": f"close the {target}",
        "press": f"press the {target}",
    }[episode.skill]


def _recorded(stage: WornStage, recorder: Recorder, skill: Skill, seeds: tuple[int, ...], randomization: Level) -> int:
    """Rows of one successful episode, the first of as many attempts as it takes."""
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng((*seeds, attempt))
        try:
            if _succeeds(stage, recorder, skill, rng, level(randomization)):
                rows = recorder.rows
                recorder.save(True)
                return rows
        finally:
            recorder.discard()
    raise CheckpointError(f"the expert for {skill} failed {MAX_ATTEMPTS} times in a row; nothing was recorded of it")


def _succeeds(
    stage: WornStage, recorder: Recorder, skill: Skill, rng: np.random.Generator, randomization: Randomization
) -> bool:
    """Play one episode into the recorder, which holds it open; whether it ended in what the skill should bring about."""
    from sim.conditions import holds
    from sim.experts import make_expert
    from sim.rollout import DWELL_STEPS, MAX_STEPS, SkillEpisode

    episode = SkillEpisode.sample(skill, rng)
    dynamics, stage.wear = random_hardware(rng, randomization)
    stage.appearance = random_appearance(rng, randomization)
    begun = begin(stage, episode, dynamics, rng)
    if begun is None:
        return False
    goal, start = begun
    recorder.begin(instruction(episode))
    recorder.aim(Goal(skill, goal.point, goal.to))
    robot, expert = RecordedRobot(stage.robot, recorder), make_expert(stage.world.spec, goal)
    done_for = 0
    for _ in range(MAX_STEPS):
        move = expert.act(robot.observe(recorder.cameras))
        done_for = done_for + 1 if move.done else 0
        robot.act(stage.world.spec.clip(move.target))
        if done_for >= DWELL_STEPS:
            return holds(stage.world, episode.condition, start)
    return False
