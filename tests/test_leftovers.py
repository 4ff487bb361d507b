"""Looking again: what a planner overlooked of several things is done after all, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embodied.agent import Agent
from embodied.executor import Event, ExecutorOptions
from embodied.grounding import in_picture
from embodied.leftovers import collects, left_to_do, speaks_of_several
from embodied.plan import Home, Pick, Place, Plan, Point, Push, Refuse
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import PlanError
from sim.scene import ObjectSpec, Scene

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(128, 96, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)


def at(x: float, y: float, camera: CameraModel = CAMERA) -> Point:
    u, v = in_picture(camera, np.array([x, y, 0.0]))
    return u, v


def carried(name: str, x: float, y: float, camera: CameraModel = CAMERA, into: str = "blue tray") -> tuple[Pick, Place]:
    return Pick(object=name, point=at(x, y, camera)), Place(relation="on", object=into, point=at(0.22, -0.10, camera))


@pytest.mark.parametrize(
    "words",
    [
        "put all the cubes in the bowl", "every ball goes in the tray", "both cubes on the plate", "clear the table",
        "tidy up", "sort by colour", "Match The Colors.", "put everything but the red cube in the bowl",
        "the table needs to be empty", "the table must be emptied", "put red with red, blue with blue",
        "emptying the table would help", "put the blocks in the tray",
    ],
)  # fmt: skip
def test_words_for_a_set_are_known(words: str) -> None:
    assert speaks_of_several(words)


@pytest.mark.parametrize(
    "words",
    [
        "put the left cube in the bowl", "take the ball off the table and put it in the empty bowl", "pick up the can",
        "move the cube to the tray of the same colour", "allow the ball to lie in the bowl",
        "time to clean up: put the left cube in the bowl", "it is a mess here. take the can to the tray, all right",
        "i am tidying up. drop any ball in the bowl", "clear the ball away into the bowl",
        "first of all, the cube goes in the bowl",
    ],
)  # fmt: skip
def test_one_thing_singled_out_is_no_set(words: str) -> None:
    assert not speaks_of_several(words)


def test_only_carrying_into_containers_collects() -> None:
    assert collects(Plan(calls=carried("red cube", 0.2, 0.05)))
    assert not collects(Plan(calls=(Home(),)))
    assert not collects(
        Plan(calls=(*carried("red cube", 0.2, 0.05), Push(object="ball", point=at(0.2, 0.0), direction="left")))
    )
    assert not collects(Plan(calls=carried("red cube", 0.2, 0.05, into="green cube")))


def test_what_lies_in_a_container_is_not_taken_out_again() -> None:
    before = carried("red cube", 0.20, 0.05)
    again = Plan(calls=(*carried("red cube", 0.23, -0.11), *carried("green cube", 0.16, 0.10)))
    left = left_to_do(again, before, CAMERA)
    assert left is not None
    assert left.calls == carried("green cube", 0.16, 0.10)
    assert left_to_do(Plan(calls=carried("red cube", 0.23, -0.11)), before, CAMERA) is None


def test_going_home_a_refusal_and_other_work_mean_that_nothing_is_left() -> None:
    before = carried("red cube", 0.20, 0.05)
    for answer in (
        Home(),
        Refuse(reason="absent", object="cube"),
        Push(object="red cube", point=at(0.2, 0.05), direction="left"),
    ):
        assert left_to_do(Plan(calls=(answer,)), before, CAMERA) is None
    above = Plan(calls=(Pick(object="red cube", point=(0.5, 0.0)), carried("x", 0.2, 0.0)[1]))
    level = CameraModel.look_at(
        Intrinsics.from_fov_y(128, 96, 0.6), np.array([0.6, 0.0, 0.3]), np.array([0.0, 0.0, 0.3])
    )
    assert left_to_do(above, above.calls, level) is None  # a point over the horizon


SCENE = Scene(
    objects=(
        ObjectSpec(kind="cube", color="red", position=(0.20, 0.08)),
        ObjectSpec(kind="cube", color="green", position=(0.15, 0.12)),
        ObjectSpec(kind="tray", color="blue", position=(0.22, -0.10)),
    )
)


class Forgetful:
    """Says one plan after the other, then that it is done; says why it was asked by counting."""

    name, scripted = "forgetful", False

    def __init__(self, *names: tuple[str, float, float]) -> None:
        self.names, self.asked = list(names), 0

    def plan(self, instruction: str, frame: Frame) -> Plan:
        self.asked += 1
        if not self.names:
            return Plan(calls=(Home(),))
        return Plan(calls=carried(*self.names.pop(0), frame.model))


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def make(told: list[Event]) -> Iterator[object]:
    agents: list[Agent] = []

    def new(planner: Forgetful, **options: int) -> Agent:
        agents.append(Agent.simulated(SCENE, planner=planner, policy="scripted", options=ExecutorOptions(**options)))  # type: ignore[arg-type]
        return agents[-1]

    yield new
    for agent in agents:
        agent.close()


TWO = (("red cube", 0.20, 0.08), ("green cube", 0.15, 0.12))
TRUTH = Plan(calls=(*carried(*TWO[0]), *carried(*TWO[1])))


def truth(agent: Agent) -> Plan:
    camera = agent.robot.observe(("front",)).frames["front"].model
    return Plan(calls=tuple(call for thing in TWO for call in carried(*thing, camera)))


def test_an_overlooked_cube_is_carried_after_a_second_look(make, told: list[Event]) -> None:  # type: ignore[no-untyped-def]
    planner = Forgetful(*TWO)
    agent = make(planner)
    episode = agent.run("put all the cubes on the tray", truth=truth(agent), on_event=told.append)
    assert episode.success, episode.sentence
    assert planner.asked == 3
    assert [r.index for r in episode.records] == [0, 1, 2, 3]
    assert len(episode.plan.calls) == 2  # the plan is still what was said first
    assert [event.data["plan"].calls[0].object for event in told if event.kind == "left"] == ["green cube"]


def test_looking_again_can_be_turned_off_and_is_not_done_for_one_thing(make) -> None:  # type: ignore[no-untyped-def]
    planner = Forgetful(*TWO)
    agent = make(planner, looks=0)
    assert not agent.run("put all the cubes on the tray", truth=truth(agent)).success
    assert planner.asked == 1
    planner = Forgetful(*TWO)
    make(planner).run("put the red cube on the tray")
    assert planner.asked == 1


def test_a_thing_that_was_never_there_does_not_end_the_work(make) -> None:  # type: ignore[no-untyped-def]
    planner = Forgetful(("white cube", 0.17, -0.01), *TWO)
    agent = make(planner, retries=0)
    episode = agent.run("put all the cubes on the tray", truth=truth(agent))
    assert episode.success, episode.sentence
    assert episode.records[0].status == "failed"


def test_an_answer_that_is_no_plan_ends_the_looking_and_not_the_episode(make) -> None:  # type: ignore[no-untyped-def]
    class Broken(Forgetful):
        def plan(self, instruction: str, frame: Frame) -> Plan:
            if self.asked:
                raise PlanError("the planner said nothing that is a plan")
            return super().plan(instruction, frame)

    agent = make(Broken(TWO[0]))
    episode = agent.run("put everything red on the tray", truth=Plan(calls=truth(agent).calls[:2]))
    assert episode.success, episode.sentence
