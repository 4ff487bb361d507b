"""The PyBullet arm behind the emulated bus."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from servo_client import STEPPED, Client, feetech_client

from hardware.emulator.emulator import Pace
from hardware.emulator.faults import FaultPlan
from hardware.errors import RobotError
from hardware.serial_arm import SerialArm
from hardware.servo import feetech
from sim.scene import Scene
from sim.twin import Twin
from sim.world import World

TICKS = 4096 / (2 * np.pi)
SCENE = Scene.model_validate({"objects": [{"kind": "cube", "color": "red", "position": [0.20, 0.06]}]})


@pytest.fixture
def world() -> Iterator[World]:
    world = World(SCENE, renderer="tiny")
    yield world
    world.close()


def _counts(world: World, q: np.ndarray) -> dict[int, int]:
    angles = [*q[:5], world.spec.jaw_angle(q[5])]
    return {k + 1: round(2048 + angle * TICKS) for k, angle in enumerate(angles)}


def _send(client: Client, counts: dict[int, int]) -> None:
    client.ask(feetech.sync_write(42, {k: struct.pack("<H", v) for k, v in counts.items()}), 0, 0.0)


def _read(client: Client) -> list[int]:
    return [int.from_bytes(r.params[:2], "little") for r in client.ask(feetech.sync_read(56, 2, range(1, 7)), 6)]


def _begin(twin: Twin, client: Client, p: int = 16) -> None:
    """Goals to where the arm is, then torque on: no motion."""
    client.ask(feetech.sync_write(21, dict.fromkeys(range(1, 7), bytes((p,)))), 0, 0.0)
    _send(client, _counts(twin.world, twin.world.arm_q()))
    client.ask(feetech.sync_write(40, dict.fromkeys(range(1, 7), b"\x01")), 0, 0.0)
    assert len(_read(client)) == 6


def test_the_encoders_read_the_joints_of_the_world(world: World) -> None:
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        assert _read(client) == list(_counts(world, world.arm_q()).values())
        assert twin.rig.bus.port == twin.port
        assert twin.rig.uncalibrated == ()


def test_goals_over_the_bus_move_the_arm_as_the_world_without_a_bus_does(world: World) -> None:
    """The same targets at the same instants: within a count of rounding of ``World.set_arm_target`` all the way."""
    start = world.arm_q()
    targets = [np.clip(start + 0.04 * k * np.array([1, 1, -1, -1, 1, -0.3]), world.spec.lower, world.spec.upper)
               for k in range(15)]  # fmt: skip
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        _begin(twin, client)
        through_bytes = []
        for target in targets:
            _send(client, _counts(world, target))
            _read(client)
            through_bytes.append(world.arm_q())
    other = World(SCENE, renderer="tiny")
    try:
        directly = []
        for target in targets:
            other.set_arm_target(target)
            other.step(12)
            directly.append(other.arm_q())
    finally:
        other.close()
    difference = np.abs(np.array(through_bytes) - np.array(directly))
    assert difference.max() < 0.01
    assert np.abs(through_bytes[-1][:5] - targets[-1][:5]).max() < 0.06
    assert np.abs(through_bytes[-1] - start).max() > 0.4


def test_physics_advances_one_period_per_sync_write_and_repeats_to_the_bit(world: World) -> None:
    def run() -> tuple[list[float], list[int]]:
        world.load(SCENE)
        with Twin(world, pace=Pace("stepped", period_s=0.05)) as twin, feetech_client(twin.emulator) as client:
            _begin(twin, client)
            before = world.time_s
            for k in range(10):
                _send(client, _counts(world, world.spec.home + 0.03 * k * np.array([1, 0, 1, 0, 1, 0])))
                _read(client)
            assert world.time_s - before == pytest.approx(0.5, abs=0.006)
            return world.arm_q_list(), _read(client)

    assert run() == run()


def test_without_torque_the_arm_sinks_and_with_it_it_holds(world: World) -> None:
    world.reset_arm(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5]))
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        twin.plant.look()
        _begin(twin, client)
        held = _read(client)
        twin.emulator.advance(1.0)
        assert np.abs(np.subtract(_read(client), held)).max() < 15
        load = client.get(twin.emulator, 2, "present_load")
        assert abs(load) > 50  # the shoulder carries the stretched arm
        client.ask(feetech.write(feetech.BROADCAST, 40, b"\x00"), 0, 0.0)
        _read(client)
        twin.emulator.advance(1.0)
        assert np.abs(np.subtract(_read(client), held)).max() > 100
        assert client.get(twin.emulator, 2, "present_load") == 0


def test_the_expert_lifts_a_cube_through_bytes(world: World) -> None:
    """The serial driver, its safety core and real bytes between a scripted expert and the simulated arm."""
    from sim.experts import SkillGoal, make_expert

    point = world.object_position("red_cube")
    with (
        Twin(world, pace=STEPPED) as twin,
        SerialArm.open(
            twin.rig, cameras={"front": twin.camera("front")}, control_hz=20.0, profile="sim", lockstep=True
        ) as robot,
    ):
        expert = make_expert(robot.spec, SkillGoal("pick", point, point))
        verdicts, begun = [], twin.emulator.time_s
        for _ in range(160):
            move = expert.act(robot.observe())
            verdicts.append(robot.act(move.target).verdict)
            if move.done:
                break
        assert robot.fault is None
        assert verdicts.count("reject") == 0
        assert world.object_foot("red_cube")[2] > 0.02
        assert world.held("red_cube")
        assert twin.emulator.time_s - begun == pytest.approx(0.05 * len(verdicts), abs=0.1)
        assert robot.observe(["front"]).frames["front"].rgb.shape[2] == 3


def test_a_blocked_joint_stays_where_it_is_and_reports_load(world: World) -> None:
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        _begin(twin, client)
        twin.emulator.inject("block:shoulder_pan")
        _send(client, {1: 2600})
        twin.emulator.advance(1.0)
        assert _read(client)[0] == pytest.approx(2048, abs=6)
        assert client.get(twin.emulator, 1, "present_load") > 900
        twin.emulator.heal()
        twin.emulator.advance(1.5)
        assert _read(client)[0] == pytest.approx(2600, abs=10)


def test_a_hand_moves_the_limp_arm(world: World) -> None:
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        twin.emulator.hold({"shoulder_pan": 0.5})
        twin.emulator.advance(1.0)
        assert _read(client)[0] == pytest.approx(2048 + 0.5 * TICKS, abs=8)


def test_damping_and_pwm_reach_the_joint(world: World) -> None:
    with Twin(world, pace=STEPPED) as twin, feetech_client(twin.emulator) as client:
        client.put(twin.emulator, 1, "torque_enable", 2)
        twin.emulator.advance(0.2)
        client.put(twin.emulator, 1, "lock", 0)
        client.put(twin.emulator, 1, "operating_mode", 2)
        client.put(twin.emulator, 1, "goal_time", 200)
        client.put(twin.emulator, 1, "torque_enable", 1)
        twin.emulator.advance(0.5)
        assert _read(client)[0] > 2100


def test_the_cameras_of_the_scene_and_what_can_happen_to_them(world: World) -> None:
    with Twin(world, pace=STEPPED) as twin:
        camera = twin.camera("front")
        first = camera.read()
        assert first.rgb.std() > 10
        assert first.segmentation is None
        twin.emulator.advance(0.5)
        twin.emulator.injector.counts.clear()
        assert camera.read().stamp_s == pytest.approx(0.5)
        for word in ("camera_freeze", "camera_stale", "camera_black"):
            last = camera.read()
            twin.inject(f"{word}:front")
            twin.emulator.advance(0.1)
            now = camera.read()
            assert (now.rgb is last.rgb) == (word != "camera_black")
            assert (now.stamp_s > last.stamp_s) == (word != "camera_stale")
            assert (now.rgb.max() == 0) == (word == "camera_black")
            twin.emulator.heal()
        twin.inject("camera_unplug:front")
        with pytest.raises(RobotError, match="is it plugged in"):
            camera.read()
        with pytest.raises(RobotError, match="no 'attic' here; there are: .*front"):
            twin.inject("camera_unplug:attic")


def test_faults_for_joints_and_cameras_in_one_plan(world: World) -> None:
    plan = FaultPlan.parse("mute:elbow,camera_black:front")
    with Twin(world, pace=STEPPED, faults=plan) as twin, feetech_client(twin.emulator) as client:
        assert client.silence(feetech.ping(3))
        assert client.ask(feetech.ping(2))
        assert twin.camera("front").read().rgb.max() == 0


def test_another_arm_is_refused(world: World) -> None:
    with pytest.raises(RobotError, match="this world has a so101, not a koch"):
        Twin(world, "koch")
    with pytest.raises(RobotError, match="no 'tail' here"):
        Twin(world, faults=FaultPlan.parse("freeze:tail"))
