"""Policies made elsewhere: names, units and pictures, LeRobot's files, and LeRobot itself where it can be installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_environment import lerobot, run  # noqa: F401 (a fixture)
from safetensors.torch import save_file

from hardware.arm_spec import SO101
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import CheckpointError, RobotError
from hardware.robot import Observation
from policies.goal import Goal
from policies.outside import lerobot_files
from policies.outside.address import Address, is_outside, load_outside, parse, resampled
from policies.outside.lerobot_policy import LeRobotPolicy, load_lerobot
from policies.outside.stillness import Stillness
from sim.scene import Scene

GOAL = Goal("pick", np.zeros(3), np.zeros(3))
STATE = {
    "mean": torch.tensor([0.0, -90.0, 40.0, 80.0, 0.0, 50.0]),
    "std": torch.tensor([20.0, 10.0, 10.0, 10.0, 5.0, 20.0]),
}
PICTURE = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
CONFIG: dict[str, Any] = {
    "type": "act",
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [6]},
        "observation.images.top": {"type": "VISUAL", "shape": [3, 12, 16]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
    "normalization_mapping": {"STATE": "MEAN_STD", "VISUAL": "MEAN_STD", "ACTION": "MEAN_STD"},
    "chunk_size": 8, "n_action_steps": 4,
}  # fmt: skip


def folder_of(path: Path, **changes: Any) -> Path:
    """A folder as LeRobot 0.4 writes it, with weights that no network has."""
    path.mkdir(parents=True, exist_ok=True)
    stats = {"observation.state": STATE, "action": STATE, "observation.images.top": PICTURE}
    tensors = {f"{key}.{name}": value.clone() for key, some in stats.items() for name, value in some.items()}
    for name in ("pre", "post"):
        save_file(tensors, path / f"{name}_normalizer.safetensors")
        step = {"registry_name": "unnormalizer_processor" if name == "post" else "normalizer_processor", "config": {}}
        steps = [{"registry_name": "to_batch_processor"}, {**step, "state_file": f"{name}_normalizer.safetensors"}]
        steps += changes.pop(f"{name}_steps", [])
        (path / f"policy_{name}processor.json").write_text(json.dumps({"steps": steps}))
    save_file({"model.weight": torch.ones(2)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return path


def frame(rgb: np.ndarray) -> Frame:
    size = Intrinsics(rgb.shape[1], rgb.shape[0], 40.0, 40.0, 16.0, 12.0)
    return Frame(rgb, CameraModel(size, np.eye(4)), 0.0)


# Names ---------------------------------------------------------------------------------------------------------------


def test_names_say_what_they_mean() -> None:
    assert [is_outside(name) for name in ("lerobot:a", "ws://a:1", "wss://a", "runs/policy", "scripted")] == [
        1,
        1,
        1,
        0,
        0,
    ]
    address = parse("lerobot:runs/act?units=radians&hz=20&observation.images.top=front")
    assert address == Address("runs/act", "radians", 20.0, None, {"observation.images.top": "front"})
    assert np.array_equal(address.scale, np.ones(6))
    address = parse("ws://host:8000?timeout=0.1&observation/image=front")
    assert address == Address("ws://host:8000", None, None, 0.1, {"observation/image": "front"})
    np.testing.assert_allclose(address.scale * [180, 0, 0, 0, 0, 100], [np.pi, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lerobot:", "needs a folder"), ("lerobot:a?units=inches", "so101_degrees, radians"), ("lerobot:a?hz=fast", "hz must"),
        ("lerobot:a?hz=0", "hz must"), ("ws://a?timeout=nan", "timeout must"), ("ws://a?observation/image=", "no camera"),
    ],
)  # fmt: skip
def test_wrong_names_are_told_why(name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        parse(name)


def test_actions_are_resampled_to_our_rate() -> None:
    actions = np.arange(12.0)[:, None] * np.ones(6)
    assert resampled(actions, 20.0, 20.0) is actions
    slower = resampled(actions, 30.0, 20.0)  # 11 intervals of 1/30 s are 0.367 s: the last of ours is at 0.35 s
    np.testing.assert_allclose(slower[:, 0], 1.5 * np.arange(8))
    np.testing.assert_allclose(resampled(actions, 10.0, 20.0)[:, 0], 0.5 * np.arange(23))
    assert resampled(actions[:1], 30.0, 20.0).shape == (1, 6)


def test_an_arm_that_comes_to_rest_is_done_and_one_that_never_moved_is_not() -> None:
    still = Stillness(20.0)
    q = SO101.home
    assert not any(still.done(q, q) for _ in range(60))
    moving = [still.done(q + 0.02 * step, q + 0.02 * (step + 1)) for step in range(20)]
    assert not any(moving)
    resting = [still.done(q + 0.4, q + 0.4) for _ in range(25)]
    assert resting.index(1.0) in (18, 19, 20) and all(resting[20:])
    assert not any(still.done(q + 0.4, q + 0.4 + 0.05 * (step % 2)) for step in range(1, 31))  # it is told to tremble
    still.reset()
    assert not any(still.done(q + 0.4, q + 0.4) for _ in range(60))


# LeRobot's files -----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_without_lerobot(tmp_path: Path) -> None:
    renaming = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {"observation.images.cam": "x"}}}
    ]
    found = lerobot_files.read(folder_of(tmp_path, pre_steps=renaming))
    assert found.kind == "act" and found.renamed == {"observation.images.cam": "x"}
    shift, scale = lerobot_files.normalization(found, "action", "ACTION")
    assert torch.allclose(shift, STATE["mean"]) and torch.allclose(scale, STATE["std"])
    assert [*found.weights] == ["model.weight"]


@pytest.mark.parametrize("mode", ["MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_ranges_become_minus_one_to_one(tmp_path: Path, mode: str) -> None:
    low, high = lerobot_files.MODES[mode]
    checkpoint = lerobot_files.read(folder_of(tmp_path, normalization_mapping={"STATE": mode}))
    checkpoint.stats["observation.state"] |= {
        low: torch.tensor([-10.0] * 5 + [3.0]),
        high: torch.tensor([30.0] * 5 + [3.0]),
    }
    shift, scale = lerobot_files.normalization(checkpoint, "observation.state", "STATE")
    values = (torch.tensor([[-10.0] * 5 + [3.0], [30.0] * 5 + [3.0]]) - shift) / scale
    assert torch.allclose(values[:, :5], torch.tensor([[-1.0] * 5, [1.0] * 5])) and torch.isfinite(values).all()
    shift, scale = lerobot_files.normalization(checkpoint, "action", "ACTION")  # not in the mapping: as it is
    assert float(shift) == 0.0 and float(scale) == 1.0


def test_statistics_of_older_checkpoints_lie_among_the_weights(tmp_path: Path) -> None:
    path = folder_of(tmp_path)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (path / name).unlink()
    old = {f"normalize_inputs.buffer_observation_state.{name}": value for name, value in STATE.items()}
    old |= {f"unnormalize_outputs.buffer_action.{name}": value + 1.0 for name, value in STATE.items()}
    old |= {f"normalize_inputs.buffer_observation_images_top.{name}": value for name, value in PICTURE.items()}
    save_file({**old, "model.weight": torch.ones(2)}, path / "model.safetensors")
    found = lerobot_files.read(path)
    assert [*found.weights] == ["model.weight"]
    assert torch.equal(found.stats["action"]["mean"], STATE["mean"] + 1.0)
    assert torch.equal(found.stats["observation.images.top"]["std"], PICTURE["std"])


def _broken(path: Path, what: str) -> Path:
    """A folder with one thing wrong."""
    changes: dict[str, dict[str, Any]] = {
        "type": {"type": "pi0"}, "adapter": {"use_peft": True}, "no inputs": {"input_features": {}},
        "strange step": {"pre_steps": [{"class": "os.system", "config": {"command": "id"}}]},
        "outside file": {"post_steps": [{"registry_name": "unnormalizer_processor", "state_file": "../other.safetensors"}]},
        "seven joints": {"output_features": {"action": {"type": "ACTION", "shape": [7]}}},
        "environment": {"input_features": {**CONFIG["input_features"], "observation.environment_state": {"shape": [6]}}},
        "no state": {"input_features": {"observation.images.top": {"type": "VISUAL", "shape": [3, 12, 16]}}},
        "mode": {"normalization_mapping": {"STATE": "MEDIAN"}},
    }  # fmt: skip
    folder_of(path, **changes.get(what, {}))
    if what == "no config":
        (path / "config.json").unlink()
    if what == "broken config":
        (path / "config.json").write_text("{")
    if what == "pickle":
        (path / "model.safetensors").rename(path / "pytorch_model.bin")
    if what == "cut off":
        (path / "model.safetensors").write_bytes(b"\x10" * 30)
    if what in ("infinite", "no stats"):
        stats = {"observation.state.mean": torch.full((6,), torch.inf), "observation.state.std": torch.ones(6)}
        for name in ("pre", "post"):
            save_file(stats if what == "infinite" else {}, path / f"{name}_normalizer.safetensors")
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("type", "supported are: act, diffusion"), ("adapter", "merge it"), ("no inputs", "no input_features"),
        ("strange step", "'os.system', which is not supported and not run"), ("outside file", "no file beside it"),
        ("seven joints", "six joints"), ("environment", "does not have"), ("no state", "must take"),
        ("no config", "pretrained_model"),
        ("broken config", "cannot read"), ("pickle", "never from .pt"), ("cut off", "cannot read"), ("infinite", "not finite"),
        ("no stats", "lacks the statistics"), ("mode", "MEDIAN"), ("nothing", "no LeRobot checkpoint folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_a_sentence(tmp_path: Path, what: str, words: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("policies.outside.lerobot_policy._network", lambda checkpoint: Echo())
    path = tmp_path / "none" if what == "nothing" else _broken(tmp_path, what)
    with pytest.raises(CheckpointError, match=words):
        load_lerobot(parse(f"lerobot:{path}"))


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="LeRobot is installed here")
def test_without_lerobot_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs the package lerobot.*docs/policies.md"):
        load_outside(f"lerobot:{folder_of(tmp_path)}")


def test_units_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.outside.lerobot_policy._network", lambda checkpoint: Echo())
    assert load_lerobot(parse(f"lerobot:{folder_of(tmp_path)}")).name == "lerobot:act"
    with pytest.raises(CheckpointError, match="does not look like radians"):
        load_lerobot(parse(f"lerobot:{tmp_path}?units=radians"))
    small = {f"action.{name}": value * 0.01 for name, value in STATE.items()}
    for name in ("pre", "post"):
        save_file(small, tmp_path / f"{name}_normalizer.safetensors")
    with pytest.raises(CheckpointError, match="does not look like so101_degrees"):
        load_lerobot(parse(f"lerobot:{tmp_path}"))


# The policy around the network ---------------------------------------------------------------------------------------


class Echo(torch.nn.Module):
    """Answers with chunks that begin where the state is and turn the first joint by a tenth of its deviation a step."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"n_action_steps": 4, "n_obs_steps": 1})
        self.asked: list[dict[str, torch.Tensor]] = []
        self.poison = 0.0

    def predict_action_chunk(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.asked.append(batch)
        turn = torch.zeros(8, 6)
        turn[:, 0] = 0.1 * torch.arange(8) + self.poison
        return batch["observation.state"][:, None] + turn


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LeRobotPolicy, Echo]:
    network = Echo()
    monkeypatch.setattr("policies.outside.lerobot_policy._network", lambda checkpoint: network)
    return load_lerobot(parse(f"lerobot:{folder_of(tmp_path)}?hz=20&observation.images.top=front")), network


