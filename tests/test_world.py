"""The world: what is built is where the scene says, pictures agree with the camera model, and everything repeats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hardware.arm_spec import SO101
from hardware.errors import SceneError
from sim.dynamics import Dynamics
from sim.generate import random_scene
from sim.randomize import random_camera, random_look
from sim.robot import SimRobot
from sim.scene import COLORS, GRASPABLE, KINDS, Scene, distance_from_pan_axis
from sim.world import World

SCENE = Scene.model_validate(
    {
        "objects": [
            {"kind": "cube", "color": "red", "position": [0.20, 0.08], "yaw_deg": 20},
            {"kind": "cylinder", "color": "green", "position": [0.25, 0.02]},
            {"kind": "ball", "color": "blue", "position": [0.16, -0.03]},
            {"kind": "bowl", "color": "yellow", "position": [0.22, -0.13]},
            {"kind": "button", "color": "purple", "position": [0.14, 0.13]},
        ]
    }
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(SCENE)
    yield world
    world.close()


def _play(world: World, seed: int, steps: int = 40) -> list[np.ndarray]:
    """Random motions; everything measurable after each."""
    rng = np.random.default_rng(seed)
    robot = SimRobot(world)
    out = []
    for _ in range(steps):
        robot.act(robot.observe().command + rng.normal(0.0, 0.05, 6))
        feet = [world.object_foot(o.name) for o in world.scene.objects]
        out.append(np.concatenate([world.arm_q(), *feet]))
    return out


def test_objects_stand_where_the_scene_says(world: World) -> None:
    world.load(SCENE)
    for spec in SCENE.objects:
        np.testing.assert_allclose(world.object_foot(spec.name)[:2], spec.position, atol=1e-6)
    world.step(120)
    for spec in SCENE.objects:  # and stay there
        assert np.linalg.norm(world.object_foot(spec.name) - [*spec.position, 0.0]) < 0.002, spec.name
    assert [o.name for o in world.scene_now().objects] == [o.name for o in SCENE.objects]


@pytest.mark.parametrize("size", [(256, 192), (512, 384)])
def test_pictures_agree_with_the_camera_model(world: World, size: tuple[int, int]) -> None:
    """The middle of a ball's silhouette is the projection of its centre, to less than a pixel."""
    for position in ((0.15, 0.0), (0.24, 0.12), (0.28, -0.10)):
        ball = {"kind": "ball", "color": "red", "position": position, "size_m": 0.024}
        world.load(Scene.model_validate({"objects": [ball]}))
        frame = world.render("front", size=size, segmentation=True, depth=True)
        assert frame.segmentation is not None and frame.depth_m is not None
        rows, cols = np.nonzero(frame.segmentation == world.body_id("red_ball"))
        seen = np.array([cols.mean() + 0.5, rows.mean() + 0.5])
        centre = world.object_position("red_ball")
        assert np.linalg.norm(seen - frame.model.project(centre)) < 1.0
        eye = frame.model.T_base_camera[:3, 3]
        ahead = float((centre - eye) @ frame.model.T_base_camera[:3, 2])
        assert abs(float(frame.depth_m[rows, cols].min()) - (ahead - 0.012)) < 0.006


def test_the_wrist_camera_sees_what_is_under_the_gripper(world: World) -> None:
    from hardware.kinematics import inverse_any_pitch

    world.load(Scene.model_validate({"objects": [{"kind": "cube", "color": "red", "position": [0.2, 0.0]}]}))
    q, _ = inverse_any_pitch(SO101, np.array([0.2, 0.0, 0.08]))
    world.reset_arm(np.append(q, 0.6))
    rgb = world.render("wrist").rgb.astype(int)
    red = (rgb[..., 0] > 120) & (rgb[..., 1] < 60) & (rgb[..., 2] < 60)
    assert red.mean() > 0.01


def test_a_rebuilt_world_repeats_to_the_bit() -> None:
    runs = []
    for _ in range(2):
        world = World(SCENE)
        runs.append(_play(world, 1))
        world.close()
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_reloading_and_restoring_repeat_to_the_bit(world: World) -> None:
    world.load(SCENE)
    world.reset_arm(SO101.home)
    first = _play(world, 2)
    world.load(SCENE)
    world.reset_arm(SO101.home)
    assert all(np.array_equal(a, b) for a, b in zip(first, _play(world, 2), strict=True))
    state = world.save()
    onwards = _play(world, 3)
    world.load(Scene())  # something quite different in between
    world.restore(state)
    assert all(np.array_equal(a, b) for a, b in zip(onwards, _play(world, 3), strict=True))


def test_what_is_not_there_is_named_with_what_is(world: World) -> None:
    world.load(SCENE)
    with pytest.raises(SceneError, match="red_cube"):
        world.object_foot("pink_elephant")
    with pytest.raises(SceneError, match="front"):
        world.render("ceiling")


