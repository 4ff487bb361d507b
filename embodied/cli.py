"""The command line: typed options, rich output, and one sentence instead of a traceback.

Exit status: 0 done (``run``: the task succeeded), 1 the task failed or was refused, 2 the command could not begin (bad
input, missing weights, a folder that cannot be written), 130 stopped with Ctrl-C. With ``--json`` people's output goes
to stderr and the last line of stdout is one JSON object.

Heavy libraries are imported inside the commands, so that ``embodied --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg, subcommand

from embodied.commands.camera import Camera
from embodied.commands.data import Data
from embodied.commands.output import people_console, print_json, save
from embodied.commands.plan import PlanImage
from embodied.commands.policy import Policy
from embodied.commands.robot import Robot
from embodied.commands.run import Run, quiet_libraries
from embodied.commands.teleop import Teleop
from hardware.errors import EmbodiedError
from policies.skills import SKILLS, Skill

if TYPE_CHECKING:
    from rich.console import Console

    from embodied.evaluation import Report

T = TypeVar("T")
DONE, FAILED, UNUSABLE, STOPPED = 0, 1, 2, 130


@dataclass(frozen=True)
class Evaluate:
    """Success rates with Wilson 95 % intervals."""

    what: Positional[Literal["policy", "planner", "agent"]]
    """The policy alone (goals from the true scene), the planner alone, or both together."""
    suite: str = ""
    """policy: skills, noise1cm, noise2cm, randomized, shapes. planner: seen, paraphrase, novel, free, refuse, point, verify.
    agent: single, skills, long, sequence."""
    episodes: int | None = None
    """How many (policy: per skill); 100 when left out, all of them for the suite free."""
    seed: int = 0
    """Which held-out episodes."""
    planner: str = "local"
    """As for run."""
    policy: str = ""
    """As for run."""
    robot: Literal["sim", "emulated"] = "sim"
    """agent: as for run."""
    out: Path | None = None
    """Keep every episode's folder here (agent only)."""
    record: Path | None = None
    """agent: add the episodes to the LeRobot dataset in this folder."""
    failures: Path | None = None
    """planner: write a page with pictures of the failures into this folder."""
    repoint: bool = False
    """As for run."""
    verify: bool = False
    """agent: as for run."""
    looks: int = 2
    """agent: as for run."""
    goal_noise_m: float = 0.0
    """policy: standard deviation of an error added to the goal points, as a planner would make."""
    json: bool = False
    """Print the figures as one JSON object on the last line."""

    @property
    def count(self) -> int:
        """Episodes of the suites whose length is free."""
        return self.episodes or 100


@dataclass(frozen=True)
class SceneCommand:
    """Make, check, look at and save a scene."""

    source: Positional[Annotated[str, arg(metavar="SEED|FILE")]]
    """A scene file (JSON), or a number: the seed of a random scene."""
    show: Path | None = None
    """Write the front camera's picture here (PNG)."""
    save: Path | None = None
    """Write the scene here (JSON)."""
    json: bool = False
    """Print the scene as one JSON object on the last line."""


@dataclass(frozen=True)
class Collect:
    """Record demonstrations of the scripted experts, as training data for a policy."""

    data: Path = Path("data/policy")
    """Folder for the demonstrations; those already there are kept. `embodied train policy` reads them from there."""
    skills: tuple[Skill, ...] = SKILLS
    """Which skills."""
    demos: int = 50
    """Successful demonstrations per skill."""
    workers: int = 1
    """Processes that work at the same time."""
    seed: int = 0
    """Seed of scenes and noise."""
    record: Path | None = None
    """Instead, record the experts undisturbed, with front and wrist pictures, into the LeRobot dataset in this folder."""
    json: bool = False
    """Print what is there as one JSON object on the last line."""


@dataclass(frozen=True)
class Train:
    """Train a policy, a planner, or a skill from reward: `embodied train policy|planner|rl --help`."""

    what: Positional[Literal["policy", "planner", "rl"]]
    """What to train."""


