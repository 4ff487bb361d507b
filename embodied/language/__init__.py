"""The instruction grammar: from a scene to English instructions and the plans they mean, for training and evaluation.

``example(scene, camera, rng)`` gives one; the splits ``train``, ``seen``, ``paraphrase`` and ``novel`` differ in words
or in objects, and ``holdout`` says how. Nothing here runs when the agent acts: there a planner reads the picture.
"""

from __future__ import annotations

from embodied.language.generate import KINDS, Example, example, examples, feasible_kinds
from embodied.language.holdout import contains_holdout, holdout_pairs, scene_fits, trained_pairs
from embodied.language.surface import Mention

__all__ = [
    "KINDS",
    "Example",
    "Mention",
    "contains_holdout",
    "example",
    "examples",
    "feasible_kinds",
    "holdout_pairs",
    "scene_fits",
    "trained_pairs",
]
