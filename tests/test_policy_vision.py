"""Policies that see: crops, stored pictures, randomisation, networks, training and evaluation."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from rich.console import Console

from hardware.arm_spec import SO101
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import CheckpointError, EmbodiedError, RobotError
from hardware.robot import Observation, Robot
from policies import randomization
from policies.backbones import backbone, make_backbone
from policies.checkpoint import load_network, load_policy, save
from policies.collect import demonstrate
from policies.data import Demo, DemoSet, Film, Pictures, load_shard, save_shard
from policies.evaluation import SUITES, EvalConfig, evaluate
from policies.goal import Goal
from policies.images import MARGIN_PX, PIXEL_M, VIEWS, SeeingRobot, View, look_at, patch
from policies.kinds import KindName, kind
from policies.point import CHUNK, RAW
from policies.policy import Policy
from policies.randomization import FULL, LIGHT, Wear, point_error, random_appearance, random_hardware
from policies.sight_batch import GIVEN, PICTURE, SHIFT, _moved, seeing_batch
from policies.skills import SKILLS
from policies.train import TrainConfig, train
from policies.worn_robot import WornRobot, WornStage
from sim.dynamics import Dynamics
from sim.scene import ObjectSpec, Scene

QUIET = Console(quiet=True)
POINT = np.array([0.22, 0.05, 0.0])
SEEING = ("refiner", "act", "flow")


def overhead(width: int = 320, height: int = 240) -> CameraModel:
    intrinsics = Intrinsics.from_fov_y(width, height, 0.6)
    return CameraModel.look_at(intrinsics, np.array([0.60, 0.0, 0.50]), np.array([0.18, 0.0, 0.0]))


def dotted_frame(at: np.ndarray, model: CameraModel | None = None) -> Frame:
    """A grey table with a white dot of 4 mm radius."""
    model = overhead() if model is None else model
    k = model.intrinsics
    u, v = np.meshgrid(np.arange(k.width) + 0.5, np.arange(k.height) + 0.5)
    table = model.on_plane(np.stack([u, v], -1), float(at[2]))
    near = np.linalg.norm(table[..., :2] - at[:2], axis=-1) < 0.004
    return Frame(np.where(near[..., None], 255, 100).astype(np.uint8).repeat(3, -1), model, 0.0)


def dot_in(picture: np.ndarray) -> np.ndarray:
    """Middle (row, column) of what is white, counted from the picture's corner."""
    weight = (picture[..., 0].astype(float) - 100.0).clip(0.0)
    rows, columns = np.indices(weight.shape)
    return np.array([((rows + 0.5) * weight).sum(), ((columns + 0.5) * weight).sum()]) / weight.sum()


@pytest.fixture(scope="module")
def stage() -> Iterator[WornStage]:
    stage = WornStage()
    yield stage
    stage.close()


@pytest.fixture
def scene(stage: WornStage) -> WornStage:
    """A red cube at ``POINT`` and a blue ball beside it, the arm at home, everything nominal."""
    stage.wear, stage.appearance = Wear(), None
    objects = (
        ObjectSpec(kind="cube", color="red", position=(POINT[0], POINT[1])),
        ObjectSpec(kind="ball", color="blue", position=(0.2, -0.03)),
    )
    stage.load(Scene(objects=objects), dynamics=Dynamics())
    return stage


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(320, 240), (1280, 960)])
@pytest.mark.parametrize("off", [(0.0, 0.0), (0.02, 0.0), (0.0, -0.03), (-0.031, 0.017)])
def test_a_patch_is_a_map_of_the_table(size: tuple[int, int], off: tuple[float, float]) -> None:
    frame = dotted_frame(POINT, overhead(*size))
    told = POINT + np.array([*off, 0.0])
    row, column = dot_in(patch(frame, told, 52))
    # The dot lies at minus the error: rows are x, columns are y.
    expected = 26.0 - np.array(off) / PIXEL_M
    np.testing.assert_allclose([row, column], expected, atol=0.4)


def test_a_camera_that_sees_no_table_gives_a_black_patch() -> None:
    upwards = CameraModel.look_at(Intrinsics.from_fov_y(64, 64, 0.6), np.zeros(3), np.array([0.0, 0.1, 1.0]))
    assert not patch(Frame(np.full((64, 64, 3), 90, np.uint8), upwards, 0.0), np.array([0.2, 0.0, -0.5]), 20).any()