Command = (
    Annotated[Run, subcommand("run")]
    | Annotated[PlanImage, subcommand("plan")]
    | Annotated[Evaluate, subcommand("eval")]
    | Annotated[Train, subcommand("train")]
    | Annotated[SceneCommand, subcommand("scene")]
    | Annotated[Collect, subcommand("collect")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Robot, subcommand("robot")]
    | Annotated[Teleop, subcommand("teleop")]
    | Annotated[Camera, subcommand("camera")]
    | Annotated[Policy, subcommand("policy")]
)
_DESCRIPTION = 'Tell a robot arm what to do in plain words. Try: embodied run "put the red cube in the blue bowl"'


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        if words[:1] == ["train"] and words[1:2] and words[1] in _TRAINERS:
            return _TRAINERS[words[1]](words[2:])
        command: Any = tyro.cli(Command, prog="embodied", description=_DESCRIPTION, args=words)  # type: ignore[call-overload]
        from embodied.quiet import c_output_hidden

        with c_output_hidden():
            return _COMMANDS[type(command)](command)
    except EmbodiedError as error:
        return _complain(str(error), as_json)
    except BrokenPipeError:  # `embodied ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return STOPPED


def _complain(sentence: str, as_json: bool) -> int:
    line = " ".join(sentence.split())
    print(f"embodied: {line}", file=sys.stderr)
    if as_json:
        print_json({"success": False, "outcome": "error", "error": line})
    return UNUSABLE


def _positive(value: int, name: str) -> None:
    if value < 1:
        raise EmbodiedError(f"--{name} must be at least 1, not {value}")


def _run(command: Run) -> int:
    from embodied.commands.run import run

    return run(command)


def _camera(command: Camera) -> int:
    from embodied.commands.camera import run

    return run(command)


def _policy(command: Policy) -> int:
    from embodied.commands.policy import run

    quiet_libraries()
    return run(command)


def _teleop(command: Teleop) -> int:
    from embodied.commands.teleop import run

    return run(command)


def _plan(command: PlanImage) -> int:
    from embodied.commands.plan import run

    quiet_libraries()
    return run(command)


def _evaluate(command: Evaluate) -> int:
    if command.episodes is not None:
        _positive(command.episodes, "episodes")
    if command.seed < 0:
        raise EmbodiedError(f"--seed must be zero or more, not {command.seed}")
    quiet_libraries()
    console = people_console(command.json)
    suite = command.suite or {"policy": "skills", "planner": "seen", "agent": "single"}[command.what]
    figures = _EVALUATIONS[command.what](command, suite, console)
    if command.json:
        print_json(figures)
    return DONE


def _told(report: Report, console: Console) -> dict[str, Any]:
    """Show the figures to people, return them for programs."""
    from embodied.show import report_table

    console.print(report_table(report))
    return report.to_json()


def _evaluate_agent(command: Evaluate, suite: str, console: Console) -> dict[str, Any]:
    from embodied.agent import Agent
    from embodied.evaluation import AGENT_SUITES, evaluate_agent
    from embodied.executor import ExecutorOptions
    from embodied.recording import AgentRecording
    from embodied.show import Counter

    if suite not in AGENT_SUITES:
        raise EmbodiedError(f"there is no agent suite {suite!r}; choose one of: {', '.join(AGENT_SUITES)}")
    options = ExecutorOptions(repoint=command.repoint, verify=command.verify, looks=command.looks)
    with (
        Agent.simulated(
            planner=command.planner, policy=command.policy or None, options=options, robot=command.robot
        ) as agent,
        Counter(console, command.count) as counter,
    ):
        if command.record is not None:
            agent.recording = AgentRecording(command.record)
            agent.recording.open(agent.robot)
        out = None if command.out is None else str(command.out)
        report = evaluate_agent(agent, suite, command.count, command.seed, on_episode=counter.tell, out=out)
    return _told(report, console)


def _evaluate_planner(command: Evaluate, suite: str, console: Console) -> dict[str, Any]:
    from embodied.confusion import FailurePage
    from embodied.planner_suites import PLANNER_SUITES, evaluate_planner, size_of
    from embodied.planners import make_planner
    from embodied.show import Counter

    if suite not in PLANNER_SUITES:
        raise EmbodiedError(f"there is no planner suite {suite!r}; choose one of: {', '.join(PLANNER_SUITES)}")
    page = FailurePage()
    with Counter(console, size_of(suite, command.episodes)) as counter:
        report = evaluate_planner(
            lambda world: make_planner(command.planner, world), suite, command.episodes, command.seed,
            on_episode=counter.tell, on_answer=page.add if command.failures is not None else None,
        )  # fmt: skip
    if command.failures is not None:
        console.print(f"failures: {page.write(command.failures, report)}")
    return _told(report, console)


