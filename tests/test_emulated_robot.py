"""The agent on the emulated arm: serial driver, bytes and emulated servos between it and the same simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embodied.agent import Agent
from hardware.errors import RobotError
from sim.robot import SimRobot
from sim.scene import Scene
from sim.twin import EmulatedRobot
from sim.world import World

SCENE = Path(__file__).parents[1] / "scenes" / "first.json"


def test_an_instruction_is_carried_out_through_bytes() -> None:
    with Agent.simulated(SCENE, planner="scripted", policy="scripted", robot="emulated") as agent:
        episode = agent.run("put the red cube in the blue bowl")
        assert episode.success, episode.sentence
        assert isinstance(agent.robot, EmulatedRobot)
        assert sum(agent.robot.twin.emulator.traffic.values()) > 100


def test_a_firm_grip_is_held_for_longer_than_the_servos_overload_time() -> None:
    with Agent.simulated(SCENE, planner="scripted", policy="scripted", robot="emulated") as agent:
        assert agent.run("pick up the red cube").success
        hold = agent.robot.observe().command
        for _ in range(100):  # 5 s; the servo turns its torque down after 2 s
            agent.robot.act(hold)
        assert isinstance(agent.robot, EmulatedRobot) and agent.robot.fault is None
        assert agent.world is not None and agent.world.held("red_cube")


def test_another_scene_gets_another_arm() -> None:
    with Agent.simulated(SCENE, planner="scripted", policy="scripted", robot="emulated") as agent:
        first = agent.robot
        agent.load(SCENE)
        assert agent.robot is not first and isinstance(agent.robot, EmulatedRobot)
        assert agent.run("pick up the green cylinder").success


def test_it_moves_as_the_plain_simulated_arm_does() -> None:
    rng = np.random.default_rng(0)
    ways = np.cumsum(rng.uniform(-0.03, 0.03, (40, 6)), 0)
    ends = []
    for make in (SimRobot, EmulatedRobot):
        world = World(Scene.load(SCENE))
        robot = make(world)
        home = world.spec.home  # not where it lies: an arm without torque sags before the first command
        for way in ways:
            robot.act(np.clip(home + way, world.spec.lower + 0.05, world.spec.upper - 0.05))
        for _ in range(20):  # the driver moves along lines between commands, a period later
            robot.act(robot.observe().command)
        ends.append(robot.observe().q)
        robot.close()
        world.close()
    assert np.abs(ends[0][:5] - ends[1][:5]).max() < np.deg2rad(2.0)


def test_faults_are_injected_by_words_and_nonsense_is_refused() -> None:
    world = World(Scene.load(SCENE))
    with pytest.raises(RobotError, match="nonsense"):
        EmulatedRobot(world, faults="nonsense")
    robot = EmulatedRobot(world, faults="drop=0.02,corrupt=0.02", seed=3)
    home = robot.observe().q
    for _ in range(60):
        robot.act(home)
    assert robot.fault is None
    assert sum(robot.twin.emulator.injector.counts.values()) > 0
    robot.close()
    robot.close()
    world.close()
