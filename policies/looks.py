"""What the cameras see of an episode, kept for training: during a demonstration, or of a scene in which nothing moves.

An eye need not watch whole demonstrations to learn where things are. ``still_looks`` puts the arm here and there over a
scene without simulating a step: 6 ms a look instead of ten times that, so that an eye sees thousands of scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hardware.errors import UnreachableError
from hardware.kinematics import forward, inverse_any_pitch
from hardware.robot import Observation
from policies.data import Demo, Film, Float, Pictures
from policies.images import MARGIN_PX, Picture, View, look_at
from policies.randomization import VISIBLE, Randomization, Wear, random_appearance, random_hardware
from policies.skills import Skill

if TYPE_CHECKING:
    from policies.worn_robot import WornStage
    from sim.rollout import SkillEpisode

#: Looks at one still scene, each with the arm elsewhere.
LOOKS = 4
#: How far beside and over the goal point the tool is put for a look, m.
BESIDE_M, OVER_M = 0.03, (0.03, 0.16)
#: Share of still scenes as they look after some work: the second thing goes into a bowl that holds the first.
ARRANGED_SHARE = 0.4
#: Skills whose goal is a thing that may be knocked aside, which moves the goal with it. Not those that move it on purpose.
FOLLOWED: tuple[Skill, ...] = ("reach", "pick", "bowl", "stack", "press")
#: A thing lifted higher (m) than this is held and no goal any more; one moved further than this has been taken away.
_LIFTED_M, _TAKEN_M = 0.005, 0.05


class PictureKeeper:
    """Keeps what the cameras see of an episode, as crops around where the front picture has the goal point."""

    def __init__(self, stage: WornStage, episode: SkillEpisode, point: Float, views: Sequence[View]) -> None:
        self._stage, self._episode, self._views = stage, episode, tuple(views)
        self._rows, self._aim = list[int](), list[Float]()
        self._images: dict[str, list[Picture]] = {view.camera: [] for view in views}
        self._where: dict[str, list[Float]] = {view.camera: [] for view in views}
        self._first, self._point = point.copy(), point.copy()
        self.seen = stage.pointed(point) if episode.skill in VISIBLE else point.copy()
        #: (3,) m: how far calibration alone puts the point off.
        self.off = self.seen - point
        self._eyes = stage.eyes(views, self.seen)

    def see(self, observation: Observation, row: int | None) -> Observation:
        """The observation with a fresh picture of each camera; they are kept if ``row`` says of which row they are."""
        frames = self._eyes.frames(tuple(self._images))
        if row is not None:
            self._rows.append(row)
            self._aim.append(self._aimed(observation.q))
            for view in self._views:
                frame = frames[view.camera]
                self._images[view.camera].append(look_at(frame, view, self.seen, margin_px=MARGIN_PX))
                self._where[view.camera].append(frame.model.T_base_camera[:3, 3].copy())
        return replace(observation, frames=frames)

    def _aimed(self, q: Float) -> Float:
        """Where an arm that measures ``q`` (6,) must believe the goal point to be: beside it, if its joints are offset.

        Along x and y; heights are known well enough.
        """
        from sim.rollout import goal_point

        world = self._stage.world
        if self._episode.skill in FOLLOWED:
            now = goal_point(world, self._episode.skill, self._episode.target)
            if abs(now[2] - self._first[2]) < _LIFTED_M and np.linalg.norm(now - self._first) < _TAKEN_M:
                self._point = now
        believed = forward(world.spec, q) @ np.linalg.inv(world.tool_pose()) @ np.append(self._point, 1.0)
        return np.array([believed[0], believed[1], self._point[2]])

    def pictures(self) -> Pictures:
        """What was kept."""
        images = {name: Film.of(kept) for name, kept in self._images.items()}
        eyes = {name: np.array(kept) for name, kept in self._where.items()}
        return Pictures(np.array(self._rows), images, eyes, self.seen, np.array(self._aim))


def still_looks(
    stage: WornStage, skill: Skill, rng: np.random.Generator, *, randomization: Randomization, views: Sequence[View]
) -> Demo:
    """``LOOKS`` looks at one random scene of a skill, as the rows of a demonstration in which nothing is done."""
    from sim.generate import arranged
    from sim.rollout import SkillEpisode

    episode = SkillEpisode.sample(skill, rng)
    dynamics, _ = random_hardware(rng, randomization)
    stage.wear, stage.appearance = Wear(), random_appearance(rng, randomization)
    scene = episode.scene
    if rng.random() < ARRANGED_SHARE:
        scene = arranged(scene, rng, share=0.8, keep=frozenset((episode.target, episode.held)))
    stage.load(scene, episode.start_q, dynamics)
    goal = episode.goal(stage.world)
    keeper = PictureKeeper(stage, episode, goal.point, views)
    q = []
    for look in range(LOOKS):
        if look > 0:
            stage.world.reset_arm(_over(stage, goal.point, rng))
        if episode.held:
            _hand_over(stage, episode.held, rng)
        observation = stage.robot.observe()
        keeper.see(observation, look)
        q.append(observation.q)
    still = np.array(q)
    none, use = np.zeros(LOOKS), np.ones(LOOKS)
    return Demo(skill, 0, still, still, still, none, use, goal.point, goal.to, keeper.pictures())


def _over(stage: WornStage, point: Float, rng: np.random.Generator) -> Float:
    """A joint vector (6,) with the tool somewhere over a point (3,), straight down or nearly."""
    spec = stage.world.spec
    while True:
        beside = rng.normal(0.0, rng.uniform(0.0, BESIDE_M), 2)
        tool = point + np.append(beside, rng.uniform(*OVER_M))
        try:
            arm, _ = inverse_any_pitch(spec, tool, float(rng.uniform(-1.6, 1.6)) if rng.random() < 0.5 else 0.0)
        except UnreachableError:
            continue
        return spec.clip(np.append(arm + rng.normal(0.0, 0.04, 5), rng.uniform(0.0, 0.8)))


def _hand_over(stage: WornStage, name: str, rng: np.random.Generator) -> None:
    """Put a thing between the fingers as if it were held, the gripper closed about it."""
    world = stage.world
    spec = world.scene.find(name)
    q = world.arm_q()
    q[5] = spec.size_m / 0.09  # the jaw opens by about 9 cm
    world.reset_arm(q)
    tool = world.tool_pose()[:3, 3]
    world.place_object(name, tool - np.array([0.0, 0.0, 0.5 * spec.height_m]), float(rng.uniform(-3.1, 3.1)))
