"""Recording what runs: verdicts, interruptions, a full disk, and a person's takes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import instant_disk  # noqa: F401

from embodied.agent import Agent
from embodied.cli import main
from embodied.executor import Event
from embodied.recording import AgentRecording, Takes, open_dataset
from embodied.teleop import Pacer, Session
from hardware.teleop import Rate, Reading
from policies.dataset.layout import DatasetError
from policies.dataset.reader import Dataset
from policies.dataset.video import VideoEncoder
from sim.robot import SimRobot
from sim.scene import CameraSpec, Scene
from sim.world import World

FIRST = Scene.load(Path(__file__).parents[1] / "scenes" / "first.json")
#: Drawing is what takes the time here, and nobody looks at these pictures.
SMALL = FIRST.model_copy(
    update={
        "cameras": (
            CameraSpec(name="front", width=64, height=48),
            CameraSpec(name="wrist", mount="wrist", width=32, height=32),
        )
    }
)
pytestmark = pytest.mark.usefixtures("instant_disk")


@pytest.fixture
def scene(tmp_path: Path) -> str:
    SMALL.save(tmp_path / "scene.json")
    return str(tmp_path / "scene.json")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent.simulated(SMALL, planner="scripted", policy="scripted") as agent:
        agent.recording = AgentRecording(tmp_path / "set")
        yield agent


def read(root: Path) -> list[tuple[int, bool | None, str]]:
    """Length, success and task of each episode."""
    with Dataset(root) as dataset:
        return [(episode.length, episode.success, episode.tasks[0]) for episode in dataset.episodes]


def test_a_run_is_recorded_with_goals_and_verdict(scene: str, tmp_path: Path) -> None:
    command = ["run", "pick up the red cube", "--scene", scene, "--planner", "scripted", "--policy", "scripted"]
    for robot in ("sim", "emulated"):
        more = ["--robot", robot, "--camera", "sim", "--no-video", "--out", str(tmp_path / "runs")]
        assert main([*command, *more, "--record", str(tmp_path / "set")]) == 0
    kept = read(tmp_path / "set")
    assert [(success, task) for _, success, task in kept] == [(True, "pick up the red cube")] * 2
    with Dataset(tmp_path / "set") as dataset:
        skills = dataset.episode(0, cameras=())["skill"]
        assert dataset.fps == 20 and dataset.info.robot_type == "so101"
        assert {"observation.images.front", "observation.images.wrist"} <= set(dataset.info.video_keys)
    assert {"", "pick"} == set(np.asarray(skills).tolist())


def test_what_is_refused_is_no_episode(agent: Agent, tmp_path: Path) -> None:
    assert agent.run("pick up the purple ball").outcome == "refused"
    assert agent.recording is not None and agent.recording.saved == 0
    agent.run("pick up the red cube")
    assert agent.recording.saved == 1 and len(read(tmp_path / "set")) == 1


def test_an_interrupted_episode_is_kept_as_one_that_nobody_judged(agent: Agent, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress" and event.data["steps"] > 5:
            agent.stop()

    assert agent.run("pick up the red cube", on_event=stop).outcome == "interrupted"
    ((length, success, _),) = read(tmp_path / "set")
    assert success is None and length > 5


def test_ctrl_c_keeps_the_rows_so_far(agent: Agent, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.data["steps"] > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.run("pick up the red cube", on_event=interrupt)
    ((length, success, _),) = read(tmp_path / "set")
    assert success is None and length > 5
    assert agent.run("pick up the red cube").success  # and the next one is recorded again
    assert [success for _, success, _ in read(tmp_path / "set")] == [None, True]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """From the ``after``-th picture on nothing can be written."""
    count, original = [0], VideoEncoder.add

    def add(self: VideoEncoder, picture: Any) -> None:
        count[0] += 1
        if count[0] > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, picture)

    monkeypatch.setattr(VideoEncoder, "add", add)
    return count


def test_a_full_disk_is_told_and_the_arm_holds(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent.run("pick up the red cube").success
    agent.load(SMALL)
    sent: list[int] = []
    act = SimRobot.act

    def counted(self: SimRobot, target: Any, *, made_s: float | None = None) -> Any:
        sent.append(len(count) and count[0])
        return act(self, target, made_s=made_s)

    count = fill_the_disk(monkeypatch, after=60)
    monkeypatch.setattr(SimRobot, "act", counted)
    episode = agent.run("pick up the red cube")
    assert episode.outcome == "interrupted" and "disk is full" in episode.sentence and "arm holds" in episode.sentence
    assert sum(pictures > 60 for pictures in sent) == 0  # no command after the error
    assert len(read(tmp_path / "set")) == 1  # the earlier one is whole


def test_a_dataset_that_does_not_fit_is_told_before_anything_moves(
    scene: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(SMALL)
    with open_dataset(tmp_path / "set", SimRobot(world, control_hz=60.0)):
        pass
    world.close()
    command = ["run", "pick up the red cube", "--scene", scene, "--planner", "scripted", "--policy", "scripted"]
    assert main([*command, "--out", str(tmp_path / "runs"), "--record", str(tmp_path / "set")]) == 2
    assert "frames per second" in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_evaluation_of_the_agent_can_be_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "agent", "--planner", "scripted", "--policy", "scripted", "--episodes", "1", "--json"]
    assert main([*command, "--record", str(tmp_path / "set")]) == 0
    assert len(read(tmp_path / "set")) == 1


# ---- a person's takes


class Turn:
    """A device that turns the first joint."""

    name = "turn"

    def read(self) -> Reading:
        return Reading(rate=Rate(joints=np.array([1.0, 0, 0, 0, 0, 0])))

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[tuple[Session, Takes, list[Any], list[str]]]:
    world = World(SMALL)
    robot = SimRobot(world, control_hz=60.0)
    keys: list[Any] = []
    said: list[str] = []

    def pressed() -> tuple[Any, ...]:
        taken, keys[:] = tuple(keys), []
        return taken

    with open_dataset(tmp_path / "set", robot, fps=20.0) as writer:
        takes = Takes(writer, "turn", 60.0)
        pacer = Pacer(60.0, clock=lambda: 0.0, sleep=lambda s: None)
        session = Session(robot, Turn(), keys=pressed, takes=takes, pacer=pacer, say=said.append)
        session.engage()
        yield session, takes, keys, said
        takes.close()
    world.close()


def steps(driven: tuple[Session, Takes, list[Any], list[str]], count: int, *keys: str) -> None:
    driven[2].extend(keys)
    for _ in range(count):
        driven[0].step()


def test_takes_are_kept_failed_and_discarded(
    driven: tuple[Session, Takes, list[Any], list[str]], tmp_path: Path
) -> None:
    _, takes, _, said = driven
    steps(driven, 30, "record")
    assert takes.running and takes.recorder.rows == 10
    steps(driven, 1, "record")
    assert takes.pending and "k keeps it" in said[-1]
    steps(driven, 9)
    assert takes.recorder.rows == 10  # nothing is added to a take that has ended
    steps(driven, 1, "record")
    assert "decide about the last take" in said[-1]
    steps(driven, 1, "keep")
    steps(driven, 12, "record")
    steps(driven, 1, "fail")
    steps(driven, 12, "record")
    steps(driven, 1, "discard")
    steps(driven, 1, "keep")
    assert "there is no take" in said[-1]
    steps(driven, 6, "record")
    takes.close()  # nobody decided
    assert read(tmp_path / "set") == [(10, True, "turn"), (4, False, "turn"), (2, None, "turn")]
    assert (takes.kept, takes.discarded) == (3, 1)


def test_a_row_holds_the_last_command_before_the_next_row(
    driven: tuple[Session, Takes, list[Any], list[str]], tmp_path: Path
) -> None:
    takes = driven[1]
    steps(driven, 10)
    rows: list[tuple[Any, Any]] = []
    add = takes.recorder.add
    takes.recorder.add = lambda seen, wanted, applied: (  # type: ignore[method-assign,assignment]
        rows.append((seen, applied)),
        add(seen, wanted, applied),
    )
    steps(driven, 6, "record")
    (first, sent), (second, _) = rows
    assert second.command == pytest.approx(sent.q)  # what the next row finds as sent is what this row sent
    assert sent.q[0] - first.command[0] == pytest.approx(3 * 0.5 / 60.0, abs=1e-6)
    assert set(first.frames) == {"front", "wrist"}


def test_a_full_disk_in_a_take_holds_the_arm(
    driven: tuple[Session, Takes, list[Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, takes, _, said = driven
    steps(driven, 6, "record")
    fill_the_disk(monkeypatch, after=0)
    steps(driven, 6)
    assert session.state == "holding" and not takes.running
    assert any("disk is full" in text and "holds" in text for text in said)


def test_rates_that_do_not_fit_are_told(tmp_path: Path) -> None:
    world = World(SMALL)
    robot = SimRobot(world, control_hz=60.0)
    with (
        open_dataset(tmp_path / "set", robot, fps=20.0) as writer,
        pytest.raises(DatasetError, match="multiple, such as 60"),
    ):
        Takes(writer, "turn", 50.0)
    world.close()
