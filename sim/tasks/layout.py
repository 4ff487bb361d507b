"""Free spots on the table for the objects of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hardware.arm_spec import SO101
from hardware.errors import SceneError
from sim.scene import COLORS, SIZES_M, Color, Kind, ObjectSpec

Spot = tuple[float, float]

#: Ring about the pan axis, and half the sector in front of it, where objects are put: the arm reaches all of it.
RADIUS_M = (0.13, 0.27)
AZIMUTH_RAD = math.radians(55.0)
#: A drawer's middle: its handle must be in reach both shut and open.
DRAWER_RADIUS_M = (0.262, 0.300)
#: Free table (m) between the outlines of two objects; the opened jaw needs it.
GAP_M = 0.026
_TRIES = 400


def outline_m(spec: ObjectSpec) -> float:
    """Radius (m) of the circle about the foot that holds the object; a drawer's holds its handle when open."""
    if spec.kind in ("cube", "tray", "button"):
        return spec.size_m / math.sqrt(2.0)
    return spec.size_m / 2 + (0.03 if spec.kind == "drawer" else 0.0)


def polar(radius_m: float, azimuth_rad: float) -> Spot:
    """The point of the table at that distance from the pan axis, in that direction (0 = ahead)."""
    px, py = SO101.arm_origins[0].xyz[:2]
    return px + radius_m * math.cos(azimuth_rad), py + radius_m * math.sin(azimuth_rad)


def polar_of(spot: Spot) -> tuple[float, float]:
    """Inverse of ``polar``."""
    px, py = SO101.arm_origins[0].xyz[:2]
    return math.hypot(spot[0] - px, spot[1] - py), math.atan2(spot[1] - py, spot[0] - px)


def in_reach(spot: Spot) -> bool:
    """Whether a spot lies where objects are put."""
    radius, azimuth = polar_of(spot)
    return RADIUS_M[0] <= radius <= RADIUS_M[1] and abs(azimuth) <= AZIMUTH_RAD


@dataclass
class Layout:
    """Objects put one after the other, each where there is still room."""

    rng: np.random.Generator
    specs: list[ObjectSpec] = field(default_factory=list)
    kept_free: list[tuple[Spot, float]] = field(default_factory=list)

    def free(self, spot: Spot, radius_m: float, gap_m: float = GAP_M, ignore: frozenset[str] = frozenset()) -> bool:
        """Whether nothing lies, and nothing is planned, nearer than ``gap_m`` to a circle about a spot."""
        taken = [(s.position, outline_m(s)) for s in self.specs if s.name not in ignore] + self.kept_free
        if any(math.dist(spot, other) < radius_m + size + gap_m for other, size in taken):
            return False
        # In front of a drawer, where its handle comes out, the gripper works.
        return all(
            math.dist(spot, self._before_drawer(s)) > radius_m + 0.045
            for s in self.specs
            if s.kind == "drawer" and s.name not in ignore
        )

    @staticmethod
    def _before_drawer(spec: ObjectSpec) -> Spot:
        radius, azimuth = polar_of(spec.position)
        return polar(radius - 0.5 * 0.8 * spec.size_m - 0.06, azimuth)

    def spot(
        self,
        radius_m: float,
        *,
        gap_m: float = GAP_M,
        ring_m: Spot = RADIUS_M,
        ignore: frozenset[str] = frozenset(),
        near: tuple[Spot, float, float] | None = None,
    ) -> Spot:
        """A random free spot for something of that outline; ``near``: (spot, least, most distance). Raises ``SceneError``."""
        for _ in range(_TRIES):
            if near is None:
                # Uniform over the ring's area.
                radius = math.sqrt(self.rng.uniform(ring_m[0] ** 2, ring_m[1] ** 2))
                spot = polar(radius, float(self.rng.uniform(-AZIMUTH_RAD, AZIMUTH_RAD)))
            else:
                (x, y), least, most = near
                turn, far = float(self.rng.uniform(-math.pi, math.pi)), float(self.rng.uniform(least, most))
                spot = x + far * math.cos(turn), y + far * math.sin(turn)
                if not in_reach(spot):
                    continue
            if self.free(spot, radius_m, gap_m, ignore):
                return spot
        raise SceneError("there is no free spot left on the table; ask for fewer objects")

    def keep_free(self, spot: Spot, radius_m: float) -> None:
        """Let nothing be put there later."""
        self.kept_free.append((spot, radius_m))

    def put(self, kind: Kind, color: Color | None = None, *, name: str = "", opening: float = 0.0) -> ObjectSpec:
        """A new object of random size, yaw and, if None is given, colour (unused by its kind so far), on a free spot."""
        low, _, high = SIZES_M[kind]
        size = float(self.rng.uniform(low, high))
        if color is None:
            used = {s.color for s in self.specs if s.kind == kind}
            color = COLORS[int(self.rng.choice([i for i, c in enumerate(COLORS) if c not in used]))]
        draft = ObjectSpec(kind=kind, color=color, position=(0.0, 0.0), size_m=size)
        ring = DRAWER_RADIUS_M if kind == "drawer" else RADIUS_M
        spot = self.spot(outline_m(draft), ring_m=ring)
        yaw = polar_of(spot)[1] if kind == "drawer" else float(self.rng.uniform(-math.pi, math.pi))
        return self.add(draft, spot, name or f"{color}_{kind}", yaw, opening)

    def add(self, draft: ObjectSpec, spot: Spot, name: str, yaw_rad: float, opening: float = 0.0) -> ObjectSpec:
        """Put a given object on a given spot."""
        spec = draft.model_copy(
            update={
                "name": name, "position": (float(spot[0]), float(spot[1])), "yaw_deg": math.degrees(yaw_rad),
                "opening": opening,
            }
        )  # fmt: skip
        self.specs.append(spec)
        return spec