def test_a_window_shows_what_the_whole_picture_shows(scene: WornStage) -> None:
    window = scene.eyes(VIEWS, POINT).frames(("front",))["front"]
    whole = scene.world.render("front")
    assert window.rgb.size < 0.1 * whole.rgb.size
    one, other = (look_at(frame, VIEWS[0], POINT, margin_px=MARGIN_PX) for frame in (window, whole))
    assert np.abs(one.astype(int) - other).mean() < 3.0
    assert one.std() > 10.0


@pytest.mark.parametrize("error", [(0.0, 0.0, 0.0), (0.02, -0.015, 0.0), (-0.01, 0.012, 0.01)])
def test_moving_a_stored_patch_equals_cropping_at_the_moved_point(error: tuple[float, float, float]) -> None:
    frame, view = dotted_frame(POINT), VIEWS[0]
    told = POINT + np.array(error)
    eye = frame.model.T_base_camera[:3, 3]
    onto = eye + (told - eye) * ((POINT[2] - eye[2]) / (told[2] - eye[2]))
    stored = look_at(frame, view, POINT, margin_px=MARGIN_PX)[None]
    off = ((onto - POINT)[:2] / PIXEL_M).astype(np.float32)[None]
    moved = _moved(stored, off, view.pixels)[0]
    np.testing.assert_allclose(dot_in(moved), dot_in(look_at(frame, view, told)), atol=0.4)


def test_a_seeing_robot_is_a_robot_that_draws_only_what_is_asked(scene: WornStage) -> None:
    robot = SeeingRobot(scene.robot, scene.eyes(VIEWS, POINT))
    assert isinstance(robot, Robot)
    assert robot.observe().frames == {}
    assert set(robot.observe(("wrist",)).frames) == {"wrist"}
    with pytest.raises(RobotError, match=r"no view.*ceiling.*front"):
        robot.observe(("ceiling",))


def test_calibration_moves_the_point_and_not_the_picture(scene: WornStage, rng: np.random.Generator) -> None:
    scene.appearance = random_appearance(rng, randomization.ALWAYS)
    scene.load(scene.world.scene)
    seen = scene.pointed(POINT)
    assert 0.0002 < np.linalg.norm(seen - POINT) < 0.03 and seen[2] == pytest.approx(0.0)
    # Around the believed point the picture shows what really is at the true one: the red cube.
    middle = look_at(scene.eyes(VIEWS, seen).frames(("front",))["front"], VIEWS[0], seen)[22:30, 22:30].mean((0, 1))
    assert middle[0] > 1.5 * middle[2]


# Randomisation -------------------------------------------------------------------------------------------------------


def test_everything_random_has_a_reason() -> None:
    table = randomization.markdown()
    named = [f.name for f in fields(randomization.Randomization)] + [f.name for f in fields(randomization.PictureNoise)]
    for name in named:
        line = next(line for line in table.splitlines() if f"{name} |" in line)
        assert len(line.split("|")[-2].strip()) > 10
    for wanted in ("latency", "joint_offset", "gain", "dead_band", "backlash", "camera", "look", "texture", "friction",
                   "mass", "point_noise"):  # fmt: skip
        assert any(wanted in name for name in named)


def test_light_draws_what_the_shipped_policy_was_trained_with() -> None:
    for seed in range(30):
        rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
        dynamics, wear = random_hardware(rng, LIGHT)
        expected = Dynamics()
        if same.random() < 0.35:
            expected = Dynamics(
                latency_s=float(same.choice([0.0, same.uniform(0.0, 0.1)])),
                position_gain=float(same.uniform(0.06, 0.2)),
                friction=float(same.uniform(0.5, 1.2)),
                mass_scale=float(same.uniform(0.7, 1.4)),
                joint_offset=(*same.normal(0.0, 0.006, 5).tolist(), 0.0),
            )
        assert dynamics == expected and wear.none
        assert rng.random() == same.random()