def test_a_closed_world_says_so() -> None:
    world = World(SCENE)
    world.close()
    world.close()
    with pytest.raises(SceneError, match="closed"):
        world.load(SCENE)


def test_an_unknown_renderer_lists_the_choices() -> None:
    world = World(SCENE, renderer="raytracer")  # type: ignore[arg-type]
    with pytest.raises(SceneError, match="tiny"):
        world.render("front")
    world.close()


# Scenes --------------------------------------------------------------------------------------------------------------


def test_random_scenes_are_apart_in_reach_and_in_view(world: World) -> None:
    rng = np.random.default_rng(6)
    kinds: set[str] = set()
    for _ in range(120):
        scene = random_scene(rng, vary_camera=True)
        kinds |= {o.kind for o in scene.objects}
        world.scene = scene
        camera = world.camera_model("front")
        for spec in scene.objects:
            if spec.kind in GRASPABLE:
                assert 0.12 < distance_from_pan_axis(spec.position) < 0.28
            u, v = camera.project(np.array([*spec.position, spec.z])) / (512, 384)
            assert 0.01 < u < 0.99 and 0.01 < v < 0.99, spec
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                gap = np.hypot(*(np.array(a.position) - b.position)) - 0.5 * (a.size_m + b.size_m)
                assert gap > 0.0, (a, b)
    world.load(SCENE)
    assert kinds == set(KINDS)


def test_required_kinds_and_limits_are_kept() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        scene = random_scene(
            rng, kinds_required=("bowl", "drawer"), kinds=("cube",), colors=COLORS[:4], n_objects=(3, 4),
            allow_duplicates=False,
        )  # fmt: skip
        assert {"bowl", "drawer"} <= {o.kind for o in scene.objects} <= {"bowl", "drawer", "cube"}
        labels = [o.label for o in scene.objects]
        assert len(set(labels)) == len(labels) and all(o.color in COLORS[:4] for o in scene.objects)


def test_scene_files_round_trip_and_errors_name_field_and_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    scene = random_scene(rng).model_copy(update={"look": random_look(rng), "cameras": (random_camera(rng),)})
    path = tmp_path / "scene.json"
    scene.save(path)
    assert Scene.load(path) == scene
    path.write_text('{"objects": [\n {"kind": "cube", "color": "red", "position": [0.2, 0]},\n {"kind": "cat"}]}')
    with pytest.raises(SceneError, match=r"line 3: field objects\.1\.kind.*'cube'"):
        Scene.load(path)
    path.write_text('{"objects": [\n')
    with pytest.raises(SceneError, match=r"scene\.json"):
        Scene.load(path)
    with pytest.raises(SceneError, match="cannot read"):
        Scene.load(tmp_path / "nowhere.json")


# The robot -----------------------------------------------------------------------------------------------------------


def test_the_simulated_robot_fulfils_the_contract(world: World) -> None:
    from hardware.robot import Robot

    world.load(SCENE)
    world.reset_arm(SO101.home)
    robot = SimRobot(world)
    assert isinstance(robot, Robot) and set(robot.camera_names) == {"front", "wrist"}
    seen = robot.observe(["front"])
    assert seen.frames["front"].rgb.shape == (384, 512, 3) and seen.q.shape == (6,)
    before = seen.stamp_s
    applied = robot.act(seen.q)
    assert applied.verdict == "pass"
    assert robot.observe().stamp_s - before == pytest.approx(1 / robot.control_hz)


def test_every_command_passes_the_safety_core(world: World) -> None:
    world.load(SCENE)
    world.reset_arm(SO101.home)
    robot = SimRobot(world)
    for _ in range(3):
        assert robot.act(np.full(6, np.nan)).verdict == "reject"
    assert robot.fault is not None
    assert robot.act(SO101.home).verdict == "reject", "after a fault nothing moves"
    robot.reset_fault()
    assert robot.act(SO101.home).verdict != "reject"
    assert robot.act(np.degrees(SO101.home)).verdict == "reject", "degrees for radians are a jump"


def test_latency_and_joint_offset_are_what_they_say() -> None:
    offset = (0.02, 0.0, -0.02, 0.0, 0.0, 0.0)
    world = World(Scene(), dynamics=Dynamics(latency_s=0.1, joint_offset=offset))
    world.reset_arm(SO101.home)
    robot = SimRobot(world)
    np.testing.assert_allclose(robot.observe().q - world.arm_q(), offset, atol=1e-9)
    target = robot.observe().q + np.array([0.09, 0, 0, 0, 0, 0])
    moved = []
    for _ in range(5):
        robot.act(target)
        moved.append(abs(robot.observe().q[0] - SO101.home[0] - offset[0]))
    assert moved[1] < 0.01 < moved[4], "nothing for two periods of 0.05 s, then motion"
    world.close()
