"""LeRobot 0.4.4 itself, in an environment of its own (``lerobot_environment``), reads, trains on and writes datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import CAMERAS, identity, instant_disk, make, number_in  # noqa: F401 (no waiting for the disk)
from lerobot_environment import lerobot, run  # noqa: F401 (a fixture)

from policies.dataset.checks import check
from policies.dataset.copying import from_lerobot, merge
from policies.dataset.lerobot_units import SO101_DEGREES
from policies.dataset.reader import Dataset

pytestmark = pytest.mark.slow

_READ = """
import json, sys
import numpy as np, torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, out = sys.argv[1:]
dataset = LeRobotDataset("local/ours", root=root, video_backend="torchcodec", delta_timestamps={"action": [0, 0.05, 0.1]})
items = [dataset[k] for k in range(len(dataset))]
cameras = dataset.meta.camera_keys
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.Flatten(), torch.nn.LazyLinear(18))
optimizer, losses = None, []
for batch in torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True):
    wanted = network(batch[cameras[0]]).view(-1, 3, 6)
    optimizer = optimizer or torch.optim.Adam(network.parameters(), 1e-3)
    loss = ((wanted - batch["action"]) ** 2)[~batch["action_is_pad"]].mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    losses.append(loss.item())
pictures = {c: np.stack([(i[c] * 255).round().byte().permute(1, 2, 0).numpy() for i in items]) for c in cameras}
np.savez(out, action=np.stack([i["action"][0].numpy() for i in items]), **pictures)
print(json.dumps({
    "frames": len(dataset), "episodes": dataset.num_episodes, "fps": dataset.fps, "robot": dataset.meta.robot_type,
    "cameras": cameras, "tasks": [i["task"] for i in items], "skills": [i["skill"] for i in items],
    "stats": {k: sorted(v) for k, v in dataset.meta.stats.items()}, "losses": losses,
    "success": [int(i["success"]) for i in items],
}))
"""

_WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, source = sys.argv[1:]
data = np.load(source)
names = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
vector = {"dtype": "float32", "shape": (6,), "names": names}
picture = {"dtype": "video", "shape": data["front"].shape[2:], "names": ["height", "width", "channels"]}
dataset = LeRobotDataset.create(
    "local/theirs", 20, {"action": vector, "observation.state": vector, "observation.images.front": picture},
    root=root, robot_type="so101_follower", use_videos=True, vcodec=str(data["codec"]),
)
for episode, length in enumerate(data["lengths"]):
    for frame in range(length):
        dataset.add_frame({
            "action": data["action"][episode, frame], "observation.state": data["state"][episode, frame],
            "observation.images.front": data["front"][episode, frame], "task": f"job {episode % 2}",
        })
    dataset.save_episode()
dataset.finalize()
"""


def test_lerobot_reads_and_trains_on_ours(lerobot: Path, tmp_path: Path) -> None:  # noqa: F811
    root = make(tmp_path / "ours", (12, 9, 15))
    told: dict[str, Any] = json.loads(
        run(lerobot, _READ, root, tmp_path / "seen.npz", folder=tmp_path).splitlines()[-1]
    )
    print({key: told[key] for key in ("frames", "episodes", "fps", "robot", "cameras", "losses")})
    assert (told["frames"], told["episodes"], told["fps"], told["robot"]) == (36, 3, 20, "so101")
    assert told["cameras"] == [f"observation.images.{camera}" for camera in CAMERAS]
    assert told["tasks"] == ["task 0"] * 12 + ["task 1"] * 9 + ["task 0"] * 15
    assert told["success"] == [1] * 12 + [0] * 9 + [1] * 15 and told["skills"][:2] == ["", "pick"]
    assert {"mean", "std", "q01", "q99", "count"} <= set(told["stats"]["action"])
    assert len(told["losses"]) == 5 and np.all(np.isfinite(told["losses"]))
    seen = np.load(tmp_path / "seen.npz")
    with Dataset(root) as dataset:
        for index in range(36):
            item = dataset[index]
            assert np.array_equal(item["action"], seen["action"][index])
            for camera in CAMERAS:
                key = f"observation.images.{camera}"
                where = identity(int(item["episode_index"]), int(item["frame_index"]), camera)
                assert number_in(seen[key][index]) == number_in(item[key]) == where
                assert np.abs(seen[key][index].astype(int) - item[key]).max() <= 3


@pytest.mark.parametrize("codec", ["libsvtav1", "h264"])
def test_ours_reads_lerobots(lerobot: Path, tmp_path: Path, codec: str, rng: np.random.Generator) -> None:  # noqa: F811
    lengths = [7, 11, 4]
    action = rng.uniform(-90, 90, (3, 11, 6)).astype(np.float32)
    action[:, :, 5] = rng.uniform(0, 100, (3, 11))
    front = np.stack([[_picture(episode, frame) for frame in range(11)] for episode in range(3)])
    np.savez(tmp_path / "in.npz", lengths=lengths, action=action, state=action / 2, front=front, codec=codec)
    run(lerobot, _WRITE, tmp_path / "theirs", tmp_path / "in.npz", folder=tmp_path)

    report = check(tmp_path / "theirs")
    assert report.sound and (report.episodes, report.frames) == (3, 22), report
    assert len(list((tmp_path / "theirs").glob("videos/*/*/*.mp4"))) == 1  # all episodes in one file
    copied = from_lerobot(tmp_path / "theirs", tmp_path / "si", SO101_DEGREES, robot_type="so101")
    assert (copied.episodes, copied.encoded_anew) == (3, 0)
    scale = np.array([np.pi / 180] * 5 + [0.01])
    with Dataset(tmp_path / "theirs") as dataset, Dataset(tmp_path / "si") as si:
        index = 0
        for episode, length in enumerate(lengths):
            assert dataset.episodes[episode].tasks == (f"job {episode % 2}",)
            for frame in range(length):
                item = dataset[index]
                assert np.array_equal(item["action"], action[episode, frame])
                assert np.array_equal(item["observation.state"], action[episode, frame] / 2)
                assert np.abs(item["observation.images.front"].astype(int) - front[episode, frame]).mean() < 6
                assert np.allclose(si[index]["action"], action[episode, frame] * scale, rtol=1e-5)
                assert np.array_equal(si[index]["observation.images.front"], item["observation.images.front"])
                index += 1
    merge([tmp_path / "theirs", tmp_path / "theirs"], tmp_path / "twice")
    assert check(tmp_path / "twice").sound


def _picture(episode: int, frame: int) -> np.ndarray:
    """Neighbouring frames differ by far more than compression does."""
    picture = np.empty((64, 96, 3), dtype=np.uint8)
    picture[:, :48] = (60 + 60 * episode, 20 + 20 * frame, 240 - 20 * frame)
    picture[:, 48:] = 20 + 200 * (frame % 2)
    return picture