def test_full_stays_within_its_ranges() -> None:
    drawn = [random_hardware(np.random.default_rng(seed), FULL) for seed in range(300)]
    late = [dynamics.latency_s for dynamics, _ in drawn]
    assert 0.1 < max(late) <= 0.15 and sum(value == 0.0 for value in late) > 100
    assert max(wear.dead_band_rad for _, wear in drawn) <= FULL.dead_band_rad.high
    assert any(wear.backlash_rad > 0.008 for _, wear in drawn)


def test_points_err_only_where_the_picture_can_tell(rng: np.random.Generator) -> None:
    errors = {
        skill: np.array([point_error(rng, skill, FULL) for _ in range(400)]) for skill in ("pick", "place", "stack")
    }
    assert not errors["place"].any() and not errors["pick"][:, 2].any() and errors["stack"][:, 2].any()
    assert 0.008 < errors["pick"][:, :2].std() < 0.016


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(EmbodiedError, match="light, full"):
        randomization.level("wild")


def test_a_dead_band_stops_short_and_play_hides_from_the_encoder(scene: WornStage) -> None:
    target = scene.world.spec.home + np.array([0.05, 0, 0, 0, 0, 0])

    def settled(wear: Wear, to: np.ndarray) -> tuple[float, float]:
        """True and measured first joint after moving there from home."""
        scene.load(scene.world.scene, scene.world.spec.home)
        robot = WornRobot(scene.world, wear)
        for _ in range(20):
            robot.act(to)
        return float(scene.world.arm_q()[0]), float(robot.observe().q[0])

    exact, _ = settled(Wear(), target)
    assert exact == pytest.approx(target[0], abs=1e-3)
    short, measured = settled(Wear(dead_band_rad=0.01), target)
    assert target[0] - short == pytest.approx(0.01, abs=2e-3) and measured == pytest.approx(short)
    true, measured = settled(Wear(backlash_rad=0.02), target)
    assert target[0] - true == pytest.approx(0.01, abs=2e-3) and measured - true == pytest.approx(0.01, abs=1e-6)
    back = scene.world.spec.home - np.array([0.05, 0, 0, 0, 0, 0])
    true, measured = settled(Wear(backlash_rad=0.02), back)
    assert measured - true == pytest.approx(-0.01, abs=1e-6)


# Demonstrations with pictures ----------------------------------------------------------------------------------------


def seen_demo(rng: np.random.Generator, *, skill_index: int = 1, steps: int = 24) -> Demo:
    """A made-up demonstration whose patches show a dot where the goal is."""
    q = SO101.home + np.cumsum(rng.normal(0.0, 0.01, (steps, 6)), axis=0)
    goal = np.array([0.2, rng.uniform(-0.1, 0.1), 0.0])
    rows = np.arange(0, steps, 2)
    side = VIEWS[0].pixels + 2 * MARGIN_PX
    front = np.full((side, side, 3), rng.integers(60, 140), np.uint8)
    middle = side // 2
    front[middle - 4 : middle + 4, middle - 4 : middle + 4] = (220, 40, 40)
    wrist = np.full_like(front, 90)
    films = {"front": Film.of([front] * len(rows)), "wrist": Film.of([wrist] * len(rows))}
    eyes = {"front": np.tile([0.6, 0.0, 0.5], (len(rows), 1)), "wrist": np.tile([0.1, 0.0, 0.3], (len(rows), 1))}
    pictures = Pictures(rows, films, eyes, goal.copy(), np.tile(goal, (len(rows), 1)))
    done = (np.arange(steps) >= steps - 5).astype(float)
    target = np.vstack([q[1:], q[-1:]])
    return Demo(SKILLS[skill_index], 0, q, q.copy(), target, done, np.ones(steps), goal, goal, pictures)


def test_shards_keep_pictures_to_the_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    demos = [seen_demo(rng, steps=steps) for steps in (9, 24)]
    save_shard(tmp_path / "shard.npz", demos)
    assert (tmp_path / "shard.npz").stat().st_size < 20_000
    for demo, back in zip(demos, load_shard(tmp_path / "shard.npz"), strict=True):
        assert demo.pictures is not None and back.pictures is not None
        np.testing.assert_array_equal(back.pictures.rows, demo.pictures.rows)
        np.testing.assert_allclose(back.pictures.seen, demo.pictures.seen)
        np.testing.assert_allclose(back.pictures.aim, demo.pictures.aim)
        np.testing.assert_allclose(back.pictures.eyes["wrist"], demo.pictures.eyes["wrist"])
        for camera, film in demo.pictures.images.items():
            assert all(np.array_equal(film[k], back.pictures.images[camera][k]) for k in range(len(film)))
    with pytest.raises(ValueError, match="all have pictures"):
        save_shard(tmp_path / "mixed.npz", [demos[0], replace(demos[1], pictures=None)])


