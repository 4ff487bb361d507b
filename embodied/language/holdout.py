"""What training never sees, by list: colour and kind pairs, and words kept for the ``paraphrase`` split.

Sentence patterns kept for ``paraphrase`` stand beside the training ones in ``templates.py``. Held-out nouns and colour
words occur in few paraphrases, because no model trained from scratch can know a word that it never met; held-out verbs
and sentence frames occur in every one.
"""

from __future__ import annotations

from typing import Literal, get_args

from sim.scene import COLORS, CONTAINERS, GRASPABLE, Color, Kind, Scene

Split = Literal["train", "seen", "paraphrase", "novel"]
SPLITS: tuple[Split, ...] = get_args(Split)

_PAIRS: tuple[tuple[Color, Kind], ...] = (
    ("cyan", "cube"),
    ("pink", "cube"),
    ("orange", "cylinder"),
    ("purple", "ball"),
    ("black", "ball"),
    ("orange", "bowl"),
    ("cyan", "tray"),
    ("purple", "plate"),
)
HELD_OUT_PAIRS: frozenset[tuple[Color, Kind]] = frozenset(_PAIRS)
HELD_OUT_LABELS: frozenset[str] = frozenset(f"{color} {kind}" for color, kind in _PAIRS)

_WORDS = """
    deposit depositing stow dump plop plunk tuck slip pile perch atop relocate situate fetch snatch collect pluck
    scoop clutch hoist elevate aim indicate steer gesture approach tug yank seal poke depress trigger scoot bump budge
    propel retreat withdraw kindly favour subsequently afterwards ruby emerald lemon navy lavender ivory ebony
    marble barrel basin saucer platter brick
"""
#: Words that no training sentence contains.
HELD_OUT_WORDS: frozenset[str] = frozenset(_WORDS.split())


def holdout_pairs() -> frozenset[tuple[Color, Kind]]:
    """The (colour, kind) pairs that scenes of the splits train, seen and paraphrase never contain or mention."""
    return HELD_OUT_PAIRS


def trained_pairs() -> tuple[tuple[Color, Kind], ...]:
    """Every graspable or container pair that training scenes may contain, in a fixed order."""
    return tuple((c, k) for k in (*GRASPABLE, *CONTAINERS) for c in COLORS if (c, k) not in HELD_OUT_PAIRS)


def contains_holdout(scene: Scene) -> bool:
    """Whether a scene holds an object of a held-out pair: required for ``novel``, forbidden for the other splits."""
    return any((o.color, o.kind) in HELD_OUT_PAIRS for o in scene.objects)


def scene_fits(scene: Scene, split: Split) -> bool:
    """Whether a scene may be used for a split."""
    return contains_holdout(scene) == (split == "novel")
