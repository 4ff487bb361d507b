"""Random episodes of single skills, run by the scripted experts, and the demonstrations collected from them.

    demos = collect("pick", 200, seed=0)
    demos["q"].shape, demos["action"].shape      # (steps, 6), (steps, 6)

Noise goes into what is *executed*, never into what is recorded as the expert's answer (DART, Laskey et al. 2017): the
data then shows how to come back from states that the expert alone would not have reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import SO101
from hardware.errors import EmbodiedError, SceneError, UnreachableError
from hardware.kinematics import inverse_any_pitch
from hardware.robot import Observation
from sim.conditions import At, Closed, Condition, Held, In, On, Opened, Pressed, Reached, Start, holds
from sim.dynamics import Dynamics
from sim.experts import SKILLS, Expert, SkillGoal, make_expert
from sim.robot import SimRobot
from sim.scene import CONTAINERS, GRASPABLE, KINDS, Kind, Scene
from sim.tasks.layout import Layout, polar
from sim.world import World

Float = NDArray[np.float64]

#: Skills that begin with something in the gripper.
HOLDING: tuple[str, ...] = ("place", "bowl", "stack")
#: An episode ends when the expert has been done for so many control steps (0.5 s), which the policy learns to recognise.
DWELL_STEPS = 10
#: Longest episode in control steps: 12 s, about three times a usual one.
MAX_STEPS = 240
#: Spots for distractors: any kind but fixtures, which would need room for the gripper.
_DISTRACTORS: tuple[Kind, ...] = ("cube", "cylinder", "ball", "cube", "cylinder", "ball", "bowl", "plate", "tray")


@dataclass(frozen=True)
class SkillEpisode:
    """One random situation for one skill, as data: nothing is simulated until ``Stage.begin``."""

    skill: str
    scene: Scene
    target: str  # the object acted on; for the placing skills the container or support ("" for a spot on the table)
    held: str  # the object in the gripper at the start, "" if none
    to: tuple[float, float]  # push: where to; place: the spot
    start_q: Float  # (6,)

    @classmethod
    def sample(cls, skill: str, rng: np.random.Generator) -> SkillEpisode:
        """A random episode: target, up to three distractors, a start pose. Raises ``EmbodiedError`` on unknown skills."""
        if skill not in SKILLS:
            raise EmbodiedError(f"there is no skill {skill!r}; choose one of: {', '.join(SKILLS)}")
        while True:
            try:
                return cls._draw(skill, rng)
            except SceneError:
                continue  # no room for the last object: draw again

    @classmethod
    def _draw(cls, skill: str, rng: np.random.Generator) -> SkillEpisode:
        layout = Layout(rng)
        held = target = ""
        to = (0.0, 0.0)
        target = layout.put(
            _target_kind(skill, rng), name="target", opening=_start_opening(skill, rng)
        ).name if skill != "place" else ""  # fmt: skip
        if skill in HOLDING:
            held = layout.put(_pick(GRASPABLE, rng), name="held").name
        if skill == "place":
            to = layout.spot(0.02)
            layout.keep_free(to, 0.02)
        if skill == "push":
            to = layout.spot(0.02, ignore=frozenset((target,)), near=(layout.specs[0].position, 0.05, 0.12))
            middle = layout.specs[0].position
            for share in (0.5, 1.0):
                layout.keep_free(
                    (middle[0] + share * (to[0] - middle[0]), middle[1] + share * (to[1] - middle[1])), 0.02
                )
        for _ in range(int(rng.integers(0, 4))):
            layout.put(_pick(_DISTRACTORS, rng), name=f"other_{len(layout.specs)}")
        start = SO101.home + np.append(rng.normal(0.0, 0.03, 5), 0.0) if held else _start_pose(layout, rng)
        return cls(skill, Scene(objects=tuple(layout.specs)), target, held, to, SO101.clip(start))

    @property
    def condition(self) -> Condition:
        """What the skill should bring about."""
        make: dict[str, Callable[[], Condition]] = {
            "reach": lambda: Reached(self.target),
            "pick": lambda: Held(self.target),
            "place": lambda: At(self.held, self.to, 0.02),
            "bowl": lambda: In(self.held, self.target),
            "stack": lambda: On(self.held, self.target),
            "push": lambda: At(self.target, self.to, 0.02),
            "open": lambda: Opened(self.target),
            "close": lambda: Closed(self.target),
            "press": lambda: Pressed(self.target),
        }
        return make[self.skill]()

    def goal(self, world: World) -> SkillGoal:
        """The goal as the true scene has it now."""
        if self.skill == "place":
            point = np.array([*self.to, 0.0])
        else:
            point = goal_point(world, self.skill, self.target)
        to = np.array([*self.to, 0.0]) if self.skill == "push" else point
        return SkillGoal(self.skill, point, to)


def goal_point(world: World, skill: str, target: str) -> Float:
    """A goal's ``point`` (3,) for acting on an object as it stands in the world now (privileged)."""
    if skill in ("open", "close") or world.scene.find(target).kind == "drawer":
        handle = world.handle_position(target)
        return np.array([handle[0], handle[1], world.object_foot(target)[2]])
    foot = world.object_foot(target)
    if skill == "stack":
        return np.array([foot[0], foot[1], foot[2] + world.scene.find(target).height_m])
    return foot