def test_only_rows_with_pictures_are_drawn(rng: np.random.Generator) -> None:
    data = DemoSet([seen_demo(rng, steps=10), seen_demo(rng, steps=13)], 10, seeing=True)
    assert data.usable.tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    with pytest.raises(CheckpointError, match=r"1 of 2.*no pictures"):
        DemoSet([seen_demo(rng), replace(seen_demo(rng), pictures=None)], 10, seeing=True)


def test_a_demonstration_with_pictures_moves_as_one_without(stage: WornStage) -> None:
    blind, seeing = (
        demonstrate(stage, "reach", np.random.default_rng(5), randomization=LIGHT, views=views) for views in ((), VIEWS)
    )
    assert blind is not None and seeing is not None and blind.pictures is None and seeing.pictures is not None
    np.testing.assert_array_equal(blind.q, seeing.q)
    assert seeing.pictures.rows.tolist() == list(range(0, len(seeing.q), 2))
    assert seeing.pictures.images["front"].shape == (88, 88, 3)
    assert seeing.pictures.images["wrist"].shape == (88, 88, 3)
    assert seeing.pictures.aim.shape == seeing.pictures.eyes["wrist"].shape == (len(seeing.pictures.rows), 3)


def test_a_batch_moves_point_and_patch_alike(rng: np.random.Generator) -> None:
    data = DemoSet([seen_demo(rng) for _ in range(4)], 10, seeing=True)
    quiet = randomization.PictureNoise(
        *(replace(randomization.PICTURE_NOISE.exposure, low=1.0, high=1.0),
          replace(randomization.PICTURE_NOISE.tint, deviation=0.0), replace(randomization.PICTURE_NOISE.offset, deviation=0.0),
          replace(randomization.PICTURE_NOISE.grain, high=0.0), replace(randomization.PICTURE_NOISE.blur, share=0.0),
          replace(randomization.PICTURE_NOISE.texture, high=0.0), replace(randomization.PICTURE_NOISE.covered, share=0.0),
          replace(randomization.PICTURE_NOISE.blind, share=0.0))
    )  # fmt: skip
    batch = seeing_batch(data, rng, 64, VIEWS, FULL, noise=quiet)
    redness = (batch[PICTURE + "front"][:, 0] - batch[PICTURE + "front"][:, 1]).clamp_min(0.0).numpy() > 0.3
    shift = batch[SHIFT].numpy()
    assert shift[:, :2].std() > 0.005 and not shift[:, 2].any()
    for index in range(64):
        if np.abs(shift[index]).max() < 0.04:  # inside the margin
            where = np.argwhere(redness[index]).mean(axis=0) + 0.5
            np.testing.assert_allclose(where, 26.0 + shift[index, :2] / PIXEL_M, atol=0.8)
    own = torch.isnan(batch[GIVEN]).all(dim=1)
    assert 0.2 < own.float().mean() < 0.8
    np.testing.assert_allclose(batch[GIVEN][~own].numpy(), shift[~own.numpy()], atol=0.01)


# Networks and policies -----------------------------------------------------------------------------------------------


def a_network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = kind(name).new_network(TrainConfig(policy=name))  # type: ignore[arg-type]
    if name != "refiner":  # whose point network is a trained one
        network.chunk_std.fill_(0.02)  # type: ignore[operator,union-attr]
    return network


def observed(cameras: tuple[str, ...] = ("front", "wrist"), at: np.ndarray = POINT) -> Observation:
    frames = {name: dotted_frame(at) for name in cameras}
    return Observation(0.0, SO101.home.copy(), SO101.home.copy(), frames)


GOAL = Goal("pick", POINT, POINT)


