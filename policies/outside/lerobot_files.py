"""LeRobot's checkpoint folder, read without LeRobot: ``config.json``, weights and normalisation, all JSON and safetensors.

    config.json, model.safetensors                         every version
    policy_preprocessor.json, policy_postprocessor.json    since 0.4: the steps before and after the network; the
    *_normalizer_processor.safetensors                     statistics of two of them lie in files of their own
    normalize_inputs.*, unnormalize_outputs.*              before 0.4: the statistics, as buffers among the weights

LeRobot imports whatever class a pipeline file names. Here a file chooses nothing: steps that are not listed below, and
kinds of policy that are not listed, are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("act", "diffusion")
#: Steps of a pipeline that have no say in numbers here: pictures and joints are put into a batch on this device anyway.
_PLAIN_STEPS = {"to_batch_processor", "device_processor"}
_NORMALIZERS = {"normalizer_processor", "unnormalizer_processor"}
_RENAME = "rename_observations_processor"
#: Normalisation by name: the two statistics it needs.
MODES: dict[str, tuple[str, str]] = {
    "MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"),
}  # fmt: skip
_EPS = 1e-8
_OLD_BUFFER = re.compile(r"(normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_(\w+)\.(mean|std|min|max)")

Stats = dict[str, dict[str, "Tensor"]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, read."""

    folder: Path
    kind: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    stats: Stats
    renamed: Mapping[str, str]  # the robot's name of an observation: the network's


def read(folder: Path) -> Checkpoint:
    """Read a folder. Raises ``CheckpointError`` naming what is missing, broken or not supported."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no LeRobot checkpoint folder {folder}; it is the one that holds config.json")
    config = _json(folder / "config.json", "is it the folder called pretrained_model?")
    kind = config.get("type")
    if kind not in KINDS:
        raise CheckpointError(f"{folder} holds a LeRobot policy of type {kind!r}; supported are: {', '.join(KINDS)}")
    for part in ("input_features", "output_features"):
        if not isinstance(config.get(part), dict) or not config[part]:
            raise CheckpointError(
                f"{folder / 'config.json'} has no {part}; checkpoints older than LeRobot 0.2 have none"
            )
    if config.get("use_peft"):
        raise CheckpointError(f"{folder} holds an adapter, not whole weights; merge it with its base policy first")
    weights = _tensors(folder / "model.safetensors")
    renamed: dict[str, str] = {}
    if (folder / "policy_preprocessor.json").exists():
        stats = _pipeline(folder, "policy_preprocessor.json", renamed)
        _merge(stats, _pipeline(folder, "policy_postprocessor.json", {}))
    else:
        stats, weights = _old_stats(weights, config)
    return Checkpoint(folder, kind, config, weights, stats, renamed)


def normalization(checkpoint: Checkpoint, key: str, kind: str) -> tuple[Tensor, Tensor]:
    """``shift`` and ``scale`` with normalised = (value - shift) / scale for a feature.

    Raises ``CheckpointError`` when the statistics that its normalisation needs are missing or not finite.
    """
    import torch

    mode = _mode(checkpoint, kind)
    if mode == "IDENTITY":
        return torch.zeros(1), torch.ones(1)
    if mode not in MODES:
        raise CheckpointError(f"{checkpoint.folder}: normalisation {mode!r} is not one of {', '.join(MODES)}, IDENTITY")
    first, second = MODES[mode]
    found = checkpoint.stats.get(key, {})
    if first not in found or second not in found:
        raise CheckpointError(
            f"{checkpoint.folder} lacks the statistics {first} and {second} of {key}, which its normalisation {mode} needs; "
            "copy the policy_*processor files that LeRobot saved beside the weights"
        )
    a, b = found[first].float(), found[second].float()
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise CheckpointError(f"{checkpoint.folder}: the statistics of {key} are not finite; it was never normalised")
    if mode == "MEAN_STD":
        return a, b + _EPS
    width = torch.where(b == a, torch.full_like(b, _EPS), b - a)
    return a + 0.5 * width, 0.5 * width


def _mode(checkpoint: Checkpoint, kind: str) -> str:
    modes = checkpoint.config.get("normalization_mapping")
    return str(modes.get(kind, "IDENTITY")) if isinstance(modes, dict) else "IDENTITY"


def _json(path: Path, advice: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; {advice}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(
            f"there is no {path}; weights are read from safetensors only, never from .pt or .bin files"
        )
    try:
        found: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return found


def _pipeline(folder: Path, name: str, renamed: dict[str, str]) -> Stats:
    """The statistics in a pipeline's files; fills ``renamed``."""
    stats: Stats = {}
    steps = _json(folder / name, "LeRobot saves it beside the weights").get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{folder / name} lists no steps")
    for step in steps:
        step_name, config = step.get("registry_name"), step.get("config") or {}
        if step_name == _RENAME:
            renamed |= {str(old): str(new) for old, new in (config.get("rename_map") or {}).items()}
        elif step_name in _NORMALIZERS:
            _merge(stats, _step_stats(folder, str(step.get("state_file") or "")))
        elif step_name not in _PLAIN_STEPS:
            what = step_name or step.get("class")
            raise CheckpointError(f"{folder / name} has the step {what!r}, which is not supported and not run")
    return stats


def _step_stats(folder: Path, file: str) -> Stats:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+\.safetensors", file):
        raise CheckpointError(
            f"{folder}: a normalisation step names no file beside it for its statistics, but {file!r}"
        )
    stats: Stats = {}
    for name, tensor in _tensors(folder / file).items():
        key, _, statistic = name.rpartition(".")
        stats.setdefault(key, {})[statistic] = tensor
    return stats


def _old_stats(weights: dict[str, Tensor], config: Mapping[str, Any]) -> tuple[Stats, dict[str, Tensor]]:
    """Statistics out of the weights; in buffer names every dot of a feature's name is an underscore."""
    names = {key.replace(".", "_"): key for key in (*config["input_features"], *config["output_features"])}
    stats: Stats = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = _OLD_BUFFER.fullmatch(name)
        if found is None:
            rest[name] = tensor
        elif found[2] in names:
            stats.setdefault(names[found[2]], {})[found[3]] = tensor
    return stats, rest


def _merge(stats: Stats, more: Stats) -> None:
    for key, values in more.items():
        stats.setdefault(key, {}).update(values)


def reach_of(stats: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """How far (largest amount) the five arm joints and the gripper go, by the statistics; None if they do not tell."""
    if "min" in stats and "max" in stats:
        most = [max(abs(float(a)), abs(float(b))) for a, b in zip(stats["min"], stats["max"], strict=True)]
    elif "mean" in stats and "std" in stats:
        most = [abs(float(m)) + 2.0 * float(s) for m, s in zip(stats["mean"], stats["std"], strict=True)]
    else:
        return None
    if len(most) != 6 or not all(math.isfinite(value) for value in most):
        return None
    return max(most[:5]), most[5]
