"""The point policy: features, data, network, training, checkpoints, evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from hardware.arm_spec import SO101
from hardware.errors import CheckpointError
from hardware.kinematics import forward
from policies.checkpoint import SHIPPED, load_point_network, load_policy, save_point
from policies.data import Demo, DemoSet, load_shard, save_shard
from policies.evaluation import EvalConfig, evaluate, wilson
from policies.features import GOAL_SLICE, HISTORY, RAW_WIDTH, PointFeatures, raw_row
from policies.point import CHUNK, DONE, RAW, PointConfig, PointNetwork, point_loss
from policies.skills import SKILLS
from policies.train import TrainConfig, fit, load_state, model_card, new_state, save_state, train

QUIET = Console(quiet=True)
SMALL = PointConfig(width=16, layers=1)


def made_up_demo(rng: np.random.Generator, *, skill_index: int = 0, steps: int = 30) -> Demo:
    """Joints that wander, a target that leads by one step; done during the last five steps."""
    q = SO101.home + np.cumsum(rng.normal(0.0, 0.02, (steps, 6)), axis=0)
    done = (np.arange(steps) >= steps - 5).astype(float)
    goal = np.array([0.2, rng.uniform(-0.1, 0.1), 0.0])
    target = np.vstack([q[1:], q[-1:]])
    return Demo(SKILLS[skill_index], 7, q, q.copy(), target, done, np.ones(steps), goal, goal)


def a_config(tmp_path: Path, **changes: object) -> TrainConfig:
    tiny = TrainConfig(
        out=tmp_path / "policy", data=tmp_path / "data", skills=("reach",), demos=2, rounds=1, corrections=2, updates=6,
        round_updates=4, batch=16, width=16, layers=1, evaluate=1, save_every=3,
    )  # fmt: skip
    return replace(tiny, **changes)  # type: ignore[arg-type]


# Features ------------------------------------------------------------------------------------------------------------


def test_batched_kinematics_is_the_arm_s(rng: np.random.Generator) -> None:
    q = rng.uniform(SO101.lower, SO101.upper, (40, 6))
    position, rotation = PointFeatures(SO101).tool_pose(torch.tensor(q[:, :5], dtype=torch.float32))
    for row, p, r in zip(q, position.numpy(), rotation.numpy(), strict=True):
        pose = forward(SO101, row)
        np.testing.assert_allclose(p, pose[:3, 3], atol=1e-6)
        np.testing.assert_allclose(r, pose[:3, :3], atol=1e-5)


def test_features_do_not_change_when_arm_and_goal_turn_together(rng: np.random.Generator) -> None:
    features = PointFeatures(SO101)
    pan = np.array(SO101.arm_origins[0].xyz[:2])
    q = SO101.home.copy()
    goal = np.array([0.2, 0.03, 0.01])
    turn = 0.4
    c, s = np.cos(turn), np.sin(turn)
    turned_goal = np.append(pan + np.array([[c, -s], [s, c]]) @ (goal[:2] - pan), goal[2])
    turned_q = q - np.array([turn, 0, 0, 0, 0, 0])  # the pan axis points down
    rows = [
        raw_row(joints, joints, [joints] * len(HISTORY), 1, point, point)
        for joints, point in ((q, goal), (turned_q, turned_goal))
    ]
    one, other = features(torch.from_numpy(np.stack(rows))).numpy()
    pan_itself = len(SKILLS)  # the raw pan angle is a feature too, for the joint limits' sake
    np.testing.assert_allclose(np.delete(one, pan_itself), np.delete(other, pan_itself), atol=2e-4)
    assert one[pan_itself] != pytest.approx(other[pan_itself])


def test_a_row_holds_what_its_slices_say() -> None:
    row = raw_row(
        np.zeros(6), np.ones(6), [np.full(6, 2.0)] * len(HISTORY), 3, np.array([1, 2, 3]), np.array([4, 5, 6])
    )
    assert row.shape == (RAW_WIDTH,)
    assert row[GOAL_SLICE].tolist() == [1, 2, 3, 4, 5, 6]


# Data ----------------------------------------------------------------------------------------------------------------


def test_shards_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    demos = [made_up_demo(rng, steps=steps) for steps in (12, 30)]
    save_shard(tmp_path / "a" / "shard.npz", demos)
    loaded = load_shard(tmp_path / "a" / "shard.npz")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["shard.npz"]
    for demo, back in zip(demos, loaded, strict=True):
        assert back.skill == demo.skill and back.seed == demo.seed
        np.testing.assert_allclose(back.q, demo.q, atol=1e-6)
        np.testing.assert_array_equal(back.done, demo.done)


def test_a_shard_holds_one_skill(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="exactly one skill"):
        save_shard(tmp_path / "x.npz", [made_up_demo(rng), made_up_demo(rng, skill_index=1)])


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_a_broken_shard_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.npz"):
        load_shard(path)


def test_history_and_chunks_stay_inside_their_episode(rng: np.random.Generator) -> None:
    demos = [made_up_demo(rng, steps=15), made_up_demo(rng, skill_index=1, steps=20)]
    data = DemoSet(demos, horizon=10)
    first, last = 15, 34  # rows of the second episode
    q = demos[1].q.astype(np.float32)
    for i, steps in enumerate(HISTORY):
        past = slice(12 + 6 * i, 18 + 6 * i)
        np.testing.assert_array_equal(data.raw[first, past], q[0])
        np.testing.assert_array_equal(data.raw[first + 12, past], q[12 - steps])
    expected = demos[1].target[[19] * 10].astype(np.float32)
    expected[:, :5] -= q[19, :5]
    np.testing.assert_allclose(data.chunk[last], expected, atol=1e-6)


def test_batches_balance_skills_and_leave_out_unusable_rows(rng: np.random.Generator) -> None:
    long = made_up_demo(rng, steps=300)
    short = made_up_demo(rng, skill_index=4, steps=30)
    short = replace(short, use=1.0 - short.done)
    data = DemoSet([long, short], horizon=10)
    rows = data.draw(rng, 4000)
    assert np.mean(data.skill[rows] == 4) == pytest.approx(0.5, abs=0.05)
    assert not np.any((data.skill[rows] == 4) & (data.done[rows] > 0))


def test_no_demonstrations_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match="no demonstrations"):
        DemoSet([], horizon=10)


# Network and training ------------------------------------------------------------------------------------------------


def test_the_network_learns(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    network = PointNetwork(SMALL)
    data = DemoSet([made_up_demo(rng, skill_index=i % 3) for i in range(6)], horizon=SMALL.horizon)
    batch = {RAW: torch.from_numpy(data.raw), CHUNK: torch.from_numpy(data.chunk), DONE: torch.from_numpy(data.done)}
    network.fit_statistics(batch[RAW], batch[CHUNK])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    first = float(point_loss(network, batch)["loss"].detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = point_loss(network, batch)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * first


class InterruptedConsole(Console):
    """Raises at its second line, as a user does with Ctrl-C."""

    lines = 0

    def print(self, *objects: object, **options: object) -> None:  # type: ignore[override]
        self.lines += 1
        if self.lines == 2:
            raise KeyboardInterrupt


def test_resumed_training_gives_the_same_weights(tmp_path: Path, rng: np.random.Generator) -> None:
    config = a_config(tmp_path, updates=8, save_every=2)
    data = DemoSet([made_up_demo(rng) for _ in range(3)], horizon=10)
    torch.manual_seed(0)
    whole = new_state(config)
    start = {key: value.clone() for key, value in whole.network.state_dict().items()}
    fit(config, whole, data, console=QUIET)

    stopped = new_state(config)
    stopped.network.load_state_dict(start)
    stopped.average.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        fit(config, stopped, data, console=InterruptedConsole(quiet=True))

    resumed = new_state(config)
    load_state(config.out / "state", resumed)
    assert resumed.update == 4
    fit(config, resumed, data, console=QUIET)
    assert [row["update"] for row in resumed.log] == [2, 4, 6, 8]
    for one, other in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_broken_training_state_is_a_sentence(tmp_path: Path) -> None:
    state = new_state(a_config(tmp_path))
    with pytest.raises(CheckpointError, match="no training to resume"):
        load_state(tmp_path / "nothing", state)
    save_state(tmp_path / "state", state)
    path = tmp_path / "state" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="start without --resume"):
        load_state(tmp_path / "state", state)


@pytest.mark.parametrize(
    ("changes", "named"), [({"skills": ("juggle",)}, "juggle"), ({"demos": 0}, "demos"), ({"seed": 1_000_000}, "seed")]
)
def test_bad_settings_are_refused(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        a_config(tmp_path, **changes)


def test_one_command_trains_from_nothing(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    result = train(config, console=QUIET)
    assert set(result) == {"suite", "episodes", "seed", "success", "by", "metrics"}
    assert result["by"]["reach"]["episodes"] == 1
    assert {path.parent.name for path in config.data.rglob("*.npz")} == {"demos", "round1"}
    load_policy(config.out)
    card = (config.out / "README.md").read_text(encoding="utf-8")
    assert "| reach |" in card and "seed 0" in card
    # Everything is there already, so the same command only measures again.
    stamp = {path: path.stat().st_mtime_ns for path in config.data.rglob("*.npz")}
    train(replace(config, resume=True, evaluate=0), console=QUIET)
    assert stamp == {path: path.stat().st_mtime_ns for path in config.data.rglob("*.npz")}


def test_an_output_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("in the way")
    with pytest.raises(CheckpointError, match="--out"):
        train(a_config(tmp_path), console=QUIET)


# Checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_point(tmp_path / "saved", PointNetwork(SMALL), card="# card\n", made={"seed": 3})
    return tmp_path / "saved"


def test_a_checkpoint_gives_the_same_answers(folder: Path) -> None:
    torch.manual_seed(0)
    raw = torch.randn(3, RAW_WIDTH)
    before, after = PointNetwork(SMALL), load_point_network(folder)
    before.load_state_dict(after.state_dict())
    assert torch.equal(before.eval()(raw)[0], after(raw)[0])
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "stats.json", "README.md"}
    assert json.loads((folder / "config.json").read_text())["made"] == {"seed": 3}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def _change_width(path: Path) -> None:
    config = json.loads(path.read_text())
    config["network"]["width"] = 17
    path.write_text(json.dumps(config))


def _change_kind(path: Path) -> None:
    path.write_text(json.dumps({"kind": "painting"}))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model.safetensors", Path.unlink, r"has no model\.safetensors"),
        ("config.json", Path.unlink, r"has no config\.json"),
        ("model.safetensors", _cut, "damaged"),
        ("model.safetensors", _flip, "damaged"),
        ("config.json", _cut, "cannot read"),
        ("config.json", _change_width, "does not fit"),
        ("config.json", _change_kind, "does not describe a policy"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_sentence(folder: Path, name: str, harm: object, said: str) -> None:
    harm(folder / name)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=said) as caught:
        load_policy(folder)
    assert "embodied train policy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_policy(tmp_path / "nowhere")


# Evaluation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "trials", "low", "high"), [(99, 100, 0.9455, 0.9982), (0, 10, 0.0, 0.2775)])
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=2e-4)


def test_evaluation_is_repeatable_and_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvalConfig(episodes=1, skills=("reach",), weights=folder, json=True)
    one, other = (evaluate(config, console=QUIET) for _ in range(2))
    assert one == other
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == one
    assert one["by"]["reach"]["rate"] == 0.0  # an untrained network reaches nothing and must not claim to


def test_a_card_without_measurement_says_so(tmp_path: Path) -> None:
    card = model_card(a_config(tmp_path), {"command": "embodied train policy", "train_seconds": 1}, {})
    assert "Not measured" in card and "embodied train policy" in card


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no weights are shipped yet")
def test_shipped_weights_carry_their_card() -> None:
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "embodied train policy" in card and "interval" in card
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3e6
