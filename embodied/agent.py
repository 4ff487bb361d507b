"""The Python interface: an agent that does what it is told.

from embodied.agent import Agent

with Agent.simulated(scene=7, planner="local") as agent:
    episode = agent.run("put the red cube in the blue bowl", out="runs")
    print(episode.success, episode.sentence, episode.folder)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied.episode import Episode, Outcome, RunFolder
from embodied.executor import Event, Execution, Executor, ExecutorOptions, describe, joined
from embodied.grounding import GroundedCall, Grounder
from embodied.leftovers import collects, left_to_do, speaks_of_several
from embodied.plan import Ask, Pick, Plan
from embodied.plan_checks import guarded
from embodied.planners import Planner, make_planner
from embodied.policies import make_policy, policy_for
from embodied.recording import AgentRecording, AimedRunner
from embodied.referee import Judgement, Referee
from embodied.robots import RobotKind, camera_to_plan_with, make_robot
from embodied.speech import sentence as in_words
from embodied.verify import unseen
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError, PlanError, SceneError, UnreachableError
from hardware.robot import Robot
from policies.dataset.layout import DatasetError
from policies.policy import Policy
from policies.runtime import PolicyRuntime

if TYPE_CHECKING:
    from embodied.executor import SkillRunner
    from sim.scene import Scene
    from sim.world import World

Picture = NDArray[np.uint8]
Watcher = Callable[[Event], None]
#: Longer instructions are not instructions.
MAX_WORDS = 200


class Agent:
    """A robot, a planner and a policy. ``world`` is for the referee only, and None on real hardware."""

    def __init__(
        self,
        robot: Robot,
        planner: Planner,
        policy: Policy,
        *,
        world: World | None = None,
        options: ExecutorOptions | None = None,
        scene_name: str = "",
        seed: int = 0,
        camera: str = "front",
        recording: AgentRecording | None = None,
    ) -> None:
        """``camera``: the one the planner looks through. ``recording``: where the episodes go as a dataset."""
        self.robot = robot
        self.planner = planner
        self.policy = policy
        self.world = world
        self.options = options if options is not None else ExecutorOptions()
        self.scene_name = scene_name
        self.seed = seed
        self.camera = camera
        self.recording = recording
        self._stop = False
        self._robot_kind: RobotKind = "sim"

    @classmethod
    def simulated(
        cls,
        scene: Scene | Path | str | int = 0,
        *,
        planner: Planner | str = "local",
        policy: Policy | Path | str | None = None,
        seed: int = 0,
        gui: bool = False,
        options: ExecutorOptions | None = None,
        robot: RobotKind = "sim",
    ) -> Agent:
        """An agent in a new simulation.

        ``robot``: ``"sim"``, or ``"emulated"`` for the same arm behind the real serial driver and emulated servos.

        ``scene``: a ``Scene``, a file, or a seed for a random one. ``planner``: a name or folder, see
        ``embodied.planners``. ``policy``: a checkpoint folder, ``"scripted"``, or None for the shipped weights.
        Raises ``SceneError`` and ``CheckpointError``.
        """
        from sim.world import World

        loaded, name = load_scene(scene)
        chosen = policy if not (policy is None or isinstance(policy, str | Path)) else make_policy(policy)
        if gui:
            _insist_on_display()
        world = World(loaded, seed=seed, gui=gui)
        try:
            brain = make_planner(planner, world) if isinstance(planner, str) else planner
            agent = cls(
                make_robot(robot, world), brain, chosen, world=world, options=options, scene_name=name, seed=seed,
                camera=loaded.cameras[0].name if all(c.name != "front" for c in loaded.cameras) else "front",
            )  # fmt: skip
            agent._robot_kind = robot
            return agent
        except BaseException:
            world.close()
            raise

    @classmethod
    def on_robot(
        cls,
        robot: Robot,
        *,
        planner: Planner | str = "local",
        policy: Policy | Path | str | None = None,
        camera: str = "",
        options: ExecutorOptions | None = None,
    ) -> Agent:
        """An agent on a robot that is open already, such as a real arm (``embodied.robots.open_rig``).

        Whether a task succeeded is told by what the robot feels and what the planner sees afterwards. ``camera``: see
        ``camera_to_plan_with``. Raises ``RobotError`` without a camera, ``CheckpointError`` for a policy of another arm.
        """
        eye = camera_to_plan_with(robot, camera)
        brain = make_planner(planner) if isinstance(planner, str) else planner
        chosen = policy_for(robot, policy) if policy is None or isinstance(policy, str | Path) else policy
        return cls(robot, brain, chosen, options=options, scene_name=f"the {robot.spec.name}'s table", camera=eye)

    def load(self, scene: Scene | Path | str | int) -> None:
        """Another scene in the same simulation: quicker than a new agent."""
        if self.world is None:
            raise SceneError("a scene can only be loaded into a simulation; this agent has a real robot")
        loaded, self.scene_name = load_scene(scene)
        if self._robot_kind != "sim":  # whose closing would close the world too
            self.robot.close()
        self.world.load(loaded)
        self.robot = make_robot(self._robot_kind, self.world)

    def stop(self) -> None:
        """Interrupt the episode that runs: the arm finishes the control step it is in and then holds still."""
        self._stop = True

    def run(
        self,
        instruction: str,
        *,
        out: Path | str | None = None,
        video: Path | str | bool = True,
        truth: Plan | None = None,
        on_event: Watcher | None = None,
    ) -> Episode:
        """Do what ``instruction`` says.

        ``out``: the folder in which the episode's own folder is made (video, pictures, plan, log, report); None keeps
        nothing. ``video``: False for none, or a file. ``truth``: the plan that the referee shall hold the episode to.
        Raises ``EmbodiedError`` for what makes an episode impossible to begin; a refusal is an ``Episode``.
        """
        words = " ".join(instruction.split())
        if not words:
            raise PlanError("the instruction is empty; say what to do, for example: put the red cube in the blue bowl")
        if len(words.split()) > MAX_WORDS:
            raise PlanError(
                f"the instruction has {len(words.split())} words; {MAX_WORDS} are the most that can be followed"
            )
        self._stop = False
        with ExitStack() as stack:
            folder = stack.enter_context(RunFolder(out, words)) if out is not None else None
            return _Run(self, words, folder, video, truth, on_event).play(stack)

    def close(self) -> None:
        """Release recording, robot and simulation; safe to call twice."""
        with ExitStack() as stack:  # each is released, whatever happens to the others
            if self.world is not None:
                stack.callback(self.world.close)
            stack.callback(self.robot.close)
            if (close := getattr(self.policy, "close", None)) is not None:  # one behind a connection
                stack.callback(close)
            if self.recording is not None:
                stack.callback(self.recording.close)

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Run:
    """One episode in the making."""

    def __init__(
        self,
        agent: Agent,
        instruction: str,
        folder: RunFolder | None,
        video: Path | str | bool,
        truth: Plan | None,
        on_event: Watcher | None,
    ) -> None:
        self.agent = agent
        self.instruction = instruction
        self.folder = folder
        self.video = self._video_path(video)
        self.truth = truth
        self._watch = on_event
        self._title, self._subtitle, self._done, self._total = instruction, "looking", 0, 1
        self._referee: Referee | None = None

    def _video_path(self, video: Path | str | bool) -> Path | None:
        if isinstance(video, bool):
            return self.folder.path / "video.mp4" if video and self.folder is not None else None
        return Path(video)

    def play(self, stack: ExitStack) -> Episode:
        """The whole episode; ``stack`` closes what is opened on the way."""
        began = time.perf_counter()
        robot, filmed = self._filmed(stack)
        robot, runner = self._recorded(robot, PolicyRuntime(self.agent.policy), stack)
        executor = Executor(
            robot, runner, planner=self.agent.planner, camera=self.agent.camera, options=self.agent.options,
            on_event=self.tell, should_stop=lambda: self.agent._stop,
        )  # fmt: skip
        started = robot.observe().stamp_s
        frame = executor.look()
        if self.agent.world is not None:
            if self.folder is not None:
                self.agent.world.scene_now().save(self.folder.path / "scene.json")
            self._referee = Referee(self.agent.world, frame.model, self.instruction, self.truth)
        self.tell(Event("look", {"frame": frame}))
        thinking = time.perf_counter()
        if hasattr(self.agent.planner, "on_note"):  # a chain of planners says when one takes over from another
            self.agent.planner.on_note = lambda text: self.tell(Event("note", {"text": text}))
        # Whatever a model says, and whichever: nothing is pressed, opened or closed that the words do not speak of.
        plan = guarded(self.agent.planner.plan(self.instruction, frame), self.instruction)
        seconds = {"plan": time.perf_counter() - thinking}
        said: dict[str, Any] = {"plan": plan, "seconds": seconds["plan"]}
        if (usage := getattr(self.agent.planner, "last_usage", None)) is not None:
            said["usage"] = usage.to_json()
        self.tell(Event("plan", said))
        if plan.speech is not None:
            outcome: Outcome = "asked" if isinstance(plan.speech, Ask) else "refused"
            sentence = in_words(plan.speech)
            episode = self._episode(outcome, sentence, plan, seconds)
            return self._finish(episode, frame, (), None, filmed, stack)
        try:
            grounded = tuple(Grounder(frame.model, robot.spec).check(plan))
        except (UnreachableError, PlanError) as error:
            episode = self._episode("refused", str(error), plan, seconds)
            return self._finish(episode, frame, (), None, filmed, stack)
        self._total = len(plan.calls)
        self.tell(Event("grounded", {"plan": plan, "grounded": grounded, "frame": frame}))
        if filmed is not None:
            filmed.shoot(8)
        try:
            execution = self._and_what_is_left(executor, plan, executor.run(plan, frame))
        except DatasetError as error:  # it comes after a command was sent, and none follows
            seconds["wall"] = time.perf_counter() - began
            episode = self._episode("interrupted", f"the recording stopped and the arm holds: {error}", plan, seconds)
            return self._finish(episode, frame, grounded, None, filmed, stack)
        judgement = self._referee.judge(plan) if self._referee is not None else None
        seconds["motion"] = robot.observe().stamp_s - started
        seconds["wall"] = time.perf_counter() - began
        last = robot.observe((self.agent.camera,)).frames[self.agent.camera]
        doubts = unseen(self.agent.planner, plan, last) if execution.completed and judgement is None else None
        outcome, sentence = _judged(execution, judgement, doubts)
        episode = self._episode(outcome, sentence, plan, seconds, execution, judgement)
        return self._finish(episode, frame, grounded, last, filmed, stack)

    def _and_what_is_left(self, executor: Executor, plan: Plan, execution: Execution) -> Execution:
        """After work on several things: look again, ask again with the same words, and do what is left."""
        if not (speaks_of_several(self.instruction) and collects(plan)):
            return execution
        before = plan.calls
        for _ in range(self.agent.options.looks):
            if not _may_go_on(execution):
                return execution
            frame = executor.look()
            try:
                again = guarded(self.agent.planner.plan(self.instruction, frame), self.instruction)
                more = left_to_do(again, before, frame.model)
                if more is None:
                    return execution
                Grounder(frame.model, executor.robot.spec).check(more, execution.ledger())
            except (PlanError, UnreachableError):
                return execution
            self.tell(Event("left", {"plan": more}))
            execution = joined(execution, executor.run(more, frame, execution), planned=len(before))
            before = (*before, *more.calls)
        return execution

    def _filmed(self, stack: ExitStack) -> tuple[Robot, Any]:
        if self.video is None:
            return self.agent.robot, None
        from embodied.video import FilmedRobot, VideoWriter

        robot = self.agent.robot
        cameras = [self.agent.camera, *(name for name in ("wrist",) if name in robot.camera_names)]
        every = 2
        writer = stack.enter_context(VideoWriter(self.video, robot.control_hz / every))
        filmed = FilmedRobot(robot, writer, self._caption, cameras=cameras, every=every)
        return filmed, filmed

    def _recorded(self, robot: Robot, runner: SkillRunner, stack: ExitStack) -> tuple[Robot, SkillRunner]:
        if self.agent.recording is None:
            return robot, runner
        recorded, recorder = self.agent.recording.begin(robot, self.instruction, stack)
        return recorded, AimedRunner(runner, recorder)

    def _caption(self) -> tuple[str, str, float | None]:
        return self._title, self._subtitle, self._done / self._total

    def tell(self, event: Event) -> None:
        """To the log, the video's caption and whoever watches."""
        data = event.data
        if event.kind == "plan":
            self._subtitle = "planned"
        elif event.kind == "step":
            again = f" (attempt {data['attempt']})" if data["attempt"] > 1 else ""
            self._subtitle = f"step {data['index'] + 1} of {data['total']}: {describe(data['call'])}{again}"
        elif event.kind == "step_end":
            self._done = data["record"].index + 1
            if self._referee is not None:
                self._referee.step_finished()
        if self.folder is not None and event.kind != "progress":
            self.folder.log(event)
        if self._watch is not None:
            self._watch(event)

    def _episode(
        self,
        outcome: Outcome,
        sentence: str,
        plan: Plan,
        seconds: dict[str, float],
        execution: Execution | None = None,
        judgement: Judgement | None = None,
    ) -> Episode:
        agent = self.agent
        planner_scripted, policy_scripted = agent.planner.scripted, agent.policy.name == "scripted"
        return Episode(
            self.instruction, outcome, sentence, agent.planner.name, agent.policy.name,
            tuple(n for n, s in (("planner", planner_scripted), ("policy", policy_scripted)) if s),
            agent.scene_name, agent.seed, plan, execution.records if execution else (), judgement, seconds,
            self.folder.path if self.folder is not None else None,
        )  # fmt: skip

    def _finish(
        self,
        episode: Episode,
        frame: Frame,
        grounded: tuple[GroundedCall, ...],
        last: Frame | None,
        filmed: Any,
        stack: ExitStack,
    ) -> Episode:
        self._subtitle = f"{episode.outcome}: {episode.sentence}"
        self._done = self._total if episode.success else self._done
        if self.agent.recording is not None:
            self._keep(self.agent.recording, episode)
        if filmed is not None:
            filmed.shoot(15)
        if self.folder is not None:
            self.folder.log(Event("outcome", {"outcome": episode.outcome, "sentence": episode.sentence}))
            self._write_files(episode, frame, grounded, last, filmed)
        self.tell(Event("outcome", {"episode": episode}))
        return episode

    def _keep(self, recording: AgentRecording, episode: Episode) -> None:
        """The rows of the episode, with its verdict; of an interrupted one nobody can say whether it would have worked."""
        judged = None if episode.outcome == "interrupted" else episode.success
        try:
            # What was asked about or refused has only the way to where the camera sees the table: no demonstration.
            recording.end(judged) if episode.records else recording.drop()
        except DatasetError as error:
            self.tell(Event("note", {"text": f"the episode could not be recorded: {error}"}))

    def _write_files(
        self, episode: Episode, frame: Frame, grounded: tuple[GroundedCall, ...], last: Frame | None, filmed: Any
    ) -> None:
        from embodied.drawing import png, with_plan
        from embodied.report import report_html

        if self.folder is None or episode.plan is None:
            return
        if filmed is not None:
            filmed.writer.close()  # the report shows it
        pictures = {
            "picture.png": frame.rgb,
            "picture_plan.png": with_plan(frame.rgb, episode.plan, grounded, frame.model),
        }
        if last is not None:
            pictures["picture_end.png"] = last.rgb
        files = {name: png(rgb) for name, rgb in pictures.items()}
        for name, content in files.items():
            self.folder.write(name, content)
        self.folder.write_json("plan.json", episode.plan.model_dump(mode="json", exclude_none=True))
        self.folder.write_json("result.json", episode.to_json())
        self.folder.write("report.html", report_html(episode, files, self.video))


