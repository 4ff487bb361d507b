"""From a scene and a camera to an instruction and the plan it means.

Everything is drawn from one ``numpy`` generator, so the same generator state gives the same example.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embodied.language import chains, defects, holdout, many, steps
from embodied.language.draft import Context, Draft
from embodied.language.holdout import HELD_OUT_LABELS, Split
from embodied.language.surface import Mention, polite, typed
from embodied.language.view import SUPPORTS, View, look
from embodied.language.words import Voice
from embodied.plan import Plan
from hardware.camera_model import CameraModel
from hardware.errors import SceneError
from sim.scene import CONTAINERS, GRASPABLE, Scene


@dataclass(frozen=True, slots=True)
class Example:
    """An instruction, the plan it means, its kind, and which characters speak of which objects."""

    instruction: str
    plan: Plan
    kind: str
    mentions: tuple[Mention, ...]


def _single(kind: str) -> Callable[[Context], Draft | None]:
    def build(context: Context) -> Draft | None:
        return _say_step(context, kind, "any")

    return build


def _styled(style: str) -> Callable[[Context], Draft | None]:
    def build(context: Context) -> Draft | None:
        kinds = ("pick", "pick", "put_in", "put_in", "put_on", "relation", "push", "reach")
        return _say_step(context, context.voice.dice.choice(kinds), style)

    return build


def _say_step(context: Context, kind: str, style: str) -> Draft | None:
    step = steps.make(kind, context.view, context.voice, careful=context.careful)
    if step is None or (phrases := steps.phrases_for(step, context.view, context.voice, style=style)) is None:
        return None
    segments, statement = steps.say(step, phrases, context.voice)
    return Draft(segments, step.calls(), statement)


_BUILDERS: dict[str, tuple[float, Callable[[Context], Draft | None]]] = {
    "reach": (0.045, _single("reach")),
    "pick": (0.105, _single("pick")),
    "put_in": (0.165, _single("put_in")),
    "put_on": (0.140, _single("put_on")),
    "relation": (0.085, _single("relation")),
    "push": (0.055, _single("push")),
    "open": (0.080, _single("open")),
    "close": (0.080, _single("close")),
    "press": (0.070, _single("press")),
    "home": (0.012, _single("home")),
    "chain": (0.090, chains.build_chain),
    "group": (0.060, many.build_group),
    "sort": (0.090, many.build_sort),
    "clear": (0.035, many.build_clear),
    "spatial": (0.060, _styled("spatial")),
    "size": (0.090, _styled("size")),
    "absent": (0.155, defects.build_absent),
    "ambiguous": (0.070, defects.build_ambiguous),
    "impossible": (0.030, defects.build_impossible),
    "unsafe": (0.012, defects.build_unsafe),
    "unclear": (0.030, defects.build_unclear),
}
#: Kinds of instructions and how often each is drawn where the scene allows it.
KINDS: dict[str, float] = {kind: weight for kind, (weight, _) in _BUILDERS.items()}
#: Training asks more often for what is learned more slowly.
_TRAINING_KINDS = KINDS | {
    "ambiguous": 0.12, "group": 0.14, "sort": 0.15, "chain": 0.12, "size": 0.11, "spatial": 0.075, "clear": 0.045,
    "absent": 0.15, "open": 0.085, "close": 0.090, "press": 0.150, "put_on": 0.16, "put_in": 0.165, "relation": 0.105,
}  # fmt: skip
#: Draws per kind before it counts as impossible in a scene.
_TRIES = {
    "spatial": 12, "size": 12, "sort": 12, "group": 12, "chain": 8, "absent": 20, "ambiguous": 20, "impossible": 20,
}  # fmt: skip
_NOVEL_TRIES = 60
_WORDLESS = ("home", "unsafe", "unclear")


def feasible_kinds(scene: Scene) -> list[str]:
    """Kinds of instructions that make sense in a scene; a few may still prove impossible through a given camera."""
    counts = dict.fromkeys(_NEEDS, 0)
    for spec in scene.objects:
        for group, members in _NEEDS.items():
            counts[group] += spec.kind in members
    same_kind = max((sum(o.kind == p.kind for p in scene.objects) for o in scene.objects), default=0)
    movable, containers = counts["movable"], counts["containers"]
    possible = {
        "reach": bool(scene.objects),
        "pick": movable > 0,
        "put_in": movable > 0 and containers > 0,
        "put_on": movable > 1 and counts["supports"] > 0,
        "relation": movable > 0 and len(scene.objects) > counts["drawers"] + 1,
        "push": movable > 0,
        "open": counts["drawers"] > 0,
        "close": counts["drawers"] > 0,
        "press": counts["buttons"] > 0,
        "chain": movable > 0 and len(scene.objects) > 1,
        "group": movable > 0 and containers > 0,
        "sort": movable > 1 and containers > 1,
        "clear": movable > 0 and containers > 0,
        "spatial": same_kind > 1,
        "size": same_kind > 1,
        "ambiguous": same_kind > 1 or (movable > 1 and containers > 0),
    }
    return [kind for kind in KINDS if possible.get(kind, True)]


_NEEDS: dict[str, tuple[str, ...]] = {
    "movable": GRASPABLE,
    "containers": CONTAINERS,
    "supports": SUPPORTS,
    "drawers": ("drawer",),
    "buttons": ("button",),
}


def example(
    scene: Scene, camera: CameraModel, rng: np.random.Generator, *, split: Split = "train", kind: str | None = None
) -> Example:
    """One instruction about a scene as ``camera`` sees it, and its plan.

    ``split``: ``train`` (with rare typing errors), ``seen`` (the same words and patterns, clean, all spots free and in
    reach), ``paraphrase`` (only held-out sentence patterns and verbs), ``novel`` (training words about objects of
    held-out colour and kind pairs). ``kind``: one of ``KINDS``; drawn by weight when None.

    Raises ``SceneError`` when the scene does not fit the split or has nothing for ``kind``, ``ValueError`` for an
    unknown kind or split.
    """
    return examples(scene, camera, rng, 1, split=split, kind=kind)[0]


def examples(
    scene: Scene,
    camera: CameraModel,
    rng: np.random.Generator,
    count: int,
    *,
    split: Split = "train",
    kind: str | None = None,
) -> list[Example]:
    """``count`` examples about one scene; cheaper than ``count`` calls of ``example``."""
    if split not in holdout.SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(holdout.SPLITS)}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind of instruction {kind!r}; choose one of {', '.join(KINDS)}")
    if not holdout.scene_fits(scene, split):
        wanted = "at least one object" if split == "novel" else "no object"
        raise SceneError(
            f"the split {split!r} needs a scene with {wanted} of a held-out pair ({', '.join(sorted(HELD_OUT_LABELS))})"
        )
    view = look(scene, camera)
    return [_example(view, random.Random(int(seed)), split, kind) for seed in rng.integers(2**62, size=count)]


def _example(view: View, dice: random.Random, split: Split, kind: str | None) -> Example:
    shares = _TRAINING_KINDS if split == "train" else KINDS
    kinds = dict(shares) if kind is None else {kind: 1.0}
    if split == "novel":
        kinds = {name: weight for name, weight in kinds.items() if name not in _WORDLESS}
    while kinds:
        chosen = dice.choices(tuple(kinds), tuple(kinds.values()))[0]
        tries = _NOVEL_TRIES if split == "novel" else _TRIES.get(chosen, 4)
        for _ in range(tries):
            if (found := _try(view, dice, split, chosen)) is not None:
                return found
        del kinds[chosen]
    raise SceneError(
        f"no instruction{f' of kind {kind!r}' if kind else ''} fits this scene for the split {split!r}; "
        "feasible_kinds(scene) lists those that may"
    )


def _try(view: View, dice: random.Random, split: Split, kind: str) -> Example | None:
    voice = Voice(
        dice,
        held_out=split == "paraphrase",
        bare=dice.random() < 0.08,
        plain=dice.random() < 0.3,
        invents=split == "train",
        kinds=frozenset(item.kind for item in view.items),
    )
    careful = split != "train" or dice.random() > steps.CARELESS
    forbidden = frozenset() if split == "novel" else HELD_OUT_LABELS
    draft = _BUILDERS[kind][1](Context(view, voice, careful, forbidden))
    if draft is None or (split == "novel" and not _is_novel(draft)):
        return None
    if draft.raw:
        return Example(draft.segments[0][0], Plan(calls=draft.calls), kind, ())
    segments = polite(draft.segments, draft.statement, voice)
    text, mentions = typed(segments, voice, typos=split == "train")
    return Example(text, Plan(calls=draft.calls), kind, mentions)


def _is_novel(draft: Draft) -> bool:
    return any(getattr(call, "object", "") in HELD_OUT_LABELS for call in draft.calls)