def test_joints_and_pictures_go_in_and_chunks_come_out_in_their_units(echo: tuple[LeRobotPolicy, Echo]) -> None:
    policy, network = echo
    assert policy.cameras == ("front",) and policy.control_hz == 20.0
    q = SO101.home.copy()
    rgb = np.zeros((24, 32, 3), np.uint8)
    rgb[:, 16:, 0] = 255
    chunk = policy.act(Observation(0.0, q, q, {"front": frame(rgb)}), GOAL)
    (batch,) = network.asked
    degrees = torch.tensor([*np.rad2deg(q[:5]), 100.0 * q[5]], dtype=torch.float32)
    assert torch.allclose(batch["observation.state"][0], (degrees - STATE["mean"]) / STATE["std"], atol=1e-4)
    picture = batch["observation.images.top"]
    assert picture.shape == (1, 3, 12, 16)
    assert float(picture[0, 0, 5, 2]) == -2.0 and float(picture[0, 0, 5, 12]) == pytest.approx(
        2.0, abs=1e-5
    )  # (0 or 1 - .5)/.25
    np.testing.assert_allclose(chunk.targets[0], q, atol=1e-5)
    np.testing.assert_allclose(
        chunk.targets[:, 0] - q[0], np.deg2rad(2.0 * np.arange(8)), atol=1e-5
    )  # 0.1 * std of 20 deg


