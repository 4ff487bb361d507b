"""The eye and the refiner: still looks, where the arm must aim, the average over time, and a policy that corrects a point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from hardware.arm_spec import SO101
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.kinematics import forward
from hardware.robot import Observation
from policies.checkpoint import SHIPPED_POINT, load_network, load_point_network, load_policy
from policies.collect import collect, shard_folder
from policies.data import DemoSet
from policies.features import GOAL_SLICE, PAST_SLICE, RAW_WIDTH
from policies.goal import Goal
from policies.images import PIXEL_M, VIEWS
from policies.looks import LOOKS, PictureKeeper, still_looks
from policies.point import RAW, PointPolicy
from policies.randomization import FULL, LIGHT, Share, Wear
from policies.refiner import LOOK_EVERY, RefinerNetwork, RefinerPolicy, new_refiner, refiner_loss
from policies.runtime import PolicyRuntime
from policies.sight import FORGET, Seen, ShiftAverage
from policies.sight_batch import PICTURE, SHIFT, seeing_batch
from policies.skills import SKILLS
from policies.train import TrainConfig, train
from policies.worn_robot import WornStage
from sim.dynamics import Dynamics
from sim.rollout import SkillEpisode

POINT = np.array([0.22, 0.05, 0.0])
GOAL = Goal("pick", POINT, POINT)
SKILL_AT = PAST_SLICE.stop
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def stage() -> Iterator[WornStage]:
    stage = WornStage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def network() -> RefinerNetwork:
    torch.manual_seed(0)
    return new_refiner(None, "small", VIEWS)


def blank(cameras: tuple[str, ...] = ("front", "wrist")) -> Observation:
    model = CameraModel.look_at(
        Intrinsics.from_fov_y(64, 48, 0.6), np.array([0.60, 0.0, 0.50]), np.array([0.18, 0.0, 0.0])
    )
    frames = {name: Frame(np.full((48, 64, 3), 120, np.uint8), model, 0.0) for name in cameras}
    return Observation(0.0, SO101.home.copy(), SO101.home.copy(), frames)


def seen(shift: tuple[float, float, float], log_scale: float = 0.0) -> Seen:
    return Seen(torch.tensor([shift]), torch.full((1, 3), log_scale), ())


def looks(refiner: RefinerPolicy) -> bool:
    """Whether it wants frames at its next step."""
    assert refiner.cameras in ((), ("front", "wrist"))
    return bool(refiner.cameras)


# Looks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skill", ["pick", "stack", "open"])
def test_a_still_look_is_a_demonstration_in_which_nothing_is_done(stage: WornStage, skill: str) -> None:
    one, same = (still_looks(stage, skill, np.random.default_rng(3), randomization=FULL, views=VIEWS) for _ in range(2))  # type: ignore[arg-type]
    assert one.pictures is not None and same.pictures is not None
    np.testing.assert_array_equal(one.q, same.q)
    assert one.q.shape == (LOOKS, 6) and not one.done.any() and one.use.all()
    assert all(film.shape == (88, 88, 3) and len(film) == LOOKS for film in one.pictures.images.values())
    assert np.ptp(one.q[:, :5], axis=0).max() > 0.05  # the arm stands elsewhere each time
    assert np.linalg.norm(one.pictures.seen - one.goal) < 0.03
    drawn = SkillEpisode.sample(skill, np.random.default_rng(3))
    assert [o.name for o in stage.world.scene.objects] == [o.name for o in drawn.scene.objects]
    assert stage.world.scene.find(drawn.target) == drawn.scene.find(drawn.target)


def test_some_bowls_that_are_looked_at_hold_something_already(stage: WornStage) -> None:
    filled = 0
    for seed in range(40):
        still_looks(stage, "bowl", np.random.default_rng(seed), randomization=FULL, views=VIEWS)
        drawn = SkillEpisode.sample("bowl", np.random.default_rng(seed))
        bowl = stage.world.scene.find(drawn.target)
        assert bowl.position == drawn.scene.find(drawn.target).position
        filled += any(
            o.z > 0.0 and o.name != drawn.held and np.hypot(*np.subtract(o.position, bowl.position)) < 0.5 * bowl.size_m
            for o in stage.world.scene.objects
        )
    assert 4 <= filled <= 20  # two scenes of five are arranged, and not each has something to put in


def test_aim_is_where_the_measured_arm_meets_the_true_point(stage: WornStage) -> None:
    rng = np.random.default_rng(5)
    stage.wear, stage.appearance = Wear(), None
    episode = SkillEpisode.sample("pick", rng)
    offset = (0.02, -0.01, 0.01, 0.0, 0.0, 0.0)
    stage.load(episode.scene, episode.start_q, Dynamics(joint_offset=offset))
    point = episode.goal(stage.world).point
    keeper = PictureKeeper(stage, episode, point, VIEWS)
    observation = stage.robot.observe()
    keeper.see(observation, 0)
    aim = keeper.pictures().aim[0]
    assert 0.001 < np.linalg.norm(aim - point) < 0.02 and aim[2] == pytest.approx(point[2])
    # In the frame of the tool both are the same place, heights apart.
    true, believed = stage.world.tool_pose(), forward(SO101, observation.q)
    apart = np.linalg.inv(true) @ np.append(point, 1.0) - np.linalg.inv(believed) @ np.append(aim, 1.0)
    assert np.linalg.norm(apart) < 0.006
    stage.load(episode.scene, episode.start_q, Dynamics())
    exact = PictureKeeper(stage, episode, point, VIEWS)
    exact.see(stage.robot.observe(), 0)
    np.testing.assert_allclose(exact.pictures().aim[0], point, atol=1e-6)


@pytest.mark.parametrize(
    ("to", "follows"), [((0.01, 0.0, 0.0), True), ((0.0, 0.0, 0.05), False), ((0.1, 0.0, 0.0), False)]
)
def test_the_aim_follows_a_thing_knocked_aside_but_not_one_taken(
    stage: WornStage, to: tuple[float, float, float], follows: bool
) -> None:
    stage.wear, stage.appearance = Wear(), None
    episode = SkillEpisode.sample("pick", np.random.default_rng(6))
    stage.load(episode.scene, episode.start_q, Dynamics())
    point = episode.goal(stage.world).point
    keeper = PictureKeeper(stage, episode, point, VIEWS)
    stage.world.place_object(episode.target, point + np.array(to))
    keeper.see(stage.robot.observe(), 0)
    np.testing.assert_allclose(keeper.pictures().aim[0], point + (np.array(to) if follows else 0.0), atol=1e-3)


def test_still_looks_lie_apart_from_demonstrations() -> None:
    names = {shard_folder(0, "full", VIEWS, "refiner", still=still) for still in (True, False)}
    assert names == {"looks-full-front52-wrist52", "demos-full-front52-wrist52"}
    (demo,) = collect("press", 1, 0, randomization=LIGHT, views=VIEWS, still=True)
    assert demo.skill == "press" and len(demo.q) == LOOKS


# Eye -----------------------------------------------------------------------------------------------------------------


def test_looks_are_averaged_by_certainty_and_forgotten() -> None:
    average = ShiftAverage()
    assert not average.shift.any()
    average.add(seen((0.01, 0.0, 0.0)))
    np.testing.assert_allclose(average.shift, [0.01, 0.0, 0.0], atol=1e-7)
    average.add(seen((0.03, 0.0, 0.0), log_scale=1.6))  # far off, and not sure at all
    assert 0.010 < average.shift[0] < 0.012
    for _ in range(60):
        average.add(seen((0.03, 0.0, 0.0)))
    np.testing.assert_allclose(average.shift[0], 0.03, atol=0.02 * FORGET**60 * 2)
    average.reset()
    assert not average.shift.any()


def test_a_vote_is_a_place_on_the_map() -> None:
    """With one cell of the front map speaking and all others silent the shift is where that cell lies."""
    eye = new_refiner(None, "small", VIEWS).eye
    with torch.no_grad():
        for module in eye.votes.values():
            module.weight.zero_()  # type: ignore[union-attr]
            module.bias.zero_()  # type: ignore[union-attr]
    raw = torch.zeros(1, RAW_WIDTH)
    raw[0, SKILL_AT + SKILLS.index("pick")] = 1.0
    dark = {view.camera: torch.zeros(1, 3, view.pixels, view.pixels) for view in VIEWS}
    np.testing.assert_allclose(eye(raw, dark).shift[0, :2].detach().numpy(), 0.0, atol=1e-6)  # all alike: the middle
    wanted = torch.zeros(1, 3, 13, 13)
    wanted[0, 0, 2, 9] = 50.0
    eye.votes["front"] = _Fixed(wanted)
    side = VIEWS[0].pixels * PIXEL_M
    expected = [(2.5 / 13 - 0.5) * side, (9.5 / 13 - 0.5) * side]
    np.testing.assert_allclose(eye(raw, dark).shift[0, :2].detach().numpy(), expected, atol=1e-5)
    raw[0, SKILL_AT + SKILLS.index("pick")], raw[0, SKILL_AT + SKILLS.index("place")] = 0.0, 1.0
    assert not eye(raw, dark).shift.any()  # a bare spot shows nothing


class _Fixed(torch.nn.Module):
    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, mapped: torch.Tensor) -> torch.Tensor:
        return self.answer


def test_the_eye_does_not_hear_where_the_point_is(network: RefinerNetwork) -> None:
    """Where the tool is relative to the told point would give the answer away in training."""
    raw = torch.zeros(2, RAW_WIDTH)
    raw[:, SKILL_AT + SKILLS.index("pick")] = 1.0
    raw[1, GOAL_SLICE] = 0.3
    dark = {view.camera: torch.zeros(2, 3, view.pixels, view.pixels) for view in VIEWS}
    shift = network.see(raw, dark).shift
    assert torch.equal(shift[0], shift[1])


def test_an_eye_learns_where_things_are(stage: WornStage) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    plain = replace(LIGHT, point_noise_m=FULL.point_noise_m, dynamics=Share(0.0, "exact joints"))
    demos = [still_looks(stage, "pick", np.random.default_rng(k), randomization=plain, views=VIEWS) for k in range(3)]
    data, eye = DemoSet(demos, 10, seeing=True), new_refiner(None, "small", VIEWS)
    before = [parameter.clone() for parameter in eye.point.parameters()]
    batch = seeing_batch(data, rng, 12, VIEWS, plain)
    assert set(batch) >= {RAW, SHIFT, PICTURE + "front", PICTURE + "wrist"}
    optimizer = torch.optim.AdamW(eye.parameters(), lr=3e-3)
    errors = []
    for _ in range(20):
        losses = refiner_loss(eye, batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        errors.append(float(losses["shift_mm"]))
    assert errors[-1] < 0.7 * errors[0]
    assert all(torch.equal(old, new) for old, new in zip(before, eye.point.parameters(), strict=True))


# Refiner -------------------------------------------------------------------------------------------------------------


def test_without_cameras_it_is_the_point_policy(network: RefinerNetwork) -> None:
    refiner, point = RefinerPolicy(network), PointPolicy(load_point_network(SHIPPED_POINT))
    for _ in range(3):
        np.testing.assert_array_equal(refiner.act(blank(()), GOAL).targets, point.act(blank(()), GOAL).targets)
    assert not refiner.shift.any()


def test_it_moves_for_the_point_it_sees(network: RefinerNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Goal("pick", POINT + [0.02, -0.01, 0.0], POINT + [0.02, -0.01, 0.0])
    monkeypatch.setattr(network, "see", lambda raw, pictures: seen((-0.02, 0.01, 0.0)))
    refiner, point = RefinerPolicy(network), PointPolicy(network.point)
    assert looks(refiner)
    np.testing.assert_allclose(refiner.act(blank(), told).targets, point.act(blank(()), GOAL).targets, atol=1e-6)
    np.testing.assert_allclose(refiner.shift, [-0.02, 0.01, 0.0], atol=1e-7)
    assert not looks(refiner)  # now and then only
    for _ in range(LOOK_EVERY - 1):
        refiner.act(blank(()), told)
    assert looks(refiner)
    refiner.reset()
    assert looks(refiner) and not refiner.shift.any()


def test_the_runtime_needs_no_wrapper(stage: WornStage, network: RefinerNetwork) -> None:
    """Full frames of the scene's own cameras do."""
    stage.wear, stage.appearance = Wear(), None
    episode = SkillEpisode.sample("reach", np.random.default_rng(1))
    stage.load(episode.scene, episode.start_q, Dynamics())
    goal = episode.goal(stage.world)
    result = PolicyRuntime(RefinerPolicy(network)).run(stage.robot, Goal("reach", goal.point, goal.to), timeout_s=0.2)
    assert result.steps == 4


