"""Everything that is random in training, named in one place: each range with the reason for it.

    LIGHT    what the shipped point policy was trained with: mostly the nominal arm, goals a few millimetres off
    FULL     for policies that are to leave the simulator: late, offset, soft and worn servos, moved and badly calibrated
             cameras, other tables and lamps, and points that are centimetres off

What the arm does is drawn per episode while demonstrations are collected (``hardware``, ``appearance``); what is done to
points and pictures is drawn per row while training (``PictureNoise``, ``point_noise_m``), since that costs nothing.
``markdown`` prints the table for documentation.

What is *not* varied: the delay of camera frames, lens distortion, the shape of the gripper.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hardware.errors import EmbodiedError
from policies.skills import SKILLS, Skill

if TYPE_CHECKING:
    from sim.dynamics import Dynamics
    from sim.scene import CameraSpec, Look, Scene

Float = NDArray[np.float64]
Level = Literal["light", "full"]


@dataclass(frozen=True)
class Range:
    """A quantity drawn uniformly between two numbers."""

    low: float
    high: float
    unit: str
    why: str

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        return float(rng.uniform(self.low, self.high))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} {self.unit}".strip()


@dataclass(frozen=True)
class Spread:
    """A quantity drawn from a normal distribution about its nominal value."""

    deviation: float
    unit: str
    why: str

    def __str__(self) -> str:
        return f"standard deviation {self.deviation:g} {self.unit}".strip()


@dataclass(frozen=True)
class Share:
    """How often something happens."""

    share: float
    why: str

    def __str__(self) -> str:
        return f"{100 * self.share:g} %"


@dataclass(frozen=True)
class Randomization:
    """What varies between training episodes, and by how much."""

    calm: Share = Share(0.3, "episodes without injected noise, so that the plain motion is in the data too")
    dynamics: Share = Share(0.35, "episodes whose arm differs from the nominal one")
    late: Share = Share(0.5, "of those, episodes with any latency; a bus at 1 Mbaud has next to none")
    latency_s: Range = Range(
        0.0,
        0.1,
        "s",
        "USB polling, a 20 Hz loop and slow inference: 50 ms took a policy not trained for it from 1.0 to .42",
    )
    position_gain: Range = Range(
        0.06, 0.2, "per physics step", "servo stiffness by supply voltage and load: untrained, .03 left .16 of picks"
    )
    friction: Range = Range(0.5, 1.2, "", "wet plastic to rubber; between .5 and 1.5 grasps hardly notice")
    mass_scale: Range = Range(0.7, 1.4, "", "hollow prints to solid wood")
    joint_offset_rad: Spread = Spread(
        0.006, "rad", "a horn put on by hand and calibrated against a mark: a third of a degree"
    )
    dead_band_rad: Range = Range(0.0, 0.0, "rad", "a servo stops pushing near its target and so stops short of it")
    backlash_rad: Range = Range(0.0, 0.0, "rad", "play of the gears: the encoder sits before them")
    goal_error: Share = Share(0.35, "episodes in which the expert is told a goal slightly off")
    goal_error_m: Spread = Spread(0.003, "m", "what remains of a planner's point on a good day")

    camera_moved: Share = Share(
        0.0, "episodes whose cameras stand elsewhere, see sim/randomize.py: a tripod put back by hand"
    )
    wrist_shift_m: Range = Range(-0.004, 0.004, "m", "a printed bracket screwed on again")
    look: Share = Share(0.0, "episodes with another table, floor, arm colour and lamp, see sim/randomize.py")
    calibration_shift_m: Spread = Spread(
        0.003, "m", "where calibration believes the camera to stand: a hand-eye calibration's usual residue, per axis"
    )
    calibration_aim_m: Spread = Spread(0.002, "m", "the same for the point it looks at; together 2-4 mm on the table")
    #: Per row of training, in policies that see; the deviation itself is drawn from this range, so that both good and
    #: bad points occur and the network must judge by the picture.
    point_noise_m: Range = Range(0.0, 0.0, "m", "standard deviation of a planner's point: 5-20 mm for small models")


#: What the shipped point policy was trained with.
LIGHT = Randomization()
#: For policies that see and are meant for real arms.
FULL = replace(
    LIGHT,
    dynamics=Share(
        0.75, "mostly other arms; the nominal one must stay in the data, since most people run the simulation"
    ),
    latency_s=replace(LIGHT.latency_s, high=0.15),
    position_gain=replace(LIGHT.position_gain, low=0.03),
    joint_offset_rad=replace(LIGHT.joint_offset_rad, deviation=0.010),
    dead_band_rad=replace(LIGHT.dead_band_rad, high=0.015),
    backlash_rad=replace(LIGHT.backlash_rad, high=0.012),
    # The expert knows better than anything that could be seen, so what it is told is exact; points get their noise later.
    goal_error=Share(0.0, "none: a label that is 3 mm off would teach the eyes to be 3 mm off"),
    camera_moved=replace(LIGHT.camera_moved, share=0.8),
    look=replace(LIGHT.look, share=0.8),
    point_noise_m=replace(LIGHT.point_noise_m, high=0.022),
)
#: What the evaluation suite ``randomized`` draws from: as FULL, but no episode is nominal, and all are late by 0 to 150 ms.
ALWAYS = replace(
    FULL,
    dynamics=replace(FULL.dynamics, share=1.0),
    late=replace(FULL.late, share=1.0),
    camera_moved=replace(FULL.camera_moved, share=1.0),
    look=replace(FULL.look, share=1.0),
)
LEVELS: dict[Level, Randomization] = {"light": LIGHT, "full": FULL}


@dataclass(frozen=True)
class PictureNoise:
    """What is done to pictures while training. Amounts are for pixel values 0..1."""

    exposure: Range = Range(0.7, 1.3, "times", "automatic exposure and lamps")
    tint: Spread = Spread(0.06, "times, per channel", "white balance")
    offset: Spread = Spread(0.04, "", "stray light and black level")
    grain: Range = Range(0.0, 0.04, "", "sensor noise of cheap cameras indoors")
    blur: Share = Share(0.3, "pictures blurred by three pixels: focus, motion, and the jaggies of a renderer")
    texture: Range = Range(0.0, 0.12, "times", "wood grain, cloth, reflections: the simulated table is one colour")
    covered: Share = Share(0.15, "pictures with a grey rectangle over a part: cables, hands, a dirty lens")
    blind: Share = Share(0.03, "pictures that are missing altogether: a camera that drops out must not end the skill")


PICTURE_NOISE = PictureNoise()


def level(name: str) -> Randomization:
    """A named level. Raises ``EmbodiedError`` listing those there are."""
    if name not in LEVELS:
        raise EmbodiedError(f"there is no level of randomisation {name!r}; choose one of: {', '.join(LEVELS)}")
    return LEVELS[name]  # type: ignore[index]


# Drawing -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wear:
    """What ``sim.robot`` does not model of a used servo; see ``policies.worn_robot``."""

    dead_band_rad: float = 0.0
    backlash_rad: float = 0.0

    @property
    def none(self) -> bool:
        """Whether the servos are as new."""
        return self.dead_band_rad == 0.0 and self.backlash_rad == 0.0


def random_hardware(rng: np.random.Generator, randomization: Randomization) -> tuple[Dynamics, Wear]:
    """The arm of one episode; the nominal one in a share of them."""
    from sim.dynamics import Dynamics

    r = randomization
    if rng.random() >= r.dynamics.share:
        return Dynamics(), Wear()
    # One draw in either case, so that everything drawn after it stays the same.
    latency = float(rng.choice([0.0, rng.uniform(r.latency_s.low, r.latency_s.high)], p=_weights(r.late.share)))
    dynamics = Dynamics(
        latency_s=latency,
        position_gain=r.position_gain.draw(rng),
        friction=r.friction.draw(rng),
        mass_scale=r.mass_scale.draw(rng),
        joint_offset=(*rng.normal(0.0, r.joint_offset_rad.deviation, 5).tolist(), 0.0),
    )
    if r.dead_band_rad.high == r.backlash_rad.high == 0.0:
        return dynamics, Wear()
    return dynamics, Wear(r.dead_band_rad.draw(rng), r.backlash_rad.draw(rng))


def _weights(share: float) -> list[float] | None:
    return None if share == 0.5 else [1.0 - share, share]


@dataclass(frozen=True)
class Appearance:
    """How one episode looks: what is seen, by which cameras, and where calibration believes these to stand."""

    look: Look
    cameras: tuple[CameraSpec, ...]
    told: dict[str, CameraSpec] = field(default_factory=dict)

    def on(self, scene: Scene) -> Scene:
        """The scene in this light and through these cameras."""
        return scene.model_copy(update={"look": self.look, "cameras": self.cameras})


def random_appearance(rng: np.random.Generator, randomization: Randomization) -> Appearance:
    """Look, cameras and calibration of one episode."""
    from sim.randomize import random_camera, random_look
    from sim.scene import Look, Scene

    r = randomization
    look = random_look(rng) if rng.random() < r.look.share else Look()
    cameras = Scene().cameras
    if rng.random() >= r.camera_moved.share:
        return Appearance(look, cameras)
    moved = tuple(
        random_camera(rng) if spec.mount == "fixed" else _moved(spec, _uniform(rng, r.wrist_shift_m), np.zeros(3))
        for spec in cameras
    )
    told = {
        spec.name: _moved(
            spec, rng.normal(0.0, r.calibration_shift_m.deviation, 3), rng.normal(0.0, r.calibration_aim_m.deviation, 3)
        )
        for spec in moved
        if spec.mount == "fixed"
    }
    # Nobody calibrates where on the wrist the camera sits: it is believed to be where the drawing has it.
    told |= {spec.name: spec for spec in cameras if spec.mount == "wrist"}
    return Appearance(look, moved, told)


def _uniform(rng: np.random.Generator, of: Range) -> Float:
    return rng.uniform(of.low, of.high, 3)


def _moved(spec: CameraSpec, shift: Float, aim: Float) -> CameraSpec:
    position, target = (np.asarray(spec.position) + shift).tolist(), (np.asarray(spec.target) + aim).tolist()
    return spec.model_copy(update={"position": tuple(position), "target": tuple(target)})


#: Skills that have something to see at their point. A bare spot to place something on is wherever the point is.
VISIBLE: tuple[Skill, ...] = tuple(skill for skill in SKILLS if skill != "place")


def point_error(rng: np.random.Generator, skill: Skill, randomization: Randomization) -> Float:
    """The error (3,) m of a planner's point, for a skill where the picture can tell."""
    if skill not in VISIBLE:
        return np.zeros(3)
    return rng.normal(0.0, 1.0, 3) * randomization.point_noise_m.draw(rng) * error_shape(skill)


def error_shape(skill: Skill) -> Float:
    """How large errors of points are along x, y, z, relative to one another: only a stack's height is ever in doubt."""
    return np.array([1.0, 1.0, 0.5 if skill == "stack" else 0.0])


# Documentation -------------------------------------------------------------------------------------------------------


def markdown() -> str:
    """Everything that is random in training as a Markdown table: quantity, light, full, why."""
    lines = ["| quantity | light | full | why |", "|---|---|---|---|"]
    for entry in fields(Randomization):
        light, full = getattr(LIGHT, entry.name), getattr(FULL, entry.name)
        lines.append(f"| {entry.name} | {light} | {full} | {full.why} |")
    for entry in fields(PictureNoise):
        done = getattr(PICTURE_NOISE, entry.name)
        lines.append(f"| picture: {entry.name} | none | {done} | {done.why} |")
    return "\n".join(lines)