def test_a_chunk_is_used_as_far_as_the_checkpoint_says(echo: tuple[LeRobotPolicy, Echo]) -> None:
    policy, network = echo
    seen = Observation(0.0, SO101.home, SO101.home, {"front": frame(np.zeros((12, 16, 3), np.uint8))})
    lengths = [len(policy.act(seen, GOAL).targets) for _ in range(6)]
    assert lengths == [8, 7, 6, 5, 8, 7] and len(network.asked) == 2
    policy.reset()
    policy.act(seen, GOAL)
    assert len(network.asked) == 3


def test_what_cannot_be_carried_out_is_an_error_of_the_robot(echo: tuple[LeRobotPolicy, Echo]) -> None:
    policy, network = echo
    with pytest.raises(RobotError, match="picture of the camera 'front'"):
        policy.act(Observation(0.0, SO101.home, SO101.home), GOAL)
    network.poison = float("nan")
    with pytest.raises(RobotError, match="not finite"):
        policy.act(Observation(0.0, SO101.home, SO101.home, {"front": frame(np.zeros((12, 16, 3), np.uint8))}), GOAL)


# LeRobot itself ------------------------------------------------------------------------------------------------------

_MAKE = """
import sys
sys.modules["transformers"] = None  # what LeRobot's other policies make of transformers 5 is not the question here
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

kind, folder = sys.argv[1:]
torch.manual_seed(0)
cameras = ["observation.images.front", "observation.images.wrist"]
inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
inputs |= {camera: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for camera in cameras}
outputs = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
if kind == "act":
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy as Policy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors as processors
    config = ACTConfig(input_features=inputs, output_features=outputs, pretrained_backbone_weights=None, dim_model=32,
        n_heads=2, dim_feedforward=32, n_encoder_layers=1, n_vae_encoder_layers=1, chunk_size=20, n_action_steps=10,
        device="cpu")
else:
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy as Policy
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors as processors
    config = DiffusionConfig(input_features=inputs, output_features=outputs, down_dims=(32, 64), num_inference_steps=3,
        crop_shape=(40, 56), spatial_softmax_num_keypoints=8, noise_scheduler_type=kind.rpartition(" ")[2], device="cpu")
policy = Policy(config).eval()
low, high = torch.tensor([-30.0, -100, 0, 40, -10, 0]), torch.tensor([30.0, -60, 80, 100, 10, 100])
joints = {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high}
stats = {"observation.state": joints, "action": joints}
for number, camera in enumerate(cameras):
    stats[camera] = {"mean": torch.tensor([0.4, 0.5, 0.3 + 0.1 * number]).view(3, 1, 1),
        "std": torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)}
before, after = processors(config, stats)
for part in (policy, before, after):
    part.save_pretrained(folder)
"""

