"""The executor on a robot without physics: order of steps, retries, going home, stopping, and nothing moves too early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embodied.agent import Agent
from embodied.executor import Event, Executor, ExecutorOptions, canonical_words, describe
from embodied.grounding import in_picture
from embodied.plan import Ask, Home, Pick, Place, Plan, Point, Push, Reach, Refuse
from hardware.arm_spec import SO101, ArmSpec
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import EmbodiedError, PlanError, UnreachableError
from hardware.kinematics import forward, inverse_any_pitch
from hardware.robot import Observation
from hardware.safety import Applied
from policies.goal import Goal
from policies.policy import Chunk
from policies.runtime import SkillResult, Step

CAMERA = CameraModel.look_at(
    Intrinsics.from_fov_y(128, 96, float(np.radians(36.0))), np.array([0.60, 0.0, 0.50]), np.array([0.19, 0.0, 0.0])
)


def at(x: float, y: float) -> Point:
    u, v = in_picture(CAMERA, np.array([x, y, 0.0]))
    return u, v


PICK = Pick(object="red cube", point=at(0.20, 0.05))
BOWL = Place(relation="in", object="blue bowl", point=at(0.22, -0.10))


@dataclass
class StillRobot:
    """Goes where it is told at once. ``grip`` is how far an object keeps the gripper open, None for no object."""

    spec: ArmSpec = SO101
    control_hz: float = 20.0
    q: NDArray[np.float64] = field(default_factory=lambda: SO101.home.copy())
    command: NDArray[np.float64] = field(default_factory=lambda: SO101.home.copy())
    grip: float | None = None
    time_s: float = 0.0
    acts: int = 0
    largest_step: float = 0.0
    closed: bool = False

    @property
    def camera_names(self) -> Sequence[str]:
        return ("front",)

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        frame = Frame(np.full((96, 128, 3), 200, np.uint8), CAMERA, self.time_s)
        return Observation(self.time_s, self.q.copy(), self.command.copy(), dict.fromkeys(cameras, frame))

    def act(self, target: NDArray[np.float64], *, made_s: float | None = None) -> Applied:
        self.largest_step = max(self.largest_step, float(np.abs(target[:5] - self.command[:5]).max()))
        self.command = target.copy()
        self.q = target.copy()
        if self.grip is not None:
            self.q[5] = max(self.q[5], self.grip)
        self.time_s += 1.0 / self.control_hz
        self.acts += 1
        return Applied(target, "pass", ())

    def reset_fault(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@dataclass
class Runner:
    """Teleports to each goal. ``misses``: so many picks close on nothing."""

    misses: int = 0
    reason: str = "done"
    goals: list[Goal] = field(default_factory=list)

    def run(
        self,
        robot: StillRobot,
        goal: Goal,
        *,
        timeout_s: float | None = None,
        on_step: Callable[[Step], bool | None] | None = None,
    ) -> SkillResult:
        self.goals.append(goal)
        arm, _ = inverse_any_pitch(robot.spec, (*goal.point[:2], goal.point[2] + 0.02))
        robot.command = np.array([*arm, 0.5])
        if goal.skill == "pick":
            robot.command[5] = 0.0
            robot.grip = None if len(self.goals) <= self.misses else 0.2
        elif goal.skill in ("place", "bowl", "stack"):
            robot.grip = None
        robot.q = robot.command.copy()
        robot.q[5] = max(robot.q[5], robot.grip or 0.0)
        step = Step(0, robot.observe(), goal, robot.command, Applied(robot.command, "pass", ()), 0.9)
        if on_step is not None and on_step(step) is False:
            return SkillResult(False, 1, "interrupted")
        return SkillResult(self.reason == "done", 1, self.reason)  # type: ignore[arg-type]


@dataclass
class Answers:
    """A planner that gives the same plan to everything and notes what it was asked."""

    answer: Plan
    name: str = "answers"
    scripted: bool = False
    asked: list[str] = field(default_factory=list)

    def plan(self, instruction: str, frame: Frame) -> Plan:
        self.asked.append(instruction)
        return self.answer


def executor(robot: StillRobot, runner: Runner, **more: object) -> tuple[Executor, list[Event]]:
    events: list[Event] = []
    return Executor(robot, runner, on_event=events.append, **more), events  # type: ignore[arg-type]


def frame(robot: StillRobot) -> Frame:
    return robot.observe(("front",)).frames["front"]


def test_steps_run_in_order_and_the_arm_ends_at_home() -> None:
    robot, runner = StillRobot(), Runner()
    run, events = executor(robot, runner)
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(robot))
    assert execution.completed
    assert [goal.skill for goal in runner.goals] == ["pick", "bowl"]
    assert [record.status for record in execution.records] == ["done", "done"]
    assert np.allclose(robot.q[:5], SO101.home[:5], atol=1e-6)
    assert [e.kind for e in events if e.kind in ("step", "step_end")] == ["step", "step_end"] * 2


def test_nothing_moves_when_a_later_step_is_out_of_reach() -> None:
    robot, runner = StillRobot(), Runner()
    run, _ = executor(robot, runner)
    far = Place(relation="in", object="blue bowl", point=at(0.38, 0.0))
    with pytest.raises(UnreachableError, match="blue bowl is out of reach"):
        run.run(Plan(calls=(PICK, far)), frame(robot))
    assert robot.acts == 0
    assert runner.goals == []


def test_going_home_keeps_hold_is_smooth_and_lifts_first() -> None:
    robot, runner = StillRobot(), Runner()
    run, _ = executor(robot, runner, options=ExecutorOptions(max_joint_speed=1.6))
    heights = []
    act = robot.act

    def watched(target: NDArray[np.float64]) -> Applied:
        heights.append(float(forward(SO101, target)[2, 3]))
        return act(target)

    robot.act = watched  # type: ignore[method-assign]
    run.run(Plan(calls=(PICK,)), frame(robot))
    assert robot.q[5] == pytest.approx(0.2)
    assert robot.command[5] == 0.0
    assert robot.largest_step <= 1.6 / 20.0 + 1e-6
    assert min(heights) > 0.019


def test_the_tool_leaves_straight_up_also_near_the_base() -> None:
    """What has just been pushed to a place near the base must stay there: the way up may not be an arc."""
    robot, runner = StillRobot(), Runner()
    low, _ = inverse_any_pitch(SO101, (0.15, 0.005, 0.014))
    robot.q = robot.command = np.array([*low, 0.0])
    run, _ = executor(robot, runner)
    begun = forward(SO101, robot.command)[:3, 3]
    tools = []
    act = robot.act

    def watched(target: NDArray[np.float64]) -> Applied:
        tools.append(forward(SO101, target)[:3, 3])
        return act(target)

    robot.act = watched  # type: ignore[method-assign]
    run.go_home()
    way = np.array(tools)
    still_low = way[way[:, 2] < 0.1]
    assert len(still_low) > 5
    assert np.abs(still_low[:, :2] - begun[:2]).max() < 0.003
    assert np.all(np.diff(still_low[:, 2]) > -1e-4)
    assert np.allclose(robot.command[:5], SO101.home[:5])


def test_a_pick_that_closed_on_nothing_is_tried_again_where_the_planner_points_now() -> None:
    robot, runner = StillRobot(), Runner(misses=1)
    moved = Answers(Plan(calls=(Pick(object="red cube", point=at(0.24, 0.02)),)))
    run, events = executor(robot, runner, planner=moved)
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(robot))
    assert execution.completed
    assert execution.records[0].attempts == 2
    assert moved.asked == ["pick up the red cube"]
    assert np.allclose(runner.goals[1].point, [0.24, 0.02, 0.0], atol=1e-6)
    assert [e.kind for e in events].count("retry") == 1


def test_a_retry_uses_the_old_point_when_the_planner_cannot_tell() -> None:
    robot, runner = StillRobot(), Runner(misses=1)
    run, _ = executor(robot, runner, planner=Answers(Plan(calls=(Refuse(reason="absent"),))))
    assert run.run(Plan(calls=(PICK,)), frame(robot)).completed
    assert np.allclose(runner.goals[0].point, runner.goals[1].point)


def test_after_the_last_retry_it_says_what_went_wrong_and_stops() -> None:
    robot, runner = StillRobot(), Runner(misses=9)
    run, _ = executor(robot, runner, options=ExecutorOptions(retries=2))
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(robot))
    assert not execution.completed
    assert execution.records[0].attempts == 3
    assert "does not hold the red cube" in execution.why
    assert len(execution.records) == 1


def test_a_fault_is_not_tried_again() -> None:
    robot, runner = StillRobot(), Runner(reason="fault")
    run, _ = executor(robot, runner)
    push = Push(object="red cube", point=at(0.2, 0.0), direction="right")
    execution = run.run(Plan(calls=(push,)), frame(robot))
    assert execution.records[0].attempts == 1
    assert not execution.completed


def test_stopping_ends_the_episode_within_a_control_step() -> None:
    robot, runner = StillRobot(), Runner()
    stop: list[bool] = []
    run, _ = executor(robot, runner, should_stop=lambda: bool(stop))
    stop.append(True)
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(robot))
    assert execution.interrupted
    assert runner.goals == []


def test_pointing_again_before_each_step_replaces_the_books() -> None:
    robot, runner = StillRobot(), Runner()
    seen = Answers(Plan(calls=(PICK, BOWL.model_copy(update={"point": at(0.20, -0.12)}))))
    run, _ = executor(robot, runner, planner=seen, options=ExecutorOptions(repoint=True))
    assert run.run(Plan(calls=(PICK, BOWL)), frame(robot)).completed
    assert seen.asked == ["put the red cube in the blue bowl"]
    assert np.allclose(runner.goals[1].point, [0.20, -0.12, 0.0], atol=1e-6)


def test_a_last_reach_stays_where_it_reached() -> None:
    robot, runner = StillRobot(), Runner()
    run, _ = executor(robot, runner)
    assert run.run(Plan(calls=(Reach(object="red cube", point=at(0.2, 0.0)),)), frame(robot)).completed
    assert not np.allclose(robot.q[:5], SO101.home[:5], atol=0.1)
    assert run.run(Plan(calls=(Home(),)), frame(robot)).completed
    assert np.allclose(robot.q[:5], SO101.home[:5], atol=1e-6)


def test_words_for_calls() -> None:
    assert describe(BOWL) == "place it in the blue bowl"
    assert canonical_words(BOWL, "red cube") == "put the red cube in the blue bowl"
    assert canonical_words(Home()) == ""


class Nothing:
    """A policy that is done at once."""

    name = "nothing"
    control_hz = 20.0
    cameras: tuple[str, ...] = ()

    def reset(self) -> None: ...

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        return Chunk(observation.command[None], 1.0)


def agent(answer: Plan) -> Agent:
    return Agent(StillRobot(), Answers(answer), Nothing())


@pytest.mark.parametrize("words", ["", "   ", "\n"])
def test_an_empty_instruction_is_an_error_that_says_what_to_do(words: str) -> None:
    with pytest.raises(PlanError, match="instruction is empty; say what to do"):
        agent(Plan(calls=(Home(),))).run(words)


def test_a_refusal_or_question_moves_nothing_and_is_told_in_a_sentence() -> None:
    for speech, outcome, words in (
        (Refuse(reason="absent", object="green ball"), "refused", "I do not see the green ball on the table"),
        (Refuse(reason="unclear"), "refused", "I do not understand"),
        (Ask(object="cube", question="Which cube?"), "asked", "Which cube?"),
    ):
        who = agent(Plan(calls=(speech,)))
        episode = who.run("take the green ball")
        assert episode.outcome == outcome
        assert words in episode.sentence
        assert not episode.success
        assert who.robot.acts == 0  # type: ignore[attr-defined]


def test_out_of_reach_is_a_refusal_without_motion() -> None:
    who = agent(Plan(calls=(Pick(object="red cube", point=at(0.38, 0.0)),)))
    episode = who.run("pick up the red cube")
    assert episode.outcome == "refused"
    assert "out of reach" in episode.sentence
    assert who.robot.acts == 0  # type: ignore[attr-defined]


def test_without_a_simulation_what_the_robot_felt_decides() -> None:
    assert agent(Plan(calls=(Home(),))).run("go home").success
    assert not agent(Plan(calls=(PICK,))).run("pick up the red cube").success


def test_an_episode_folder_holds_everything(tmp_path: Path) -> None:
    episode = agent(Plan(calls=(Home(),))).run("go home, please!", out=tmp_path)
    assert episode.folder is not None
    assert episode.folder.name.endswith("go-home-please")
    made = {path.name for path in episode.folder.iterdir()}
    assert {"plan.json", "result.json", "log.jsonl", "report.html", "picture.png", "video.mp4"} <= made


def test_a_folder_that_cannot_be_written_is_found_before_anything_moves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for parent in (tmp_path / "file" / "runs", Path("/proc/runs")):
        with pytest.raises(EmbodiedError, match="cannot write to the output folder"):
            agent(Plan(calls=(Home(),))).run("go home", out=parent)


@dataclass
class Doubter(Answers):
    """Answers questions about pictures with the probabilities in ``beliefs``, then with yes."""

    beliefs: list[float] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def verify(self, question: str, frame: Frame) -> float:
        self.questions.append(question)
        return self.beliefs.pop(0) if self.beliefs else 1.0


#: Where the red cube lies after it missed the bowl.
ASIDE = Pick(object="red cube", point=at(0.16, 0.08))


def _looking(beliefs: list[float], answer: Plan | None = None) -> tuple[Executor, Runner, Doubter, list[Event]]:
    robot, runner = StillRobot(), Runner()
    planner = Doubter(answer or Plan(calls=(ASIDE,)), beliefs=beliefs)
    run, events = executor(robot, runner, planner=planner, options=ExecutorOptions(verify=True))
    return run, runner, planner, events


def test_what_the_picture_does_not_show_is_picked_up_and_put_down_again() -> None:
    run, runner, planner, events = _looking([0.02])
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(run.robot))  # type: ignore[arg-type]
    assert execution.completed
    assert [goal.skill for goal in runner.goals] == ["pick", "bowl", "pick", "bowl"]
    assert planner.questions == ["is the red cube in the blue bowl?"] * 2
    assert [event.data["yes"] for event in events if event.kind == "look"] == [0.02, 1.0]


def test_a_faint_doubt_or_a_planner_without_the_job_changes_nothing() -> None:
    run, runner, _, _ = _looking([0.4])
    assert run.run(Plan(calls=(PICK, BOWL)), frame(run.robot)).completed  # type: ignore[arg-type]
    assert len(runner.goals) == 2
    robot, runner = StillRobot(), Runner()
    plain, events = executor(robot, runner, planner=Answers(Plan(calls=(PICK,))), options=ExecutorOptions(verify=True))
    assert plain.run(Plan(calls=(PICK, BOWL)), frame(robot)).completed
    assert [event.data["yes"] for event in events if event.kind == "look"] == [None]


def test_looking_gives_up_after_the_retries_and_when_the_object_is_not_seen() -> None:
    run, runner, _, _ = _looking([0.0] * 9)
    run.run(Plan(calls=(PICK, BOWL)), frame(run.robot))  # type: ignore[arg-type]
    assert [goal.skill for goal in runner.goals].count("pick") == 1 + ExecutorOptions().retries
    run, runner, _, _ = _looking([0.0] * 9, Plan(calls=(Refuse(reason="absent"),)))
    execution = run.run(Plan(calls=(PICK, BOWL)), frame(run.robot))  # type: ignore[arg-type]
    assert execution.completed and len(runner.goals) == 2


@pytest.mark.parametrize(("spot", "again"), [((0.22, -0.10, 0.04), False), ((0.246, -0.10, 0.0), True)])
def test_what_fell_off_is_told_from_what_stands_on_top(spot: tuple[float, float, float], again: bool) -> None:
    top = in_picture(CAMERA, np.array([0.22, -0.10, 0.04]))
    stack = Place(relation="on", object="blue cylinder", point=at(0.22, -0.10), top=top)
    run, runner, _, _ = _looking(
        [0.02], Plan(calls=(Pick(object="red cube", point=in_picture(CAMERA, np.array(spot))),))
    )
    assert run.run(Plan(calls=(PICK, stack)), frame(run.robot)).completed  # type: ignore[arg-type]
    assert [goal.skill for goal in runner.goals] == ["pick", "stack"] * (2 if again else 1)


def test_what_is_seen_where_it_was_put_stays_there_whatever_the_answer() -> None:
    there = Pick(object="red cube", point=at(0.22, -0.10))
    run, runner, planner, _ = _looking([0.0] * 9, Plan(calls=(there,)))
    assert run.run(Plan(calls=(PICK, BOWL)), frame(run.robot)).completed  # type: ignore[arg-type]
    assert [goal.skill for goal in runner.goals] == ["pick", "bowl"]
    assert planner.asked == ["pick up the red cube"]