def _evaluate_policy(command: Evaluate, suite: str, console: Console) -> dict[str, Any]:
    from policies.evaluation import SUITES, EvalConfig, evaluate

    if suite not in SUITES:
        raise EmbodiedError(f"there is no policy suite {suite!r}; choose one of: {', '.join(SUITES)}")
    if command.goal_noise_m < 0.0:
        raise EmbodiedError(f"--goal-noise-m must be zero or more, not {command.goal_noise_m}")
    config = EvalConfig(suite=suite, episodes=command.count, seed=command.seed, goal_noise_m=command.goal_noise_m)
    from embodied.policies import make_policy

    return evaluate(config, console=console, policy=make_policy(command.policy or None))


def _scene(command: SceneCommand) -> int:
    from embodied.agent import load_scene

    scene, name = load_scene(command.source)
    console = people_console(command.json)
    from embodied.show import scene_table

    console.print(scene_table(scene, name))
    if command.save is not None:
        save(command.save, (scene.model_dump_json(indent=2, exclude_defaults=True) + "\n").encode())
        console.print(f"scene: {command.save}")
    if command.show is not None:
        from embodied.drawing import png
        from sim.world import World

        world = World(scene)
        try:
            picture = world.render(scene.cameras[0].name).rgb
        finally:
            world.close()
        save(command.show, png(picture))
        console.print(f"picture: {command.show}")
    if command.json:
        print_json(scene.model_dump(mode="json", exclude_defaults=True))
    return DONE


def _data(command: Data) -> int:
    from embodied.commands.data import run

    return run(command)


def _robot(command: Robot) -> int:
    from embodied.commands.robot import run

    return run(command)


def _collect(command: Collect) -> int:
    from policies.collect import collect_shards

    _positive(command.demos, "demos")
    _positive(command.workers, "workers")
    console = people_console(command.json)
    if command.record is not None:
        return _record(command, command.record, console)
    demos = collect_shards(
        command.data, command.skills, command.demos, seed=command.seed, workers=command.workers, console=console
    )
    steps = sum(len(demo.q) for demo in demos)
    console.print(f"{len(demos)} demonstrations, {steps} control steps, in {command.data}")
    if command.json:
        print_json({"demonstrations": len(demos), "control_steps": steps, "skills": list(command.skills)})
    return DONE


def _record(command: Collect, folder: Path, console: Console) -> int:
    from policies.demonstrations import record_demonstrations

    if command.workers != 1:
        raise EmbodiedError("a dataset is written by one process; leave --workers out with --record")
    rows = record_demonstrations(
        folder, command.skills, command.demos, seed=command.seed,
        on_episode=lambda skill: console.print(f"{skill}: one more"),
    )  # fmt: skip
    count = command.demos * len(command.skills)
    console.print(f"{count} demonstrations, {rows} control steps, in {folder}")
    if command.json:
        print_json({"demonstrations": count, "control_steps": rows, "skills": list(command.skills)})
    return DONE


def _train(command: Train) -> int:
    raise EmbodiedError(f"`embodied train {command.what}` takes its options after these two words")  # see main


def _configured(config: type[T], name: str, words: list[str]) -> T:
    """Options from words; what the dataclass itself refuses becomes a sentence."""
    try:
        return tyro.cli(config, prog=f"embodied {name}", args=words)
    except ValueError as error:
        raise EmbodiedError(f"embodied {name}: {error}") from error


def _train_policy(words: list[str]) -> int:
    from policies.train import TrainConfig

    config = _configured(TrainConfig, "train policy", words)
    from policies.train import train

    train(config)
    return DONE


def _train_planner(words: list[str]) -> int:
    from embodied.planner.config import TrainPlannerConfig

    config = _configured(TrainPlannerConfig, "train planner", words)
    from embodied.planner.train import train

    print(f"model: {train(config)}")
    return DONE


def _train_rl(words: list[str]) -> int:
    from embodied.commands.train_rl import run

    return run(words)


_COMMANDS: dict[type, Callable[[Any], int]] = {
    Run: _run, PlanImage: _plan, Evaluate: _evaluate, Train: _train, SceneCommand: _scene, Collect: _collect,
    Data: _data, Robot: _robot, Teleop: _teleop, Camera: _camera, Policy: _policy,
}  # fmt: skip
_EVALUATIONS: dict[str, Callable[[Evaluate, str, Console], dict[str, Any]]] = {
    "policy": _evaluate_policy, "planner": _evaluate_planner, "agent": _evaluate_agent,
}  # fmt: skip
_TRAINERS: dict[str, Callable[[list[str]], int]] = {"policy": _train_policy, "planner": _train_planner, "rl": _train_rl}