def _pick(choices: tuple[Kind, ...], rng: np.random.Generator) -> Kind:
    return choices[int(rng.integers(len(choices)))]


def _target_kind(skill: str, rng: np.random.Generator) -> Kind:
    kinds: dict[str, tuple[Kind, ...]] = {
        "reach": KINDS, "pick": GRASPABLE, "push": GRASPABLE, "bowl": CONTAINERS, "stack": ("cube", "cylinder"),
        "open": ("drawer",), "close": ("drawer",), "press": ("button",),
    }  # fmt: skip
    return _pick(kinds[skill], rng)


def _start_opening(skill: str, rng: np.random.Generator) -> float:
    if skill == "close":
        return float(rng.uniform(0.5, 1.0)) if rng.random() < 0.4 else 1.0
    if skill == "open":
        return float(rng.uniform(0.0, 0.15)) if rng.random() < 0.3 else 0.0
    return 0.0


def _start_pose(layout: Layout, rng: np.random.Generator) -> Float:
    """Home, mostly; else anywhere over the table with any gripper opening, as some other skill may have left the arm."""
    if rng.random() < 0.6:
        return SO101.home + np.append(rng.normal(0.0, 0.05, 5), 0.0)
    for _ in range(40):
        spot = polar(float(rng.uniform(0.12, 0.26)), float(rng.uniform(-1.0, 1.0)))
        high = float(rng.uniform(0.05, 0.16))
        if high < 0.10 and not layout.free(spot, 0.045, 0.02):
            continue
        try:
            arm, _ = inverse_any_pitch(SO101, (*spot, high), float(rng.normal(0.0, 0.15)))
        except UnreachableError:
            continue
        opening = float(rng.choice([0.0, 0.32, 0.42, 0.6, rng.uniform(0.0, 0.8)]))
        return np.append(arm + rng.normal(0.0, 0.03, 5), opening)
    return SO101.home.copy()


# Noise ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """How much the executed commands deviate from the expert's: bursts of slowly varying noise and rare knocks."""

    burst_rad: float = 0.025  # standard deviation within a burst
    burst_share: float = 0.35  # share of the time in bursts
    knock_rad: float = 0.10
    knock_per_step: float = 0.012

    def source(self, rng: np.random.Generator) -> NoiseSource:
        """A stream of noise for one episode."""
        return NoiseSource(self, rng)


#: No noise at all.
CALM = Noise(0.0, 0.0, 0.0, 0.0)


@dataclass
class NoiseSource:
    """One episode's noise, (6,) per step. The gripper is left alone: what it holds would fall."""

    noise: Noise
    rng: np.random.Generator
    _left: int = 0
    _in_burst: bool = False
    _value: Float = field(default_factory=lambda: np.zeros(6))

    def next(self) -> Float:
        """Noise (6,) rad for the next control step."""
        n, rng = self.noise, self.rng
        if self._left <= 0:
            self._in_burst = rng.random() < n.burst_share
            self._left = int(rng.integers(6, 16))
            self._value = np.zeros(6)
            if rng.random() < n.knock_per_step * self._left:
                self._in_burst, self._left = False, 3
                self._value[:5] = rng.normal(0.0, n.knock_rad, 5)
        elif self._in_burst:
            self._value[:5] = 0.8 * self._value[:5] + rng.normal(0.0, 0.6 * n.burst_rad, 5)
        self._left -= 1
        return self._value


# Running -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectory:
    """One episode, step by step (T steps)."""

    q: Float  # (T, 6) measured before the command
    command: Float  # (T, 6) the command sent last
    action: Float  # (T, 6) what the expert wanted
    executed: Float  # (T, 6) what was sent instead
    done: NDArray[np.bool_]  # (T,) whether the expert was done
    goal: SkillGoal
    success: bool


