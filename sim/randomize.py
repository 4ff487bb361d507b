"""What varies between episodes, in one place: each range with the reason for it."""

from __future__ import annotations

import math

import numpy as np

from sim.dynamics import Dynamics
from sim.scene import CameraSpec, Look, Rgb

#: Camera position and aim (m, uniform each way): a tripod put back by hand.
CAMERA_SHIFT_M = 0.02
AIM_SHIFT_M = 0.015
#: Field of view (degrees): lenses of one kind differ by about this much.
FOV_SPREAD_DEG = 1.5
#: Tables people have: wood, grey, white, dark; drawn between these and jittered.
TABLES: tuple[Rgb, ...] = (
    (0.72, 0.66, 0.58), (0.62, 0.47, 0.33), (0.80, 0.80, 0.78), (0.55, 0.56, 0.58), (0.40, 0.38, 0.36), (0.68, 0.72, 0.70),
)  # fmt: skip
#: Printed parts come in any colour; these are sold most.
ARMS: tuple[Rgb, ...] = (
    (0.95, 0.78, 0.25), (0.92, 0.92, 0.90), (0.15, 0.15, 0.16), (0.90, 0.50, 0.15), (0.35, 0.55, 0.80), (0.60, 0.62, 0.65),
)  # fmt: skip


def _near(rng: np.random.Generator, rgb: Rgb, spread: float) -> Rgb:
    r, g, b = (
        np.clip(np.asarray(rgb) + rng.normal(0.0, spread, 3) + rng.normal(0.0, spread), 0.0, 1.0).round(3).tolist()
    )
    return (r, g, b)


def random_look(rng: np.random.Generator) -> Look:
    """Colours of table, floor and arm, direction and strength of light, shadow in a few."""
    azimuth, height = rng.uniform(-math.pi, math.pi), rng.uniform(0.6, 2.0)
    return Look(
        table_rgb=_near(rng, TABLES[int(rng.integers(len(TABLES)))], 0.04),
        floor_rgb=_near(rng, (0.8, 0.8, 0.8), 0.06),
        arm_rgb=_near(rng, ARMS[int(rng.integers(len(ARMS)))], 0.03),
        light_direction=(round(math.cos(azimuth), 3), round(math.sin(azimuth), 3), round(height, 3)),
        light_ambient=round(float(rng.uniform(0.5, 0.75)), 3),
        shadow=bool(rng.random() < 0.1),
    )


def random_camera(rng: np.random.Generator) -> CameraSpec:
    """The default front camera, moved and turned a little."""
    base = CameraSpec()
    position = (np.asarray(base.position) + rng.uniform(-CAMERA_SHIFT_M, CAMERA_SHIFT_M, 3)).round(4).tolist()
    target = (np.asarray(base.target) + rng.uniform(-AIM_SHIFT_M, AIM_SHIFT_M, 3)).round(4).tolist()
    fov = round(base.fov_y_deg + float(rng.uniform(-FOV_SPREAD_DEG, FOV_SPREAD_DEG)), 2)
    return base.model_copy(update={"position": tuple(position), "target": tuple(target), "fov_y_deg": fov})


def nominal_dynamics() -> Dynamics:
    """No randomisation at all."""
    return Dynamics()
