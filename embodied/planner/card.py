"""The model card of a planner: how it was made, how well it does, what it does not do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embodied.planner.config import TrainPlannerConfig

if TYPE_CHECKING:
    from embodied.evaluation import Report

_TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# Planner

A vision-language model in the Qwen3-VL architecture ({parameters:.1f} M parameters) that turns one camera picture and an
English instruction into a plan: skill calls with points in the picture. Trained from nothing on rendered scenes and generated
instructions; no pretrained weights, no outside data.

## How it was made

    {command}

seed {seed}; {images} pictures; {steps} steps of {batch} pictures; {minutes:.0f} minutes of training on {threads} thread(s) of a
two-core machine shared with other work

## Measured

Unseen scenes and instructions; *exact plan* means the same calls about the same objects, every point within 2 cm on the
table. Wilson 95 % intervals.

{table}

## Use

    from transformers import AutoModelForImageTextToText
    model = AutoModelForImageTextToText.from_pretrained("{folder}")

or through `embodied run --planner {folder}`, which adds the grammar that keeps every answer a plan.

## Limits

English, one picture, the objects and colours of `sim/scene.py`, a camera about where the default one stands, simulated
pictures only. It names the wrong object or misses that something is not there as often as the table says; the executor checks
reach and feasibility, not understanding.
"""


def measure(folder: Path, suites: Sequence[str], episodes: int, seed: int) -> list[Report]:
    """Run the planner in ``folder`` through evaluation suites."""
    from embodied.evaluation import evaluate_planner
    from embodied.planner.local import LocalPlanner

    planner = LocalPlanner(folder)
    return [evaluate_planner(lambda _: planner, suite, episodes, seed) for suite in suites]


def table_of(reports: Sequence[Report]) -> str:
    """Markdown rows of the suites, then of the kinds of instruction of the first suite."""
    lines = [
        "| suite | exact plan | 95 % interval | episodes, seed | median / p95 point error | plan latency |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        rate, m = report.success, report.metrics
        low, high = rate.interval
        lines.append(
            f"| {report.suite} | {rate.rate:.3f} | {low:.3f} to {high:.3f} | {report.episodes}, {report.seed} "
            f"| {m['median_cm']:.2f} / {m['p95_cm']:.1f} cm | {m['latency_ms']:.0f} ms |"
        )
    if reports:
        lines += [
            "",
            f"By kind of instruction ({reports[0].suite}):",
            "",
            "| kind | exact plan | 95 % interval | episodes |",
            "|---|---|---|---|",
        ]
        for kind, rate in sorted(reports[0].by.items()):
            low, high = rate.interval
            lines.append(f"| {kind} | {rate.rate:.2f} | {low:.2f} to {high:.2f} | {rate.episodes} |")
    return "\n".join(lines)


def write_card(
    folder: Path, config: TrainPlannerConfig, *, parameters: int, steps: int, seconds: float, reports: Sequence[Report]
) -> None:
    """Write ``folder/README.md``."""
    from policies.train import command_line

    text = _TEMPLATE.format(
        parameters=parameters / 1e6,
        command=command_line(),
        seed=config.seed,
        images=config.images,
        steps=steps,
        batch=config.batch,
        minutes=seconds / 60,
        threads=config.threads,
        table=table_of(reports) if reports else "Not measured.",
        folder=folder.name,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