@pytest.mark.parametrize("name", get_args(KindName))
def test_every_kind_keeps_the_policy_contract(name: str, tmp_path: Path) -> None:
    network = a_network(name)
    policy = kind(name).policy(network)
    assert isinstance(policy, Policy) and policy.name == name
    observation = observed()
    first = policy.act(observation, GOAL)
    assert first.targets.shape == (10, 6) and 0.0 <= first.done <= 1.0
    assert np.all(np.abs(first.targets[:, :5] - SO101.home[:5]) < 1.0)
    assert np.all((first.targets[:, 5] >= 0) & (first.targets[:, 5] <= 1))
    policy.act(observed(at=POINT + [0.02, 0, 0]), GOAL)
    policy.reset()
    np.testing.assert_array_equal(policy.act(observation, GOAL).targets, first.targets)
    save(tmp_path, name, network, card="# card\n", made={})
    again = load_policy(tmp_path)
    policy.reset()
    assert again.name == name and again.cameras == policy.cameras
    np.testing.assert_array_equal(again.act(observation, GOAL).targets, first.targets)


@pytest.mark.parametrize("name", ["act", "flow"])
def test_one_camera_may_drop_out_but_not_all(name: str) -> None:
    policy = kind(name).policy(a_network(name))
    assert np.all(np.isfinite(policy.act(observed(("wrist",)), GOAL).targets))
    with pytest.raises(RobotError, match="front and wrist"):
        policy.act(observed(()), GOAL)


@pytest.mark.parametrize("name", ["act", pytest.param("flow", marks=pytest.mark.slow)])
def test_networks_learn_to_see_the_shift(name: str, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    config = TrainConfig(policy=name, batch=24)  # type: ignore[arg-type]
    of, data = kind(name), DemoSet([seen_demo(rng) for _ in range(6)], 10, seeing=True)
    network = of.new_network(config)
    batch = of.batch(config, data, rng)
    network.fit_statistics(batch[RAW], batch[CHUNK])  # type: ignore[operator]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = of.loss(network, batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({key: float(value.detach()) for key, value in losses.items()})
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["shift_mm"] < 0.8 * history[0]["shift_mm"]


@pytest.mark.slow  # a timing: for a machine that does nothing else
@pytest.mark.parametrize("name", ["refiner", "act"])
def test_a_seeing_policy_answers_within_15_ms_of_one_core(name: str) -> None:
    policy = kind(name).policy(a_network(name))
    observation = observed()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = []
        for _ in range(12):
            start = time.process_time()
            policy.act(observation, GOAL)
            spent.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert sorted(spent)[3] < 0.015  # the machine's other work is not the policy's


def test_mixed_precision_leaves_kinematics_exact(rng: np.random.Generator) -> None:
    network = a_network("act")
    raw = torch.from_numpy(DemoSet([seen_demo(rng)], 10).raw)
    exact = network.normalised(raw)  # type: ignore[operator]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.normalised(raw), exact)  # type: ignore[operator]


def test_backbones_are_chosen_by_name() -> None:
    for name in ("small", "residual"):
        module = make_backbone(name)
        assert module(torch.zeros(2, 3, 52, 52)).shape[:2] == (2, module.channels)
    with pytest.raises(CheckpointError, match=r"no backbone 'vast'.*small, residual"):
        make_backbone("vast")
    with pytest.raises(ValueError, match="registered already"):
        backbone("small")(torch.nn.Identity)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "act", a_network("act"), card="", made={})
    load_network(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"kind": "act"', '"kind": "flow"'))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_policy(tmp_path)
    with pytest.raises(CheckpointError, match="point, refiner, act, flow"):
        kind("dream")


# Training and evaluation ---------------------------------------------------------------------------------------------


def tiny(tmp_path: Path, name: str, **changes: object) -> TrainConfig:
    config = TrainConfig(
        out=tmp_path / "policy", data=tmp_path / "data", policy=name, skills=("reach",), demos=1, rounds=1,  # type: ignore[arg-type]
        corrections=1, updates=2, round_updates=2, batch=4, evaluate=1, save_every=1,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["act", pytest.param("flow", marks=pytest.mark.slow)])
def test_one_command_trains_a_seeing_policy_and_runs_it(tmp_path: Path, name: str) -> None:
    config = tiny(tmp_path, name)
    result = train(config, console=QUIET)
    assert result["by"]["reach"]["episodes"] == 1
    folders = {path.parent.name for path in config.data.rglob("*.npz")}
    assert folders == {"demos-full-front52-wrist52", f"round1-{name}-full-front52-wrist52"}
    assert load_policy(config.out).cameras == ("front", "wrist")
    assert "wrist camera" in (config.out / "README.md").read_text(encoding="utf-8")
    # From what was learned, without imitation.
    more = tiny(tmp_path, name, out=tmp_path / "more", start=config.out, updates=0, evaluate=0)
    train(more, console=QUIET)
    before, after = load_network(config.out).state_dict(), load_network(more.out).state_dict()
    assert torch.equal(before["chunk_std"], after["chunk_std"])
    assert not torch.equal(before["chunk_head.weight" if name == "act" else "velocity_head.weight"],
                           after["chunk_head.weight" if name == "act" else "velocity_head.weight"])  # fmt: skip


def test_each_kind_has_its_own_usual_numbers() -> None:
    point, act = TrainConfig(), TrainConfig(policy="act")
    assert (point.demos, point.rounds, point.updates, point.batch, point.randomization) == (
        300,
        2,
        10_000,
        512,
        "light",
    )
    assert act.randomization == "full" and act.batch < point.batch
    assert TrainConfig(policy="act", batch=7).batch == 7


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"updates": 0}, "updates"),
        ({"rounds": -2}, "rounds"),
        ({"suites": ()}, "suites"),
        ({"corrections": 0}, "corrections"),
    ],
)
def test_bad_settings_of_a_training_are_refused(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tiny(tmp_path, "act", **changes)


def test_a_start_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "act", "act", a_network("act"), card="", made={})
    with pytest.raises(CheckpointError, match="no flow policy"):
        train(tiny(tmp_path, "flow", start=tmp_path / "act"), console=QUIET)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_runs(suite: str) -> None:
    config = EvalConfig(suite=suite, episodes=1, skills=("reach",))  # type: ignore[arg-type]
    result = evaluate(config, console=QUIET)
    assert result["suite"] == suite
    assert set(result["by"]) == ({"bar", "cone", "ring"} if suite == "shapes" else {"reach"})