def load_scene(scene: Scene | Path | str | int) -> tuple[Scene, str]:
    """A scene and where it came from. A number (or digits) is a seed. Raises ``SceneError``."""
    from sim.scene import Scene

    if isinstance(scene, Scene):
        return scene, "given"
    text = str(scene)
    if text.lstrip("-").isdigit():
        if int(text) < 0:
            raise SceneError(f"a scene's seed is zero or a positive whole number, not {text}")
        from sim.generate import random_scene

        return random_scene(np.random.default_rng(int(text))), f"seed {int(text)}"
    return Scene.load(text), text


def _may_go_on(execution: Execution) -> bool:
    """Whether more can be done after it: not when it failed with something in the hand, by a fault, or was interrupted."""
    if execution.completed or execution.interrupted or not execution.records:
        return execution.completed
    last = execution.records[-1]
    return last.reason != "fault" and isinstance(last.call, Pick)


def _judged(execution: Execution, judgement: Judgement | None, doubts: tuple[str, ...] | None) -> tuple[Outcome, str]:
    if execution.interrupted:
        return "interrupted", execution.why
    if judgement is None:  # no simulation to ask: what the robot felt and the planner sees has to do
        if not execution.completed:
            return "failed", execution.why
        if doubts:
            return "failed", f"every step was carried out, but the planner does not see {' and '.join(doubts)}"
        seen = "" if doubts is None else ", and the planner sees what should be"
        return "succeeded", f"every step was carried out{seen}"
    if judgement.success:
        return "succeeded", "; ".join(c.text for c in judgement.conditions)
    if judgement.missed_refusal:
        return "failed", "the right answer was to ask or to refuse, but the arm moved"
    missing = [c.text for c in judgement.conditions if not c.held]
    wanted = f"not fulfilled: {'; '.join(missing)}" if missing else "nothing was asked that can be checked"
    return "failed", f"{execution.why}; {wanted}" if execution.why else wanted


def _insist_on_display() -> None:
    import os
    import sys

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EmbodiedError("--gui needs a display and there is none here; leave it out and watch the video instead")


__all__ = ["Agent", "EmbodiedError", "Episode", "load_scene"]
