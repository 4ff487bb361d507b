"""Carries a plan out on a robot: ground, move, check, retry, next step.

The whole plan is grounded before the first motion, so that what cannot be reached is said and not tried. Between steps
the arm goes home along a smooth path, still holding what it holds; that clears the camera's view. A pick that closed on
nothing is tried again with a fresh picture, in which the planner is asked to point at the object again. With
``verify`` the planner also looks whether what was put down lies where it should; if not, it is picked up again.

    picture -> [ground -> policy -> feel -> (retry: home, picture, point again) -> home -> (look: not there? once more)]

What this does not protect against: see ``embodied.verify``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied.grounding import GroundedCall, Grounder, Ledger
from embodied.plan import Home, Pick, Place, Plan, Point, Push, Reach, SkillCall
from embodied.planners import Planner
from embodied.verify import DOUBT, felt, is_holding, looks_so, question_about
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError, PlanError, RobotError, UnreachableError
from hardware.kinematics import inverse, inverse_any_pitch, tool_pitch, tool_position
from hardware.robot import Robot
from hardware.unfolding import unfold
from policies.goal import Goal
from policies.runtime import SkillResult, Step
from policies.skills import Skill

Float = NDArray[np.float64]
#: What is seen within this of where it was put (m) was put there; on a cube or a cylinder, which carry only what stands well,
#: and where a thing that fell off lies further away than half of both.
NEAR_M, NEAR_ON_TOP_M = 0.05, 0.02
#: The tool is lifted to this height (m) above the table before the arm folds back, in steps of so much.
_CLEAR_M, _LIFT_STEP_M = 0.14, 0.01
StepStatus = Literal["done", "failed", "interrupted"]


class SkillRunner(Protocol):
    """Carries one goal out; ``policies.runtime.PolicyRuntime`` is the usual one."""

    def run(
        self,
        robot: Robot,
        goal: Goal,
        *,
        timeout_s: float | None = None,
        on_step: Callable[[Step], bool | None] | None = None,
    ) -> SkillResult:
        """See ``policies.runtime.PolicyRuntime.run``."""
        ...


@dataclass(frozen=True)
class Event:
    """Something worth telling: the kinds and their data are listed in ``Executor``."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepRecord:
    """How one call of the plan went."""

    index: int
    call: SkillCall
    goal: Goal | None
    status: StepStatus
    attempts: int
    steps: int  # control steps, all attempts together
    reason: str  # the runtime's word: done, timeout, fault, interrupted
    why: str = ""  # one sentence when it failed


@dataclass(frozen=True)
class ExecutorOptions:
    """How persistent the executor is."""

    retries: int = 2
    """So many times a failed step is tried again."""
    home_between: bool = True
    """Go home between steps; else only before pictures and at the end."""
    repoint: bool = False
    """Take a new picture before every step and let the planner point again, instead of keeping books of what moved."""
    verify: bool = False
    """Look after every place whether it is so, with a planner that can answer that, and pick up again what is not."""
    looks: int = 2
    """So many times, after work on several things, the planner is asked with the same words what is left to do."""
    max_joint_speed: float = 1.6
    """Fastest joint during the executor's own motions, rad/s."""

    def __post_init__(self) -> None:
        """Raises ``EmbodiedError`` for a number of tries that is none."""
        for name in ("retries", "looks"):
            if (count := getattr(self, name)) < 0:
                raise EmbodiedError(f"{name} must be zero or more, not {count}")


@dataclass(frozen=True)
class Execution:
    """What was done with a plan."""

    records: tuple[StepRecord, ...]
    completed: bool  # every step reported done and felt right
    why: str = ""
    interrupted: bool = False

    def ledger(self) -> Ledger:
        """The books for a plan that comes after: in its picture all is seen, but not what lies in the containers."""
        goals = [record.goal for record in self.records if record.status == "done"]
        spots = tuple((float(g.to[0]), float(g.to[1])) for g in goals if g is not None and g.skill == "bowl")
        return Ledger(former=spots)


def joined(first: Execution, then: Execution, planned: int) -> Execution:
    """Two plans carried out one after the other; it ended as the second did. ``planned``: calls of the first."""
    later = tuple(replace(record, index=record.index + planned) for record in then.records)
    return replace(then, records=(*first.records, *later))