def test_one_command_trains_a_refiner_from_looks_and_its_own_mistakes(tmp_path: Path) -> None:
    config = TrainConfig(
        out=tmp_path / "policy", data=tmp_path / "data", policy="refiner", skills=("reach", "place"), demos=1, rounds=1,
        corrections=1, updates=2, round_updates=2, batch=4, evaluate=0, save_every=1,
    )  # fmt: skip
    train(config, console=QUIET)
    shards = sorted(str(path.relative_to(config.data)) for path in config.data.rglob("*.npz"))
    # Nothing of place, where there is nothing to see.
    assert [Path(shard).parent.name for shard in shards] == [
        "looks-full-front52-wrist52", "round1-refiner-full-front52-wrist52",
    ]  # fmt: skip
    trained, shipped = load_network(config.out), load_point_network(SHIPPED_POINT)
    for name, weight in shipped.state_dict().items():
        assert torch.equal(trained.state_dict()[f"point.{name}"], weight)
    assert load_policy(config.out).name == "refiner"
    card = (config.out / "README.md").read_text(encoding="utf-8")
    assert "1 still scenes per skill" in card and "wrist camera" in card


def test_a_refiner_from_nothing_trains_its_mover_first_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policies import train as module

    monkeypatch.setitem(module.RECIPES, "point", module.Recipe(2, 0, 1, 2, 1, 8, "light"))
    config = module.TrainConfig(
        out=tmp_path / "out", data=tmp_path / "data", policy="refiner", mover=module.NEW_MOVER, skills=("press",), demos=1,
        rounds=0, updates=1, batch=4, evaluate=0,
    )  # fmt: skip
    module.train(config)
    mover, whole = load_point_network(config.out / "mover"), load_network(config.out)
    for name, value in mover.state_dict().items():
        assert torch.equal(whole.point.state_dict()[name], value), "the new mover moves, not the shipped one"
    made = (config.out / "mover" / "model.safetensors").stat().st_mtime_ns
    module.train(replace(config, resume=True))
    assert (config.out / "mover" / "model.safetensors").stat().st_mtime_ns == made
