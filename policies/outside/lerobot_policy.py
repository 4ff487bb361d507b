"""A LeRobot ACT or diffusion checkpoint as a ``Policy``; the network is LeRobot's own, everything around it is here.

    our observation                          their batch                          our chunk
    q (6,) rad, gripper 0..1   / units  ->   observation.state (1, 6)
    frames by camera, RGB      resized  ->   observation.images.* (1, 3, H, W)
                                             network -> action (1, n, 6)  * units -> resampled to our rate

It does one job, the one it was trained for, whatever the goal says: neither ACT nor diffusion in LeRobot takes a skill or a
point. It is done when the arm has come to rest (``policies/outside/stillness.py``), since it says nothing about that itself.

What this does not protect against: an arm that was calibrated differently, and another camera pose than in its training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.errors import CheckpointError, RobotError
from hardware.robot import Observation
from policies.goal import Goal
from policies.images import View
from policies.outside import lerobot_files
from policies.outside.address import UNIT_NAMES, Address, resampled
from policies.outside.lerobot_files import Checkpoint, normalization
from policies.outside.stillness import Stillness
from policies.policy import Chunk

if TYPE_CHECKING:
    from torch import Tensor, nn

Float = NDArray[np.float64]

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
#: What LeRobot records at unless told otherwise, and what robots here are controlled at.
LEROBOT_HZ, CONTROL_HZ = 30.0, 20.0
_MISSING = (
    "a LeRobot checkpoint needs the package lerobot, which is not installed or cannot be imported here ({}); "
    "docs/policies.md tells how to install it beside this project, or serve the policy from an environment of its own"
)


def load_lerobot(address: Address) -> LeRobotPolicy:
    """The policy in a LeRobot checkpoint folder. Raises ``CheckpointError``."""
    checkpoint = lerobot_files.read(Path(address.place).expanduser())
    pictures = _checked_features(checkpoint)
    units = _checked_units(checkpoint, address)
    return LeRobotPolicy(checkpoint, _network(checkpoint), pictures, dataclasses.replace(address, units=units))


class LeRobotPolicy:
    """Their network, our contract."""

    name = "lerobot"
    control_hz = CONTROL_HZ

    def __init__(
        self, checkpoint: Checkpoint, network: nn.Module, pictures: dict[str, tuple[int, int]], address: Address
    ) -> None:
        self.name = f"lerobot:{checkpoint.kind}"
        self._network, self._kind = network.eval(), checkpoint.kind
        self._scale, self._hz = address.scale, address.hz or LEROBOT_HZ
        self._sizes = pictures
        self._camera = {key: _camera_of(key, checkpoint, address) for key in pictures}
        self.cameras: tuple[str, ...] = tuple(dict.fromkeys(self._camera.values()))
        self.views: tuple[View, ...] = ()  # whole pictures
        self._state, self._action = (
            normalization(checkpoint, STATE, "STATE"),
            normalization(checkpoint, ACTION, "ACTION"),
        )
        self._picture = {key: normalization(checkpoint, key, "VISUAL") for key in pictures}
        self._memory: deque[dict[str, Tensor]] = deque(maxlen=int(getattr(network.config, "n_obs_steps", 1)))
        # So many of our steps does a chunk of theirs serve before the next one is asked for.
        theirs = int(network.config.n_action_steps)
        self._replan = max(1, round(theirs / self._hz * self.control_hz))
        self._still = Stillness(self.control_hz)
        self.reset()

    def reset(self) -> None:
        """A new skill begins."""
        self._memory.clear()
        self._still.reset()
        self._targets: Float | None = None
        self._used = 0

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """What is left (H, 6) of the chunk that is being carried out; a new one when enough of it was used.

        Raises ``RobotError`` when a camera gave no frame or the network's answer is not finite.
        """
        self._memory.append(self._batch(observation))
        if self._targets is None or self._used >= min(self._replan, len(self._targets)):
            self._targets, self._used = self._plan(), 0
        rest = self._targets[self._used :]
        self._used += 1
        return Chunk(rest.copy(), self._still.done(observation.q, rest[0]))

    def _batch(self, observation: Observation) -> dict[str, Tensor]:
        """One observation in their format, normalised: (1, 6) and (1, 3, H, W)."""
        import torch

        state = torch.from_numpy(observation.q / self._scale).float()
        batch = {STATE: ((state - self._state[0]) / self._state[1])[None]}
        for key, size in self._sizes.items():
            frame = observation.frames.get(self._camera[key])
            if frame is None:
                raise RobotError(f"the policy wants a picture of the camera {self._camera[key]!r} and there is none")
            batch[key] = ((_picture(frame.rgb, size) - self._picture[key][0]) / self._picture[key][1])[None]
        return batch

    def _plan(self) -> Float:
        """A new chunk in our units and at our rate, (H, 6)."""
        import torch

        with torch.inference_mode():
            if self._kind == "act":
                actions = self._network.predict_action_chunk(dict(self._memory[-1]))
            else:
                actions = self._network.diffusion.generate_actions(self._stacked())
        values = actions[0].float() * self._action[1] + self._action[0]
        targets = resampled(values.double().numpy() * self._scale, self._hz, self.control_hz)
        if not np.all(np.isfinite(targets)):
            raise RobotError("the LeRobot policy answered with numbers that are not finite; the arm holds")
        targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
        return targets

    def _stacked(self) -> dict[str, Tensor]:
        """The last observations as diffusion wants them: (1, n_obs_steps, ...), the pictures of all cameras together.

        The first one is repeated while there are fewer. What they are spaced by is our step, not theirs.
        """
        import torch

        kept = list(self._memory)
        kept = [kept[0]] * ((self._memory.maxlen or 1) - len(kept)) + kept
        stacked = {STATE: torch.stack([one[STATE] for one in kept], dim=1)}
        if self._sizes:
            stacked[IMAGES.rstrip(".")] = torch.stack(
                [torch.stack([one[key] for key in self._sizes], dim=1) for one in kept], dim=1
            )
        return stacked


def _picture(rgb: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 -> (3, height, width) float 0..1."""
    import torch

    height, width = size
    if rgb.shape[:2] != size:
        shrinks = rgb.shape[0] > height
        rgb = np.asarray(
            cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        )
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float() / 255.0