class Executor:
    """Runs plans on one robot.

    Events: ``check`` {plan}, ``step`` {index, total, call, goal, attempt}, ``progress`` {index, steps, done}, ``retry``
    {index, why}, ``step_end`` {record}, ``look`` {index, question, yes}, ``home`` {}.
    """

    def __init__(
        self,
        robot: Robot,
        runner: SkillRunner,
        *,
        planner: Planner | None = None,
        camera: str = "front",
        options: ExecutorOptions = ExecutorOptions(),
        on_event: Callable[[Event], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """``planner`` is asked to point again on retries; without it the old point is used once more."""
        self.robot = robot
        self.runner = runner
        self.planner = planner
        self.camera = camera
        self.options = options
        self._tell = on_event if on_event is not None else (lambda event: None)
        self._should_stop = should_stop if should_stop is not None else (lambda: False)

    def look(self) -> Frame:
        """A picture of the table with the arm out of the way."""
        self.go_home()
        return self.robot.observe((self.camera,)).frames[self.camera]

    def run(self, plan: Plan, frame: Frame, after: Execution | None = None) -> Execution:
        """Carry ``plan`` out, whose points were seen in ``frame``. ``after``: what was done before that picture was taken.

        Raises ``UnreachableError`` or ``PlanError`` before anything moves when the plan cannot be carried out.
        """
        grounder = Grounder(frame.model, self.robot.spec)
        ledger = Ledger() if after is None else after.ledger()
        grounder.check(plan, ledger)
        loads = grounder.loads(plan)
        records: list[StepRecord] = []
        self._tell(Event("check", {"plan": plan}))
        for index, call in enumerate(plan.calls):
            if self._should_stop():
                return Execution(tuple(records), False, "stopped by the user", interrupted=True)
            if isinstance(call, Home):
                self.go_home()
                records.append(StepRecord(index, call, None, "done", 1, 0, "done"))
                self._tell(Event("step_end", {"record": records[-1], "total": len(plan.calls)}))
                continue
            try:
                if self.options.repoint and index > 0:
                    call = self._point_again(call, ledger)
                grounded = grounder.ground(call, ledger, loads)
            except EmbodiedError as error:
                return Execution(tuple(records), False, str(error))
            record, grounded = self._step(index, len(plan.calls), grounded, grounder, ledger, loads)
            records.append(record)
            self._tell(Event("step_end", {"record": record, "total": len(plan.calls)}))
            if record.status != "done":
                self._retreat_safely()
                return Execution(tuple(records), False, record.why, interrupted=record.status == "interrupted")
            ledger = grounder.after(grounded, ledger)
            last = index == len(plan.calls) - 1
            if not (last and isinstance(call, Reach)) and (self.options.home_between or last):
                self.go_home()
            before = plan.calls[index - 1] if index else None
            if self.options.verify and isinstance(call, Place) and isinstance(before, Pick):
                more, ledger, why = self._put_right(index, len(plan.calls), before, grounded, grounder, ledger, loads)
                records += more
                if why:
                    return Execution(tuple(records), False, why, interrupted=more[-1].status == "interrupted")
        return Execution(tuple(records), True)

    def _put_right(
        self,
        index: int,
        total: int,
        pick: Pick,
        placed: GroundedCall,
        grounder: Grounder,
        ledger: Ledger,
        loads: Any,
    ) -> tuple[list[StepRecord], Ledger, str]:
        """Look whether a place did what it should, and pick up and put down again while it clearly did not.

        Returns what was done for it, the books after it, and why it was given up (empty: it was not).
        """
        records: list[StepRecord] = []
        place = placed.call
        if not isinstance(place, Place) or placed.goal is None:
            return records, ledger, ""
        question = question_about(pick, place)
        for _ in range(self.options.retries):
            yes = looks_so(self.planner, question, self.look())
            self._tell(Event("look", {"index": index, "question": question, "yes": yes}))
            if yes is None or yes > DOUBT:
                break
            try:
                again = replace_call(self._point_again(pick, ledger), grounder, loads)
            except EmbodiedError:  # not seen any more: nothing to be mended
                break
            near = NEAR_ON_TOP_M if placed.goal.skill == "stack" else NEAR_M
            if again.goal is None or float(np.linalg.norm(again.goal.point[:2] - grounder.seen_at(placed.goal))) < near:
                break  # it lies where it was put, whatever the answer was
            for number, grounded in ((index - 1, again), (index, placed)):
                record, done = self._step(number, total, grounded, grounder, ledger, loads)
                records.append(record)
                self._tell(Event("step_end", {"record": record, "total": total}))
                if record.status != "done":
                    self._retreat_safely()
                    return records, ledger, record.why
                ledger = grounder.after(done, ledger)
                self.go_home()
        return records, ledger, ""

    def go_home(self) -> None:
        """Lift the tool clear of the objects, then fold back, keeping the gripper as it is when it holds something.

        Raises ``RobotError`` when the arm was put away so folded that it does not come out.
        """
        before = self.robot.observe()
        home = self.robot.spec.home.copy()
        if is_holding(before):
            home[5] = before.command[5]
        if float(np.abs(before.q[:5] - home[:5]).max()) < 0.02 and abs(float(before.q[5] - home[5])) < 0.05:
            return
        self._tell(Event("home"))
        if not unfold(self.robot, home):
            raise RobotError("the arm is folded and does not come out by itself; unfold it by hand with the torque off")
        self._lift(self.robot.observe().command)
        self._move(home)

    def _lift(self, command: Float) -> None:
        """Straight up to a height at which nothing stands in the way.

        By small steps: between far joint vectors the tool goes along an arc, and near the base that swept away what had just
        been pushed there.
        """
        spec = self.robot.spec
        x, y, z = tool_position(spec, command)
        roll, pitch, path = float(command[4]), tool_pitch(spec, command), [command]
        for height in np.arange(z + _LIFT_STEP_M, _CLEAR_M + _LIFT_STEP_M, _LIFT_STEP_M):
            at = (x, y, min(float(height), _CLEAR_M))
            try:
                arm = inverse(spec, at, pitch, roll, near=path[-1])
            except UnreachableError:
                try:
                    arm, pitch = inverse_any_pitch(spec, at, roll, near=path[-1])
                except UnreachableError:
                    break
            path.append(np.array([*arm, command[5]]))
        self._move(*path[1:])

    def _move(self, *path: Float) -> None:
        """From where the arm was last sent through ``path``, joint vectors (6,), along one minimum-jerk profile."""
        if not path:
            return
        way = np.array([self.robot.observe().command, *path])
        # A step that moves only the gripper has no length; without any they would all be one point.
        length = np.concatenate([[0.0], np.maximum(np.abs(np.diff(way[:, :5], axis=0)).max(1), 1e-9).cumsum()])
        # The peak speed of a minimum-jerk profile is 15/8 of its mean.
        duration = 1.875 * float(length[-1]) / self.options.max_joint_speed
        count = max(int(np.ceil(max(duration, 0.3) * self.robot.control_hz)), 1)
        for k in range(1, count + 1):
            s = k / count
            along = length[-1] * (s**3 * (10.0 - 15.0 * s + 6.0 * s * s))
            self.robot.act(np.array([np.interp(along, length, joint) for joint in way.T]))
        for _ in range(3):  # let the servos arrive
            self.robot.act(way[-1])

    def _retreat_safely(self) -> None:
        """After a failure: let go of nothing, get out of the way if the safety core still lets us."""
        try:
            self.go_home()
        except EmbodiedError:
            return

    def _step(
        self, index: int, total: int, grounded: GroundedCall, grounder: Grounder, ledger: Ledger, loads: Any
    ) -> tuple[StepRecord, GroundedCall]:
        """One call with its retries; also the call as it was finally grounded."""
        call, steps, why = grounded.call, 0, ""
        result = SkillResult(False, 0, "timeout")
        attempt = 0
        for attempt in range(1, self.options.retries + 2):
            goal = grounded.goal
            if goal is None:
                raise PlanError(f"the step {call.skill!r} has no goal")
            self._tell(Event("step", {"index": index, "total": total, "call": call, "grounded": grounded,
                                      "attempt": attempt}))  # fmt: skip
            result = self.runner.run(self.robot, goal, on_step=self._watch(index, steps))
            steps += result.steps
            if result.reason == "interrupted":
                return StepRecord(index, call, goal, "interrupted", attempt, steps, result.reason,
                                  "stopped by the user"), grounded  # fmt: skip
            verdict = felt(call, self.robot.observe())
            if verdict.ok or (verdict.ok is None and result.done):
                return StepRecord(index, call, goal, "done", attempt, steps, result.reason), grounded
            why = verdict.why or result.detail or f"the {call.skill} did not finish in time"
            if attempt > self.options.retries or result.reason == "fault" or not self._may_retry(call):
                break
            self._tell(Event("retry", {"index": index, "why": why, "attempt": attempt}))
            self.go_home()
            grounded = self._ground_again(call, grounded, grounder, ledger, loads)
        return StepRecord(index, call, grounded.goal, "failed", attempt, steps, result.reason, why), grounded

    def _may_retry(self, call: SkillCall) -> bool:
        """A place cannot be tried again with an empty hand."""
        return not isinstance(call, Place) or is_holding(self.robot.observe())

    def _watch(self, index: int, before: int) -> Callable[[Step], bool | None]:
        def on_step(step: Step) -> bool | None:
            self._tell(Event("progress", {"index": index, "steps": before + step.index + 1, "done": step.done}))
            return False if self._should_stop() else None

        return on_step

    def _ground_again(
        self, call: SkillCall, old: GroundedCall, grounder: Grounder, ledger: Ledger, loads: Any
    ) -> GroundedCall:
        """The same call with the point where the planner sees the object now; the old one when it cannot tell."""
        if self.planner is None or isinstance(call, Place):
            return old
        try:
            return replace_call(self._point_again(call, ledger), grounder, loads)
        except EmbodiedError:
            return old

    def _point_again(self, call: SkillCall, ledger: Ledger) -> SkillCall:
        """Ask the planner for one step about the object in a new picture. Raises ``PlanError`` without an answer."""
        if self.planner is None:
            return call
        words = canonical_words(call, ledger.held.name if ledger.held else "")
        if not words:
            return call
        plan = self.planner.plan(words, self.look())
        for answer in plan.calls:
            if answer.skill == call.skill and getattr(answer, "object", None) == getattr(call, "object", ""):
                update: dict[str, Point | None] = {"point": answer.point}  # type: ignore[union-attr]
                if isinstance(answer, Place):
                    update["top"] = answer.top
                return call.model_copy(update=update)
        raise PlanError(f"asked to {words}, the planner does not see the {getattr(call, 'object', 'object')} any more")


def replace_call(call: SkillCall, grounder: Grounder, loads: Any) -> GroundedCall:
    """Ground a call whose point is fresh, so that nothing in the books applies to it."""
    return grounder.ground(call, Ledger(), loads)


def canonical_words(call: SkillCall, held: str = "") -> str:
    """The plainest sentence that asks for one call; empty when there is none."""
    match call:
        case Pick():
            return f"pick up the {call.object}"
        case Push():
            toward = {"front": "to the front", "behind": "to the back"}.get(call.direction, f"to the {call.direction}")
            return f"push the {call.object} {toward}"
        case Place() if held:
            return f"put the {held} {call.where} the {call.object}"
        case _ if call.skill in ("open", "close", "press"):
            return f"{call.skill} the {getattr(call, 'object', '')}"
        case _:
            return ""


#: How a skill is told while it runs.
GERUNDS: dict[Skill, str] = {
    "reach": "reaching for", "pick": "picking up", "place": "putting it down beside", "bowl": "putting it in",
    "stack": "putting it on", "push": "pushing", "open": "opening", "close": "closing", "press": "pressing",
}  # fmt: skip


def describe(call: SkillCall) -> str:
    """One short line for people: ``pick the red cube``."""
    match call:
        case Place():
            return f"place it {call.where} the {call.object}"
        case Push():
            toward = {"front": "towards the viewer", "behind": "away from the viewer"}
            return f"push the {call.object} {toward.get(call.direction, 'to the ' + call.direction)}"
        case Home():
            return "go home"
        case _ if call.skill == "ask":
            return f"ask: {getattr(call, 'question', '')}"
        case _ if call.skill == "refuse":
            return f"refuse: {getattr(call, 'text', '')}"
        case _:
            return f"{call.skill} the {getattr(call, 'object', '')}"
