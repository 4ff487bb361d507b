"""Policies on disk: a folder with ``config.json``, ``model.safetensors``, ``stats.json`` and a model card ``README.md``.

Only JSON and safetensors are read: a checkpoint from a stranger cannot run code. The checksum in ``config.json`` finds
damage on the disk or on the way; it is no signature and does not tell who made the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from policies.point import PointNetwork
    from policies.policy import Policy

FORMAT = 1
CONFIG, MODEL, STATS, CARD = "config.json", "model.safetensors", "stats.json", "README.md"
_WEIGHTS = Path(__file__).parent / "weights"
#: The shipped policies by name. ``point`` needs no camera; ``refiner`` sees, and moves with it.
SHIPPED_POLICIES = {name: _WEIGHTS / name for name in ("point", "refiner")}
SHIPPED_POINT = SHIPPED_POLICIES["point"]
#: The one that is used when nothing is said.
SHIPPED = SHIPPED_POINT
_AGAIN = "train one with `embodied train policy`, name its folder, or restore the shipped weights"


def folder_of(policy: Path | str | None) -> Path:
    """Where a policy lies: None is the shipped one, a shipped one may be called by its name."""
    if policy is None:
        return SHIPPED
    return SHIPPED_POLICIES.get(str(policy), Path(policy))


def save_point(folder: Path, network: PointNetwork, *, card: str, made: Mapping[str, Any]) -> None:
    """As ``save``, for a point network."""
    save(folder, "point", network, card=card, made=made)


def save(folder: Path, kind: str, network: nn.Module, *, card: str, made: Mapping[str, Any]) -> None:
    """Write ``network`` to ``folder``. ``made`` (JSON data) says what made it: command, seed, data, measured success."""
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights = to_bytes(state, metadata={"format": "pt"})
    stats = {name: tensor.tolist() for name, tensor in state.items() if name.endswith(("_mean", "_std"))}
    config = {
        "format": FORMAT,
        "kind": kind,
        "network": network.config.to_json(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "made": dict(made),
    }
    _replace(folder / MODEL, weights)
    _replace(folder / STATS, json.dumps(stats, indent=1).encode())
    _replace(folder / CARD, card.encode())
    _replace(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def read_config(folder: Path | str | None = None) -> dict[str, Any]:
    """The parsed ``config.json`` of a checkpoint (None: the shipped one). Raises ``CheckpointError``."""
    folder = folder_of(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no policy folder {folder}; {_AGAIN}")
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            raise CheckpointError(f"the policy folder {folder} has no {name}; {_AGAIN}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {folder / CONFIG}: {error}; {_AGAIN}") from error
    from policies.kinds import KINDS

    if not isinstance(config, dict) or config.get("kind") not in KINDS or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG} does not describe a policy of format {FORMAT} of one of the kinds {', '.join(KINDS)}; "
            f"{_AGAIN}"
        )
    return config


def load_point_network(folder: Path | str | None = None) -> PointNetwork:
    """The point network saved in ``folder`` (None: the shipped one). Raises ``CheckpointError`` naming what is wrong."""
    from policies.point import PointNetwork

    network = load_network(folder)
    if not isinstance(network, PointNetwork):
        raise CheckpointError(f"the policy in {folder} is no point policy; {_AGAIN}")
    return network


def load_network(folder: Path | str | None = None) -> nn.Module:
    """The network saved in ``folder`` (None: the shipped one). Raises ``CheckpointError`` naming what is wrong."""
    folder = folder_of(folder)
    config = read_config(folder)

    from safetensors import SafetensorError
    from safetensors.torch import load

    from policies.kinds import kind
    from policies.skills import SKILLS

    try:
        weights = (folder / MODEL).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / MODEL}: {error}; {_AGAIN}") from error
    if hashlib.sha256(weights).hexdigest() != config.get("sha256"):
        raise CheckpointError(f"{folder / MODEL} is damaged: its checksum is not the one in {CONFIG}; {_AGAIN}")
    try:
        fields = dict(config["network"])
        fields["skills"] = tuple(fields["skills"])
        network = kind(config["kind"]).load_network(fields)
        if fields["skills"] != SKILLS:
            raise CheckpointError(
                f"the policy in {folder} was trained for {', '.join(fields['skills'])}; this version has "
                f"{', '.join(SKILLS)}; {_AGAIN}"
            )
        network.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the policy in {folder} does not fit this version: {_first_line(error)}; {_AGAIN}"
        ) from error
    return network.eval()


def load_policy(folder: Path | str | None = None) -> Policy:
    """A policy of any kind ready to run, from ``folder`` or the shipped weights. Raises ``CheckpointError``."""
    network = load_network(folder)
    from policies.kinds import kind

    return kind(read_config(folder)["kind"]).policy(network)


def _replace(path: Path, content: bytes) -> None:
    """Write whole or not at all: a killed training leaves the old file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