def _camera_of(key: str, checkpoint: Checkpoint, address: Address) -> str:
    """Our camera for a picture of theirs: as the address says, or the one of the same name."""
    original = {new: old for old, new in checkpoint.renamed.items()}.get(key, key)
    for name in (key, original):
        if name in address.cameras:
            return address.cameras[name]
    return original.removeprefix(IMAGES)


def _checked_features(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Sizes (H, W) of the pictures; refuses what this robot cannot give or carry out."""
    pictures: dict[str, tuple[int, int]] = {}
    outputs = checkpoint.config["output_features"]
    for key, feature in (*checkpoint.config["input_features"].items(), *outputs.items()):
        shape = tuple(feature.get("shape") or ()) if isinstance(feature, dict) else ()
        if key in (STATE, ACTION):
            if shape != (6,):
                raise CheckpointError(f"{checkpoint.folder}: {key} has the shape {shape}; an SO-101 has six joints")
        elif key.startswith(IMAGES) and len(shape) == 3 and shape[0] == 3:
            pictures[key] = (int(shape[1]), int(shape[2]))
        else:
            raise CheckpointError(f"{checkpoint.folder} wants {key} {shape}, which this robot does not have")
    if STATE not in checkpoint.config["input_features"] or ACTION not in outputs:
        raise CheckpointError(f"{checkpoint.folder} must take {STATE} and give {ACTION}")
    return pictures


def _checked_units(checkpoint: Checkpoint, address: Address) -> Any:
    """The units asked for (default degrees), unless the statistics say that they are others."""
    units = address.units or "so101_degrees"
    reach = lerobot_files.reach_of(checkpoint.stats.get(ACTION, {}))
    if reach is not None:
        arm, gripper = reach
        small = arm < 4.0 and gripper < 1.5
        if small != (units == "radians"):
            raise CheckpointError(
                f"{checkpoint.folder}: its actions go as far as {arm:.3g} (arm) and {gripper:.3g} (gripper), which does not "
                f"look like {units}; say ?units= with one of: {', '.join(UNIT_NAMES)}"
            )
    return units


def _network(checkpoint: Checkpoint) -> nn.Module:
    """LeRobot's network with the checkpoint's weights, on the CPU; nothing is downloaded."""
    config_class, network_class, types = _lerobot(checkpoint.kind)
    known = {entry.name for entry in dataclasses.fields(config_class)}
    fields = {key: value for key, value in checkpoint.config.items() if key in known}
    for part in ("input_features", "output_features"):
        fields[part] = {
            key: types.PolicyFeature(types.FeatureType(feature["type"]), tuple(feature["shape"]))
            for key, feature in checkpoint.config[part].items()
        }
    modes = checkpoint.config.get("normalization_mapping") or {}
    fields["normalization_mapping"] = {key: types.NormalizationMode(mode) for key, mode in modes.items()}
    fields |= {"device": "cpu", "use_amp": False, "pretrained_path": None}
    if "pretrained_backbone_weights" in known:  # they are part of the checkpoint; LeRobot would download them first
        fields["pretrained_backbone_weights"] = None
    for key in ("crop_shape", "resize_shape", "down_dims"):
        if isinstance(fields.get(key), list):
            fields[key] = tuple(fields[key])
    try:
        network: nn.Module = network_class(config_class(**fields))
        network.load_state_dict(checkpoint.weights)
    except (KeyError, TypeError, ValueError, RuntimeError, NotImplementedError, ImportError) as error:
        sentence = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the LeRobot checkpoint {checkpoint.folder} cannot be loaded: {sentence}") from error
    return network


def _lerobot(kind: str) -> tuple[Any, Any, Any]:
    """Config class, network class and the module of feature types. Raises ``CheckpointError`` without LeRobot."""
    try:
        with _unseen("transformers"):
            if kind == "act":
                from lerobot.policies.act.configuration_act import ACTConfig as Config
                from lerobot.policies.act.modeling_act import ACTPolicy as Network
            else:
                from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig as Config
                from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy as Network
            from lerobot.configs import types
    except ImportError as error:
        raise CheckpointError(_MISSING.format(error)) from error
    return Config, Network, types


@contextlib.contextmanager
def _unseen(package: str) -> Iterator[None]:
    """Let a package look as if it were not installed.

    LeRobot 0.4 imports all its policies at once, and some of them fail beside transformers 5; those here need none.
    """
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    for name in kept:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system takes for "not there"
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(kept)
