"""Options of ``embodied train planner``, apart from the training so that ``--help`` loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TrainPlannerConfig:
    """Train the planner on rendered scenes and generated instructions."""

    out: Path = Path("runs/planner")
    """Folder for checkpoints; the newest model is in OUT/model."""
    data: Path = Path("data/planner")
    """Folder of rendered scenes; missing ones are rendered in the background while training runs."""
    images: int = 20_000
    """Scenes to render."""
    steps: int = 12_000
    """Optimiser steps at most."""
    eye_steps: int = 0
    """Of these, so many at first on pictures without words, four times as many of them a step: the eye alone."""
    minutes: float = 0.0
    """Stop after this many minutes of training, learning rate scheduled to it; 0: only steps count."""
    batch: int = 16
    """Pictures a step; each carries about six instructions."""
    eye_pictures: int = 0
    """So many further pictures a step without words, from which the eye alone learns: four times as quick as one with words."""
    lr: float = 1.2e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of weights, scenes and instructions."""
    resume: bool = False
    """Go on from the last checkpoint in OUT."""
    init: Path | None = None
    """Start from the weights and tokenizer of an earlier OUT or of a model's folder, such as the shipped one; new schedule."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices inside blocks (AdamW for the rest), or AdamW alone."""
    compile: bool = True
    """Compile the forward pass (needs a C++ compiler; two to three times faster)."""
    bf16: bool = False
    """bfloat16 autocast; worth it where the processor or the GPU computes in it."""
    threads: int = 1
    """CPU threads of the training process."""
    device: str = "auto"
    """auto, cpu or cuda."""
    checkpoint_minutes: float = 4.0
    """Time between checkpoints."""
    log_every: int = 20
    """Steps between lines of log."""
    probe: int = 24
    """Questions asked at every checkpoint, to print how many plans are exact so far; 0 leaves it out."""
    evaluate: int = 100
    """Questions per suite of the evaluation at the end, for the model card; 0 leaves it out."""
    hidden: int = 192
    """Width of the language half."""
    layers: int = 6
    """Layers of the language half."""
    warm_up: int = 100
    """Steps of rising learning rate."""