class Stage:
    """A world and a robot on which one episode after the other is played."""

    def __init__(self, dynamics: Dynamics | None = None) -> None:
        self.world = World(Scene(), dynamics=dynamics)
        self.robot = SimRobot(self.world)

    def load(self, scene: Scene, start_q: Float | None = None, dynamics: Dynamics | None = None) -> None:
        """Swap in a scene, the arm at ``start_q`` (6,) or home, and a robot that has forgotten everything."""
        if dynamics is not None:
            self.world.dynamics = dynamics
        self.world.load(scene)
        if start_q is not None:
            self.world.reset_arm(start_q)
        self.robot = SimRobot(self.world)

    def begin(self, episode: SkillEpisode, dynamics: Dynamics | None = None) -> tuple[SkillGoal, Start] | None:
        """Set an episode up: scene, start pose, the held object picked up. None if that pick fails."""
        self.load(episode.scene, episode.start_q, dynamics)
        start = Start.of(self.world)
        if episode.held:
            foot = self.world.object_foot(episode.held)
            self.play(SkillGoal("pick", foot, foot), dwell=1)
            if not holds(self.world, Held(episode.held), start):
                return None
        return episode.goal(self.world), start

    def play(
        self,
        goal: SkillGoal,
        *,
        expert: type[Expert] | None = None,
        noise: NoiseSource | None = None,
        dwell: int = DWELL_STEPS,
        max_steps: int = MAX_STEPS,
        on_step: Callable[[Observation, Float, Float, bool], None] | None = None,
    ) -> bool:
        """Let the expert carry out a goal; returns whether it came to be done.

        ``expert``: another than the skill's own. ``on_step`` gets observation, target wanted, target sent, done.
        """
        robot = self.robot
        actor = make_expert(self.world.spec, goal) if expert is None else expert(self.world.spec, goal)
        done_for = 0
        for _ in range(max_steps):
            observation = robot.observe()
            move = actor.act(observation)
            sent = move.target if noise is None else self.world.spec.clip(move.target + noise.next())
            if on_step is not None:
                on_step(observation, move.target, sent, move.done)
            done_for = done_for + 1 if move.done else 0
            if done_for >= dwell:
                return True
            robot.act(sent)
        return False

    def close(self) -> None:
        """Release the physics client; safe to call twice."""
        self.world.close()


def run_expert(
    stage: Stage, episode: SkillEpisode, rng: np.random.Generator, noise: Noise = CALM, dynamics: Dynamics | None = None
) -> Trajectory | None:
    """One episode with the expert; None if it could not be set up (the held object was not picked)."""
    begun = stage.begin(episode, dynamics)
    if begun is None:
        return None
    goal, start = begun
    rows: list[tuple[Float, Float, Float, Float, bool]] = []

    def keep(observation: Observation, wanted: Float, sent: Float, done: bool) -> None:
        rows.append((observation.q, observation.command, wanted, sent, done))

    ended = stage.play(goal, noise=noise.source(rng) if noise != CALM else None, on_step=keep)
    q, command, action, executed, done = (np.array(column) for column in zip(*rows, strict=True))
    return Trajectory(q, command, action, executed, done, goal, ended and holds(stage.world, episode.condition, start))


def collect(
    skill: str,
    episodes: int,
    seed: int,
    *,
    noise: Noise = Noise(),
    dynamics: Callable[[np.random.Generator], Dynamics] | None = None,
    stage: Stage | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Demonstrations of a skill, flat over steps.

    Returns arrays with N rows: ``q``, ``command``, ``action``, ``executed`` (N, 6) float32; ``point``, ``to`` (N, 3)
    float32; ``done``, ``success`` (N,) bool (of the row's episode); ``episode`` (N,) int32, from 0 in order. Every third
    episode is without noise. Failures are included and marked. Episode k depends on (seed, skill, k) alone.
    ``dynamics`` draws each episode's dynamics; default: nominal.
    """
    own = stage is None
    stage = stage if stage is not None else Stage()
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for index in range(episodes):
        rng = np.random.default_rng((seed, SKILLS.index(skill), index))
        trajectory = None
        while trajectory is None:
            episode = SkillEpisode.sample(skill, rng)
            physics = dynamics(rng) if dynamics is not None else Dynamics()
            trajectory = run_expert(stage, episode, rng, CALM if index % 3 == 0 else noise, physics)
        for name, rows in _rows(trajectory, index).items():
            columns.setdefault(name, []).append(rows)
    if own:
        stage.close()
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _rows(trajectory: Trajectory, index: int) -> dict[str, NDArray[np.generic]]:
    steps = len(trajectory.q)
    return {
        "q": trajectory.q.astype(np.float32),
        "command": trajectory.command.astype(np.float32),
        "action": trajectory.action.astype(np.float32),
        "executed": trajectory.executed.astype(np.float32),
        "point": np.repeat(trajectory.goal.point[None].astype(np.float32), steps, 0),
        "to": np.repeat(trajectory.goal.to[None].astype(np.float32), steps, 0),
        "done": trajectory.done,
        "success": np.full(steps, trajectory.success),
        "episode": np.full(steps, index, np.int32),
    }
