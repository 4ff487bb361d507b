"""``embodied run --robot RIG``: the same program on a serial arm, and one sentence for everything that can be wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied import planners
from embodied.agent import Agent
from embodied.cli import main
from embodied.plan import Pick, Place, Plan, Reach
from embodied.policies import policy_for
from embodied.robots import camera_to_plan_with, confirm_motion, finish, open_rig, pace_in_words
from embodied.verify import unseen
from hardware.arms import KOCH
from hardware.camera_model import Frame
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import CheckpointError, EmbodiedError, RobotError
from hardware.rig import CameraConfig, load_rig, save_rig
from hardware.serial_arm import SerialArm
from sim.scene import CameraSpec, Scene
from sim.twin import Twin
from sim.world import World

ROOT = Path(__file__).resolve().parents[1]
SCENE = ROOT / "scenes" / "first.json"


def write_rig(path: Path, name: str, port: str, *, cameras: tuple[str, ...] = (), **bus: Any) -> Path:
    rig = nominal(load_rig(name), port)
    looks = {camera: CameraConfig(source=f"/dev/video{k}") for k, camera in enumerate(cameras)}
    # A loaded machine pauses for longer than an arm may be silent; that is not what these tests are about.
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0, **bus}), "cameras": looks})
    save_rig(rig, path)
    return path


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embodied: ")]
    assert len(lines) == 1 and "Traceback" not in lines[0]
    return lines[0]


class Fixed:
    """A planner that always says the same, and sees what it is told to see."""

    name = "fixed"
    scripted = False

    def __init__(self, *calls: Any, sees: float = 1.0) -> None:
        self._plan = Plan(calls=tuple(calls))
        self._sees = sees
        self.asked: list[str] = []

    def plan(self, instruction: str, frame: Frame) -> Plan:
        return self._plan

    def verify(self, question: str, frame: Frame) -> float:
        self.asked.append(question)
        return self._sees


REACH = Reach(object="red cube", point=(0.615, 0.545))


# ---- what can be wrong


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--robot", "so101"], "not calibrated .* run: embodied robot calibrate so101"),
        (["--robot", "so101_leader"], "leader arm: it is moved by hand"),
        (["--robot", "nonsense"], "is no rig file; name a .toml file, or one of: .*so101"),
        (["--robot", "missing.toml"], "cannot read the rig file"),
        (["--robot", "so101", "--camera", "sim"], "--camera sim is the simulated camera"),
        (["--robot", "so101", "--camera", "top"], r"no camera 'top'; it has none. Add a section \[cameras.top\]"),
        (["--robot", "so101", "--planner", "scripted"], "reads the true scene .* --planner local"),
        (["--robot", "sim", "--port", "/dev/ttyACM0"], "--port is for a real arm"),
        (["--camera", "top", "--planner", "scripted", "--policy", "scripted"], "no camera 'top'; it has: front"),
    ],
)
def test_what_cannot_begin_is_said_in_a_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert main(["run", "pick up the red cube", *words]) == 2
    assert re.search(says, complaint(capsys))


def test_a_wrong_baud_rate_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = write_rig(tmp_path / "arm.toml", "so101", emulator.port, baud=500_000)
        assert main(["run", "pick up the red cube", "--robot", str(rig)]) == 2
        said = complaint(capsys)
        assert "answers" in said and "500000 baud" in said and "baud rate in the rig file" in said


def test_another_arm_is_named_by_its_servos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("koch_leader") as emulator:
        rig = write_rig(tmp_path / "arm.toml", "koch", emulator.port)
        assert main(["run", "pick up the red cube", "--robot", str(rig)]) == 2
        said = complaint(capsys)
        assert "is not the arm of the rig file" in said and "shoulder_pan: servo 1 is an xl330-m077" in said


HOLDER = (
    "import sys, serial; port = serial.Serial(sys.argv[1], 1000000, exclusive=True); print('open', flush=True); input()"
)


def test_a_port_in_use_names_the_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = write_rig(tmp_path / "arm.toml", "so101", emulator.port)
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, emulator.port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None and other.stdout.readline() == "open\n"
            assert main(["run", "pick up the red cube", "--robot", str(rig)]) == 2
            said = complaint(capsys)
            other.kill()
        assert f"in use by process {other.pid}" in said and "stop that first" in said


def test_a_port_on_another_machine_that_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = write_rig(tmp_path / "arm.toml", "so101", "/dev/ttyNOWHERE7")
    assert main(["run", "pick up the red cube", "--robot", str(rig), "--port", "socket://127.0.0.1:1"]) == 2
    assert "cannot reach socket://127.0.0.1:1" in complaint(capsys)


def test_an_arm_without_a_camera_cannot_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator("so101") as emulator:
        rig = write_rig(tmp_path / "arm.toml", "so101", "/dev/ttyNOWHERE7")
        command = ["run", "pick up the red cube", "--robot", str(rig), "--port", emulator.port]
        assert main([*command, "--planner", "local", "--policy", "scripted"]) == 2
        assert "has no camera, and a plan needs a picture" in complaint(capsys)


def test_the_camera_of_the_planner_is_found_or_asked_for() -> None:
    class Eyes:
        def __init__(self, *names: str) -> None:
            self.camera_names = names

    def chosen(*names: str, wanted: str = "") -> str:
        return camera_to_plan_with(Eyes(*names), wanted)  # type: ignore[arg-type]

    assert chosen("wrist", "front") == "front" and chosen("top") == "top" and chosen("a", "b", wanted="b") == "b"
    with pytest.raises(RobotError, match="--camera a"):
        chosen("a", "b")
    with pytest.raises(RobotError, match="it has: a, b"):
        chosen("a", "b", wanted="c")


def test_a_policy_of_another_arm_is_refused() -> None:
    class Arm:
        spec = KOCH
        control_hz = 20.0

    with pytest.raises(CheckpointError, match="trained on a so101 and the arm is a koch"):
        policy_for(Arm(), None)  # type: ignore[arg-type]
    assert policy_for(Arm(), "scripted").name == "scripted"  # type: ignore[arg-type]


# ---- a person says yes


def test_a_real_arm_moves_only_after_a_word(tmp_path: Path) -> None:
    with Emulator("so101") as emulator:
        rig = write_rig(tmp_path / "arm.toml", "so101", emulator.port)
        with open_rig(rig) as arm:
            asked: list[str] = []

            def answer(word: str) -> None:
                confirm_motion(arm, "default", yes=False, ask=lambda text: asked.append(text) or word)  # type: ignore[func-returns-value]

            answer("y\n")
            assert pace_in_words(arm.limits, "default") in asked[0] and emulator.port in asked[0]
            assert "0.25 m/s" in asked[0]
            for word in ("", "n\n", "what?"):
                with pytest.raises(EmbodiedError, match="was not moved"):
                    answer(word)
            with pytest.raises(EmbodiedError, match="give --yes"):
                confirm_motion(arm, "default", yes=False, ask=None)
            confirm_motion(arm, "default", yes=True, ask=None)
            finish(arm, None)  # no torque: nothing to do
            assert not arm.engaged


# ---- a whole run


class Eye:
    """The simulated camera, to be closed as a real one is."""

    def __init__(self, twin: Twin, name: str) -> None:
        self.name = name
        self._camera = twin.camera(name)

    def read(self) -> Frame:
        return self._camera.read()

    def close(self) -> None:
        pass


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Twin, Path]]:
    """A simulated table behind a serial port, its cameras behind the rig file's."""
    from hardware.cameras import camera

    small = CameraSpec(name="front", width=96, height=72)  # drawing holds the servos up
    world = World(Scene.load(SCENE).model_copy(update={"cameras": (small,)}))
    # Time passes with the driver's cycles, so a busy machine slows the arm down instead of tearing it along.
    with Twin(world, pace=Pace("stepped", period_s=0.01)) as twin:
        monkeypatch.setattr(camera, "open_cameras", lambda configs, **_: {name: Eye(twin, name) for name in configs})
        yield twin, write_rig(tmp_path / "arm.toml", "so101", twin.port, cameras=("front",))
    world.close()