def test_the_randomized_suite_repeats_and_differs_from_the_nominal_one() -> None:
    config = EvalConfig(suite="randomized", episodes=2, skills=("reach",))
    one, other = (evaluate(config, console=QUIET) for _ in range(2))
    assert one == other
    assert one["metrics"] != evaluate(replace(config, suite="skills"), console=QUIET)["metrics"]


@pytest.mark.slow
def test_several_processes_measure_what_one_does() -> None:
    config = EvalConfig(episodes=2, skills=("reach", "pick"))
    alone, together = (evaluate(replace(config, workers=n), console=QUIET) for n in (1, 2))
    assert alone == together


@pytest.mark.slow
def test_torchrun_trains_together(tmp_path: Path) -> None:
    words = (
        "--nproc-per-node 2 -m embodied train policy --skills reach --demos 1 --rounds 0 --updates 3 --batch 4 --width 8 "
        "--layers 1 --evaluate 0"
    )
    command = [sys.executable, "-m", "torch.distributed.run", *words.split()]
    command += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "policy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_policy(tmp_path / "policy").name == "point"


def test_noise_is_the_suite_s_unless_asked_for() -> None:
    assert EvalConfig(suite="noise1cm").noise_m == 0.01
    assert EvalConfig(suite="noise2cm", goal_noise_m=0.005).noise_m == 0.005
    assert EvalConfig().noise_m == 0.0
    with pytest.raises(ValueError, match="no suite 'moon'"):
        EvalConfig(suite="moon")  # type: ignore[arg-type]


def test_place_is_also_judged_by_the_spot_that_was_told() -> None:
    result = evaluate(EvalConfig(suite="noise2cm", episodes=2, skills=("place",)), console=QUIET)
    assert 0.0 <= result["metrics"]["place_as_told"] <= 1.0


def test_views_round_trip_through_json() -> None:
    assert tuple(View(**view.to_json()) for view in VIEWS) == VIEWS
    assert VIEWS[0].side_m == pytest.approx(0.13)
