"""A plan beside the plan that was meant: the same skills, about the same objects, at the same points?

Plans are compared by what they do. A pick with its place is one move; ``on`` a tray or a plate is ``in`` it; which object
a call means is decided by its name and its point. Where the words leave the order open, moves are compared as a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from embodied.plan import Plan, Point
from embodied.score import ORDER_FREE, apart_m, front_camera

if TYPE_CHECKING:
    from embodied.language.view import View
    from hardware.camera_model import CameraModel
    from sim.scene import Scene

#: A plan's point counts as right within this distance (m) on the table.
POINT_M = 0.02
_MISSING = "(no call)"


@dataclass(frozen=True)
class Match:
    """How far a plan agrees with a true one. ``distances_m``: of the points of calls that agree in words.

    ``pairs``: wanted and given skill, call by call, with reasons for refusals.
    """

    skills: bool
    objects: bool
    exact: bool
    distances_m: tuple[float, ...]
    pairs: tuple[tuple[str, str], ...]
    fault: str  # what is wrong, in a few words; empty when exact

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """To choose the nearest of several true plans."""
        return self.exact, self.objects, self.skills, sum(a == b for a, b in self.pairs)


def best_match(plan: Plan | None, truths: Sequence[Plan], scene: Scene, *, any_order: bool) -> tuple[Match, Plan]:
    """The match with the nearest of several true plans, and that plan. ``plan`` is None when there was no valid one."""
    found = [(match_plan(plan, truth, scene, any_order=any_order), truth) for truth in truths]
    return max(found, key=lambda pair: pair[0].rank)


def same_plan(plan: Plan, truth: Plan, scene: Scene, kind: str) -> tuple[bool, list[float]]:
    """Whether a plan is the true one, and the distances (m) of its points from the true ones where the calls agree.

    Moves may come in any order where the instruction does not say one (group, sort, clear).
    """
    match = match_plan(plan, truth, scene, any_order=kind in ORDER_FREE)
    return match.exact, list(match.distances_m)


def match_plan(plan: Plan | None, truth: Plan, scene: Scene, *, any_order: bool) -> Match:
    """Compare a plan with a true one; both in the picture of the scene's front camera."""
    from embodied.language.view import look

    if plan is None:
        return Match(False, False, False, (), _pairs((), _spoken_skills(truth)), "no valid plan")
    if plan.speech is not None or truth.speech is not None:
        return _match_speech(plan, truth)
    camera = front_camera(scene)
    view = look(scene, camera)
    ours, theirs = _moves(plan, view), _moves(truth, view)
    if any_order:
        ours, theirs = _aligned(ours, theirs), sorted(theirs, key=lambda m: m.key)
    skills = [m.skills for m in ours] == [m.skills for m in theirs]
    objects = skills and [m.objects for m in ours] == [m.objects for m in theirs]
    related = objects and [m.key for m in ours] == [m.key for m in theirs]
    distances = _distances(ours, theirs, camera)
    near = all(d <= POINT_M for d in distances)
    pairs = _pairs([s for m in ours for s in m.skills], [s for m in theirs for s in m.skills])
    fault = _fault(skills, objects, related, near, len(plan.calls) - len(truth.calls))
    return Match(skills, objects, related and near, tuple(distances), pairs, fault)


def _fault(skills: bool, objects: bool, related: bool, near: bool, surplus: int) -> str:
    if not skills:
        return "wrong skill" if surplus == 0 else "too many steps" if surplus > 0 else "too few steps"
    if not objects:
        return "wrong object"
    if not related:
        return "wrong side or place"
    return "" if near else "point too far off"


def _match_speech(plan: Plan, truth: Plan) -> Match:
    ours, theirs = plan.speech, truth.speech
    skills = ours is not None and theirs is not None and ours.skill == theirs.skill
    right = skills and getattr(ours, "reason", "") == getattr(theirs, "reason", "")
    if right:
        fault = ""
    elif theirs is None:
        fault = "refused or asked needlessly"
    elif ours is None:
        fault = "acted instead of refusing or asking"
    else:
        fault = "wrong reason" if skills else "asked or refused the other way round"
    pairs = _pairs(_spoken_skills(plan), _spoken_skills(truth))
    return Match(skills, right, right, (), pairs, fault)


def _spoken_skills(plan: Plan) -> list[str]:
    speech = plan.speech
    if speech is None:
        return [call.skill for call in plan.calls]
    return [f"{speech.skill} {getattr(speech, 'reason', '')}".strip()]


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((wanted, got) for wanted, got in zip_longest(theirs, ours, fillvalue=_MISSING))


@dataclass(frozen=True)
class _Move:
    """A call, or a pick with its place: what it is about, in words and as true objects."""

    key: tuple[tuple[str, ...], ...]  # (skill, true object, relation or direction) of each call
    words: tuple[tuple[str, ...], ...]
    points: tuple[Point, ...]

    @property
    def skills(self) -> tuple[str, ...]:
        return tuple(part[0] for part in self.key)

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(part[1] for part in self.key)


def _moves(plan: Plan, view: View) -> list[_Move]:
    from embodied.referee import item_meant

    moves: list[_Move] = []
    for call in plan.calls:
        name, point = getattr(call, "object", ""), getattr(call, "point", None)
        item = item_meant(view, name, point) if point is not None else None
        where = str(getattr(call, "relation", getattr(call, "direction", "")))
        where = "in" if where == "on" and item is not None and item.kind in ("tray", "plate") else where
        key, words = (call.skill, item.name if item else "", where), (call.skill, name, where)
        points = () if point is None else (point,)
        if call.skill == "place" and moves and moves[-1].key[-1][0] == "pick":
            last = moves.pop()
            moves.append(_Move((*last.key, key), (*last.words, words), (*last.points, *points)))
        else:
            moves.append(_Move((key,), (words,), points))
    return moves


def _aligned(ours: list[_Move], theirs: list[_Move]) -> list[_Move]:
    """Our moves in the order of the sorted true ones: equal moves first, then those that agree most, then the rest."""
    left, placed = sorted(ours, key=lambda m: m.key), dict[int, _Move]()
    targets = sorted(theirs, key=lambda m: m.key)
    for alike in (lambda a, b: a.key == b.key, lambda a, b: a.objects[:1] == b.objects[:1], lambda a, b: True):
        for index, target in enumerate(targets):
            if index not in placed and (found := next((m for m in left if alike(m, target)), None)) is not None:
                placed[index] = found
                left.remove(found)
    return [placed[index] for index in sorted(placed)] + left


def _distances(ours: list[_Move], theirs: list[_Move], camera: CameraModel) -> list[float]:
    return [
        apart_m(camera, p, q)
        for a, b in zip(ours, theirs, strict=False)
        if a.key == b.key or a.words == b.words
        for p, q in zip(a.points, b.points, strict=False)
    ]