def torques(twin: Twin) -> list[int]:
    return [servo.registers.get("torque_enable") for servo in twin.emulator.servos.values()]


def test_an_instruction_is_carried_out_on_a_rig(
    table: tuple[Twin, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twin, rig = table
    monkeypatch.setitem(planners.PLANNERS, "fixed", lambda world: Fixed(REACH))
    command = ["run", "point at the red cube", "--robot", str(rig), "--planner", "fixed", "--policy", "scripted"]
    status = main([
        *command, "--yes", "--profile", "sim", "--no-video", "--out", str(tmp_path / "runs"), "--json",
        "--record", str(tmp_path / "set"),
    ])  # fmt: skip
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0 and result["outcome"] == "succeeded" and result["sentence"] == "every step was carried out"
    assert (Path(result["folder"]) / "report.html").exists()
    assert torques(twin) == [0] * 6  # parked, then limp
    from policies.dataset.reader import Dataset

    with Dataset(tmp_path / "set") as dataset:
        assert len(dataset.episodes) == 1 and dataset.episodes[0].success is True
        assert dataset.info.robot_type == "so101" and dataset.fps == 20


def test_the_cable_pulled_in_a_run_ends_with_what_to_do(
    table: tuple[Twin, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twin, rig = table

    class Puller(Fixed):
        def plan(self, instruction: str, frame: Frame) -> Plan:
            threading.Timer(0.3, twin.emulator.unplug).start()
            return super().plan(instruction, frame)

    monkeypatch.setitem(planners.PLANNERS, "puller", lambda world: Puller(REACH))
    command = ["run", "point at the red cube", "--robot", str(rig), "--planner", "puller", "--policy", "scripted"]
    assert main([*command, "--yes", "--no-video", "--out", str(tmp_path / "runs")]) == 2
    said = complaint(capsys)
    assert "hold their last goal" in said and "power off" in said


@pytest.mark.slow
def test_the_shipped_planner_and_policy_do_a_job_on_a_rig(
    table: tuple[Twin, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin, rig = table
    with twin.still() as world:  # the shipped planner wants a picture of the usual size
        world.load(Scene.load(SCENE))
        twin.plant.look()
    command = ["run", "put the red cube in the blue bowl", "--robot", str(rig), "--yes", "--json", "--no-video"]
    assert main([*command, "--out", str(tmp_path / "runs")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    print(result["sentence"], result["seconds"])
    with twin.still() as world:
        cube, bowl = (world.object_foot(name) for name in ("red_cube", "blue_bowl"))
    assert float(np.linalg.norm(cube[:2] - bowl[:2])) < 0.03  # the world agrees with what arm and planner say


# ---- what the planner sees afterwards

PUT = (Pick(object="red cube", point=(0.6, 0.5)), Place(relation="in", object="blue bowl", point=(0.3, 0.6)))


def test_the_planner_is_asked_whether_things_are_where_they_were_put() -> None:
    frame: Any = None
    planner = Fixed(*PUT, sees=0.9)
    assert unseen(planner, Plan(calls=PUT), frame) == ()
    assert planner.asked == ["is the red cube in the blue bowl?"]
    assert unseen(Fixed(*PUT, sees=0.2), Plan(calls=PUT), frame) == ("the red cube in the blue bowl",)
    assert unseen(Fixed(REACH), Plan(calls=(REACH,)), frame) is None
    again = (*PUT, PUT[0])  # taken out again: nothing to be seen
    assert unseen(Fixed(*again), Plan(calls=again), frame) is None


def test_what_is_not_seen_is_a_failure() -> None:
    from embodied.agent import _judged
    from embodied.executor import Execution

    done = Execution((), True)
    assert _judged(done, None, None) == ("succeeded", "every step was carried out")
    assert _judged(done, None, ())[0] == "succeeded" and "planner sees" in _judged(done, None, ())[1]
    outcome, sentence = _judged(done, None, ("the red cube in the blue bowl",))
    assert outcome == "failed" and "does not see the red cube in the blue bowl" in sentence
    assert _judged(Execution((), False, "it fell"), None, None) == ("failed", "it fell")


def test_an_agent_on_a_robot_needs_no_world(table: tuple[Twin, Path]) -> None:
    _, rig = table
    with Agent.on_robot(open_rig(rig), planner=Fixed(REACH), policy="scripted") as agent:
        assert isinstance(agent.robot, SerialArm) and agent.world is None and agent.camera == "front"
        with pytest.raises(EmbodiedError, match="only be loaded into a simulation"):
            agent.load(0)