_COMPARE = """
import json, sys
import numpy as np, torch
from policies.goal import Goal
from policies.outside.address import load_outside
from policies.runtime import PolicyRuntime
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

kind, folder, scene = sys.argv[1:]
ours = load_outside(f"lerobot:{folder}?hz=20")
sys.modules["transformers"] = None
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

theirs = (ACTPolicy if kind == "act" else DiffusionPolicy).from_pretrained(folder).eval()
before = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
after = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_postprocessor.json",
    to_transition=policy_action_to_transition, to_output=transition_to_policy_action)

class Both:
    # Ours drives; LeRobot's is asked about the same observations, with the same noise.
    name, control_hz, cameras = ours.name, ours.control_hz, ours.cameras
    errors = []

    def reset(self):
        ours.reset()
        theirs.reset()

    def act(self, observation, goal):
        torch.manual_seed(len(self.errors))
        chunk = ours.act(observation, goal)
        torch.manual_seed(len(self.errors))
        q = observation.q
        batch = {"observation.state": torch.tensor([*np.rad2deg(q[:5]), 100 * q[5]], dtype=torch.float32)}
        for camera, frame in observation.frames.items():
            picture = torch.from_numpy(frame.rgb.transpose(2, 0, 1).copy()).float() / 255
            batch[f"observation.images.{camera}"] = picture
        wanted = after(theirs.select_action(before(batch))).reshape(6).numpy() * np.array([np.pi / 180] * 5 + [0.01])
        wanted[5] = wanted[5].clip(0, 1)
        self.errors.append(float(np.abs(chunk.targets[0] - wanted).max()))
        return chunk

robot = SimRobot(World(Scene.load(scene)))
start = robot.observe().q
result = PolicyRuntime(Both()).run(robot, Goal("pick", np.zeros(3), np.zeros(3)), timeout_s=1.2)
print(json.dumps({"policy": ours.name, "cameras": ours.cameras, "reason": result.reason, "steps": len(Both.errors),
    "worst": max(Both.errors), "moved": float(np.abs(robot.observe().q - start).max())}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["act", "diffusion DDPM", "diffusion DDIM"])
def test_lerobots_checkpoint_drives_the_arm_as_lerobot_would(lerobot: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    """For 24 steps, which are several chunks."""
    scene = Scene.load(Path(__file__).parents[1] / "scenes/first.json")
    small = tuple(camera.model_copy(update={"width": 64, "height": 48}) for camera in scene.cameras)
    scene.model_copy(update={"cameras": small}).save(tmp_path / "scene.json")
    run(lerobot, _MAKE, kind, tmp_path / "policy", folder=tmp_path)
    told = json.loads(
        run(lerobot, _COMPARE, kind, tmp_path / "policy", tmp_path / "scene.json", folder=tmp_path).splitlines()[-1]
    )
    print(told)
    assert told["policy"] == f"lerobot:{kind.split()[0]}" and told["cameras"] == ["front", "wrist"]
    assert (told["reason"], told["steps"]) == ("timeout", 24) and told["moved"] > 0.1
    assert told["worst"] < 1e-5
