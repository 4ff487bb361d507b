"""Sequences: each instruction is about the table as the last one left it, and only what was fulfilled in a row counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from embodied import evaluation
from embodied.agent import Agent
from embodied.evaluation import AGENT_SUITES, evaluate_agent
from embodied.plan import Plan, Refuse
from embodied.score import Question, Report, front_camera
from embodied.sequences import LENGTH, SEQUENCE_KINDS, Lengths, instructions, rich_scene
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError
from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk
from sim.conditions import Start, holds
from sim.scene import ObjectSpec, Scene
from sim.world import World

DRAWER = ObjectSpec(kind="drawer", color="red", position=(0.285, 0.13), yaw_deg=27.8)
GREEN = ObjectSpec(kind="cube", color="green", position=(0.24, 0.03))
YELLOW = ObjectSpec(kind="cube", color="yellow", position=(0.15, -0.07))
TABLE = Scene(
    objects=(
        DRAWER, GREEN, YELLOW,
        ObjectSpec(kind="button", color="white", position=(0.19, -0.02)),
        ObjectSpec(kind="bowl", color="blue", position=(0.20, -0.14)),
        ObjectSpec(kind="cylinder", color="purple", position=(0.27, -0.06)),
    )
)  # fmt: skip
REFUSAL = Plan(calls=(Refuse(reason="unclear"),))


class Told:
    """A planner that answers what the test says."""

    name = "told"
    scripted = True
    answer: Plan = REFUSAL

    def plan(self, instruction: str, frame: Frame) -> Plan:
        return self.answer


class Idle:
    """A policy that claims to be done and never moves."""

    name = "idle"
    control_hz = 20.0
    cameras: tuple[str, ...] = ()

    def reset(self) -> None: ...

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        return Chunk(observation.command[None], 1.0)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent.simulated(planner=Told(), policy="scripted") as agent:
        yield agent


def asked_about(world: World, scene: Scene, sequences: int) -> list[Question]:
    """What is asked about a table on which nothing is done."""
    world.load(scene)
    return [asked for index in range(sequences) for asked in instructions(world, 0, index)]


def with_objects(scene: Scene, *objects: ObjectSpec) -> Scene:
    """The scene with these instead of those of the same label."""
    labels = {spec.label for spec in objects}
    return Scene(objects=(*(spec for spec in scene.objects if spec.label not in labels), *objects))


def watched(
    monkeypatch: pytest.MonkeyPatch, planner: Told, *, right: bool = True, most: int = LENGTH
) -> list[Question]:
    """Remember what is asked from now on, about one table; ``right``: the planner is told the true plans."""
    heard: list[Question] = []

    def listening(world: World, seed: int, index: int) -> Iterator[Question]:
        for asked in islice(instructions(world, seed, index), most):
            heard.append(asked)
            planner.answer = asked.truth if right else REFUSAL
            yield asked

    monkeypatch.setattr(evaluation, "rich_scene", lambda seed, index, world: TABLE)
    monkeypatch.setattr(evaluation, "instructions", listening)
    return heard


def change(earlier: Scene, later: Scene) -> float:
    """How far anything was moved (m), or a drawer opened or shut (0..1)."""
    pairs = [(spec, later.find(spec.name)) for spec in earlier.objects]
    return max(math.dist(a.position, b.position) + abs(a.opening - b.opening) for a, b in pairs)


def test_an_instruction_is_about_the_scene_as_it_is_when_it_is_asked(world: World) -> None:
    world.load(TABLE)
    sequence = instructions(world, 0, 0)
    first = next(sequence)
    world.place_object("green_cube", np.array([0.22, -0.06, 0.0]))
    second = next(sequence)
    assert first.scene.find("green_cube").position == pytest.approx(GREEN.position, abs=0.002)
    assert second.scene.find("green_cube").position == pytest.approx((0.22, -0.06), abs=0.002)


def test_asking_moves_nothing_and_never_asks_for_what_is_so(world: World) -> None:
    from embodied.language.view import look
    from embodied.referee import conditions_of

    world.load(TABLE)
    before = world.time_s, world.arm_q_list(), world.scene_now()
    for index in range(6):
        kinds = []
        for asked in instructions(world, 0, index):
            conditions = conditions_of(asked.truth, look(asked.scene, front_camera(asked.scene)))
            assert conditions
            assert not any(holds(world, condition, Start.of(world)) for condition in conditions), asked.instruction
            kinds.append(asked.kind)
        assert set(kinds) <= set(SEQUENCE_KINDS)
        assert len(set(kinds)) == LENGTH, "kinds take turns while there is something to ask of each"
    assert (world.time_s, world.arm_q_list(), world.scene_now()) == before


@pytest.mark.parametrize(("opening", "sensible", "senseless"), [(0.0, "open", "close"), (1.0, "close", "open")])
def test_a_drawer_is_only_asked_to_move_where_it_can(
    opening: float, sensible: str, senseless: str, world: World
) -> None:
    scene = with_objects(TABLE, DRAWER.model_copy(update={"opening": opening}))
    kinds = {asked.kind for asked in asked_about(world, scene, 4)}
    assert sensible in kinds
    assert senseless not in kinds


def test_a_drawer_with_something_in_its_way_is_left_alone(world: World) -> None:
    blocked = with_objects(TABLE, YELLOW.model_copy(update={"position": (0.195, 0.083)}))
    kinds = {asked.kind for asked in asked_about(world, blocked, 5)}
    assert not kinds & {"open", "close"}
    assert "press" in kinds


def test_nothing_is_asked_to_be_put_in_a_drawers_way(world: World) -> None:
    def beside(scene: Scene) -> set[tuple[str, str]]:
        places = [asked.truth.calls[-1] for asked in asked_about(world, scene, 16) if asked.kind == "relation"]
        return {(call.relation, call.object) for call in places}  # type: ignore[union-attr]  # places, by their kind

    cubes = (GREEN, YELLOW)  # right of the green one is where the handle stands
    assert ("right", "green cube") not in beside(Scene(objects=(DRAWER, *cubes)))
    assert ("right", "green cube") in beside(Scene(objects=cubes))


def test_what_stands_on_something_is_not_asked_about(world: World) -> None:
    def named(scene: Scene) -> set[str]:
        return {getattr(call, "object", "") for asked in asked_about(world, scene, 6) for call in asked.truth.calls}

    cylinder = TABLE.find("purple_cylinder")
    upper = GREEN.model_copy(update={"position": cylinder.position, "z": cylinder.height_m})
    assert "green cube" in named(TABLE)
    assert "green cube" not in named(with_objects(TABLE, upper))


def test_a_table_about_which_nothing_can_be_said_ends_the_sequence(world: World) -> None:
    assert asked_about(world, Scene(objects=(TABLE.find("blue_bowl"),)), 1) == []


def test_a_scene_has_something_of_everything(world: World) -> None:
    scene = rich_scene(3, 0, world)
    assert {"cube", "cylinder", "bowl", "drawer", "button"} <= {spec.kind for spec in scene.objects}
    assert world.scene == scene
    assert rich_scene(3, 0, world) == scene


def test_whoever_refuses_gets_nowhere(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = watched(monkeypatch, told(agent), right=False)
    report = evaluate_agent(agent, "sequence", 2, 3)
    assert len(heard) == 2, "a sequence ends at the first instruction that is not fulfilled"
    assert report.success.episodes == report.episodes == 2
    assert report.success.successes == 0
    assert [report.metrics[f"reached_{k}"] for k in range(1, 6)] == [0.0] * 5
    assert report.metrics["average_length"] == report.metrics["exact_plan"] == 0.0
    assert sum(rate.episodes for rate in report.by.values()) == 2


def test_whoever_does_nothing_gets_nowhere(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Agent(agent.robot, agent.planner, Idle(), world=agent.world)
    watched(monkeypatch, told(agent))
    report = evaluate_agent(idle, "sequence", 2, 4)
    assert report.metrics["average_length"] == 0.0
    assert report.metrics["exact_plan"] == 1.0
    agent.robot = idle.robot


def test_true_plans_well_carried_out_lead_on_from_where_the_last_left_things(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(most: int = LENGTH) -> tuple[Report, list[Question]]:
        heard = watched(monkeypatch, told(agent), most=most)
        return evaluate_agent(agent, "sequence", 1, 3), heard

    report, heard = run()
    assert report.metrics["average_length"] == len(heard) == LENGTH
    assert report.success.successes == report.metrics["reached_5"] == report.metrics["exact_plan"] == 1.0
    assert report.rates["reached_5"].episodes == 1
    changes = [
        change(earlier.scene, later.scene)
        for earlier, later in zip(heard, heard[1:], strict=False)
        if earlier.kind != "press"
    ]
    assert changes
    assert min(changes) > 0.02, "what the last instruction moved is where it left it"
    again, same = run(2)
    assert [asked.instruction for asked in same] == [asked.instruction for asked in heard[:2]]
    assert again.metrics["average_length"] == 2.0


def test_what_could_not_be_asked_is_not_fulfilled(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, told(agent), most=1)
    said: list[tuple[bool, str]] = []
    report = evaluate_agent(
        agent, "sequence", 1, 3, on_episode=lambda asked, success, sentence: said.append((success, sentence))
    )
    assert report.metrics["average_length"] == report.metrics["nothing_left_to_ask"] == 1.0
    assert report.success.successes == 0
    assert said == [(False, "1 of 5 in a row, then nothing more could be asked about what is on the table")]


def test_lengths_are_averaged_and_counted() -> None:
    lengths = Lengths([0, 5, 3, 5])
    assert lengths.average == 3.25
    assert [lengths.reached(k).successes for k in range(1, 6)] == [3, 3, 3, 2, 2]
    low, high = lengths.interval()
    assert 0.0 < low < 3.25 < high <= 5.0
    assert Lengths([4, 4]).interval() == (4.0, 4.0)
    assert (Lengths().average, Lengths().interval()) == (0.0, (0.0, 5.0))


def test_the_bootstrap_interval_holds_the_true_average_about_as_often_as_it_says(
    rng: np.random.Generator,
) -> None:
    chances = (0.2, 0.1, 0.1, 0.1, 0.2, 0.3)
    true = float(np.dot(chances, range(6)))
    intervals = [Lengths(rng.choice(6, 60, p=chances).tolist()).interval(k) for k in range(100)]
    assert 88 <= sum(low <= true <= high for low, high in intervals) <= 99


def test_an_unknown_suite_names_all_there_are(agent: Agent) -> None:
    with pytest.raises(EmbodiedError, match="single, skills, long, sequence"):
        evaluate_agent(agent, "sequences", 1, 0)
    assert "sequence" in AGENT_SUITES


def told(agent: Agent) -> Told:
    planner = agent.planner
    assert isinstance(planner, Told)
    return planner
