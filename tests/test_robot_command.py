"""``embodied robot find|setup|calibrate|info|doctor|release`` against emulated arms, as a user types them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from arm_in_hand import Person, bus_of

from embodied.cli import main
from embodied.commands import asking
from hardware.asking import FromLines, confirmed, take_defaults
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.emulator.hands import Hands
from hardware.errors import RobotError
from hardware.rig import load_rig, save_rig


@pytest.fixture
def arm() -> Iterator[Emulator]:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        yield arm


def robot(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object], str]:
    """Exit status, the JSON object on the last line, and what people see."""
    status = main(["robot", *words, "--json"])
    out, err = capsys.readouterr()
    lines = out.strip().splitlines()
    return status, json.loads(lines[-1]), err


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["robot", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embodied: ")]
    assert len(lines) == 1
    return lines[0]


def _calibrated(arm: Emulator, folder: Path) -> Path:
    file = folder / "desk.toml"
    save_rig(nominal(load_rig("so101"), arm.port), file)
    return file


# find ----------------------------------------------------------------------------------------------------------------------


def test_find_tells_servos_and_rigs(arm: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    status, told, text = robot(capsys, "find", "--port", arm.port)
    assert status == 0
    (port,) = told["ports"]
    (line,) = port["lines"]
    assert [servo["id"] for servo in line["servos"]] == [1, 2, 3, 4, 5, 6] and line["baud"] == 1_000_000
    assert {servo["model"] for servo in line["servos"]} == {"sts3215"}
    assert "so101" in {rig["rig"] for rig in port["rigs"]} and "rigs with these servos: so100, " in text


def test_find_on_a_taken_or_missing_port_goes_on_with_the_others(
    arm: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told, _ = robot(capsys, "find", "--port", "/dev/ttyNOWHERE7", arm.port)
    assert status == 0
    assert "there is no port" in told["ports"][0]["error"] and told["ports"][1]["error"] == ""
    with bus_of(arm):
        status, told, text = robot(capsys, "find", "--port", arm.port)
    assert status == 1 and "is in use by" in told["ports"][0]["error"] and "is in use by" in text


def test_find_without_any_port(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardware.find_ports.usb_ports", list)
    status, told, text = robot(capsys, "find")
    assert (status, told) == (1, {"ports": []}) and "Is the cable in?" in text
    assert "leave --port out" in complaint(capsys, "find", "--unplug", "--port", "/dev/ttyACM0")


# setup ---------------------------------------------------------------------------------------------------------------------


def test_setup_together_writes_once(arm: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    status, told, text = robot(capsys, "setup", "so101", "--port", arm.port, "--together")
    assert status == 0 and "return_delay" in told["written"]["elbow_flex"]
    assert "Next: embodied robot calibrate so101" in text
    _, told, text = robot(capsys, "setup", "so101", "--port", arm.port, "--together")
    assert not any(told["written"].values()) and "elbow_flex: nothing to write" in text


def test_setup_of_one_motor_with_answers_from_a_file(
    arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Hands(arm).do("alone wrist_roll")
    arm.inject("poke.5:wrist_roll=77")
    arm.advance(1.0)
    (tmp_path / "answers").write_text("\n")
    words = (
        "setup",
        "so101",
        "--port",
        arm.port,
        "--only",
        "wrist_roll",
        "gripper",
        "--answers",
        str(tmp_path / "answers"),
    )
    assert "gripper: the motor" not in complaint(capsys, *words)  # the file has one answer, two are asked
    assert arm.servos["wrist_roll"].registers.get("id") == 6  # it was the only motor when the gripper's was asked for
    status, told, _ = robot(capsys, "setup", "so101", "--port", arm.port, "--only", "wrist_roll", "--yes")
    assert status == 0 and "id" in told["written"]["wrist_roll"]
    assert arm.servos["wrist_roll"].registers.get("id") == 5


def test_setup_needs_somebody_who_answers(arm: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --yes, or --answers FILE" in complaint(capsys, "setup", "so101", "--port", arm.port)
    assert "no joint 'tail'" in complaint(capsys, "setup", "so101", "--port", arm.port, "--begin", "tail")


# calibrate -----------------------------------------------------------------------------------------------------------------


def test_calibrate_scripted_then_doctor_info_export_import(
    arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hands, out, port = Hands(arm), tmp_path / "desk.toml", arm.port
    robot(capsys, "setup", "so101", "--port", port, "--together")
    hands.do("hold gripper=0.78")
    arm.advance(0.5)
    swept = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "gripper")
    risen = "hold shoulder_pan=0.8 shoulder_lift=0.8 elbow_flex=0.8 wrist_flex=0.8 wrist_roll=0.8 gripper=1.5"

    def move() -> None:
        while not (tmp_path / ".desk.toml.unfinished").exists():  # until the middle pose has been taken
            time.sleep(0.01)
        time.sleep(0.5)
        for angle in (-4, 4):
            hands.do(f"hold {' '.join(f'{joint}={angle}' for joint in swept)}")
            for _ in range(8):
                arm.advance(0.1)
                time.sleep(0.1)
        hands.do(risen)
        arm.advance(0.5)

    mover = threading.Thread(target=move)
    mover.start()
    status, told, text = robot(
        capsys, "calibrate", "so101", "--port", port, "--out", str(out), "--yes", "--sweep-s", "30"
    )
    mover.join()
    assert status == 0, text
    pan = told["calibration"]["shoulder_pan"]
    assert pan["max"] - pan["min"] == pytest.approx((2 * 1.91986 + 0.04) * 652, abs=15)
    assert "Ranges" in text and f"Calibrated: {out}" in text
    rig = load_rig(out)
    assert rig.bus.port == port and rig.calibrated is not None
    assert list(tmp_path.glob(".*unfinished*")) == []

    status, told, text = robot(capsys, "doctor", str(out))
    assert (status, told["problems"], told["findings"]) == (0, 0, []), text
    status, told, text = robot(capsys, "info", str(out))
    assert status == 0 and told["calibrated"] and told["joints"]["gripper"]["registers"]["id"] == 6
    assert "45.8" in text  # 0.8 rad

    lerobot, second = tmp_path / "lerobot.json", tmp_path / "second.toml"
    robot(capsys, "calibrate", str(out), "--export-lerobot", str(lerobot))
    status, told, text = robot(
        capsys, "calibrate", "so101", "--import-lerobot", str(lerobot), "--port", port, "--out", str(second)
    )
    assert status == 0 and "the arm's servos hold these offsets" in text
    assert load_rig(second).joints == rig.joints
    arm.inject("poke.31:elbow_flex=7")
    arm.advance(0.1)
    words = (
        "calibrate",
        "so101",
        "--import-lerobot",
        str(lerobot),
        "--port",
        port,
        "--out",
        str(tmp_path / "third.toml"),
    )
    assert "belongs to another arm" in complaint(capsys, *words)
    assert not (tmp_path / "third.toml").exists()


def test_calibrate_keeps_other_rigs_and_refuses_nonsense(
    arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _calibrated(arm, tmp_path)
    before = other.read_text()
    words = ("calibrate", "so101", "--port", arm.port, "--yes")
    assert f"to calibrate that arm again, name it: embodied robot calibrate {other}" in complaint(
        capsys, *words, "--out", str(other)
    )
    assert other.read_text() == before
    assert "there is no folder" in complaint(capsys, *words, "--out", str(tmp_path / "no" / "a.toml"))
    assert "no joint 'tail'" in complaint(capsys, *words, "--out", str(tmp_path / "a.toml"), "--mirrored", "tail")
    assert "not both" in complaint(capsys, *words, "--import-lerobot", "a.json", "--export-lerobot", "b.json")
    assert "cannot read nothing.json" in complaint(
        capsys, "calibrate", "so101", "--import-lerobot", "nothing.json", "--out", str(tmp_path / "a.toml")
    )


def test_calibrate_refuses_the_adapter_of_another_arm(
    arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = nominal(load_rig("so101"), arm.port)
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"usb_serial": "58FA"})}).stamped("58FA")
    save_rig(rig, tmp_path / "mine.toml")
    assert "is not the adapter 58FA" in complaint(capsys, "calibrate", str(tmp_path / "mine.toml"), "--yes")


def test_a_sweep_that_nobody_makes_ends_with_names(
    arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("calibrate", "so101", "--port", arm.port, "--out", str(tmp_path / "a.toml"), "--yes", "--sweep-s", "0.3")
    assert "wrist_flex: it was not moved" in complaint(capsys, *words)
    assert (tmp_path / ".a.toml.unfinished").exists() and not (tmp_path / "a.toml").exists()


# info, doctor, release -------------------------------------------------------------------------------------------------------


def test_info_of_an_incomplete_arm(arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm.inject("dead:elbow")
    arm.advance(0.1)
    status, told, text = robot(capsys, "info", "so101", "--port", arm.port)
    assert status == 1 and "no answer" in text
    assert told["joints"]["elbow_flex"]["model"] is None and told["joints"]["gripper"]["model"] == "sts3215"
    status, told, text = robot(capsys, "info", "so101", "--port", "/dev/ttyNOWHERE7")
    assert status == 1 and "embodied robot doctor so101" in text


def test_doctor_counts_problems(arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bus_of(arm) as bus:
        bus.write(3, "torque_enable", 1)
    status, told, text = robot(capsys, "doctor", str(_calibrated(arm, tmp_path)), "--udev")
    assert status == 1 and told["problems"] == 1
    assert "problem  elbow_flex: its torque is on" in text and "there is no rule" in text
    assert "remark   elbow_flex: it waits 500 microseconds" in text


def test_doctor_measures_play(arm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = str(_calibrated(arm, tmp_path))
    status, told, text = robot(capsys, "doctor", rig, "--play", "elbow_flex", "--play-s", "0.3", "--yes")
    assert status == 0, text
    assert told["play_degrees"]["elbow_flex"] < 0.5
    assert "elbow_flex: support the arm" in text
    assert arm.servos["elbow_flex"].registers.get("torque_enable") == 0
    assert "no joint 'tail'" in complaint(capsys, "doctor", rig, "--play", "tail", "--yes")


def test_release_tries_every_joint_and_says_which(arm: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    with bus_of(arm) as bus:
        bus.write_all("torque_enable", dict.fromkeys(bus.models, 1))
    status, told, text = robot(capsys, "release", "so101", "--port", arm.port)
    assert status == 0 and len(told["limp"]) == 6 and "gripper: limp" in text
    assert all(servo.registers.get("torque_enable") == 0 for servo in arm.servos.values())
    with bus_of(arm) as bus:
        bus.write_all("torque_enable", dict.fromkeys(bus.models, 1))
    arm.inject("dead:shoulder_pan")
    arm.advance(0.1)
    status, told, text = robot(capsys, "release", "so101", "--port", arm.port)
    assert status == 1 and len(told["limp"]) == 5 and set(told["failed"]) == {"shoulder_pan"}
    assert "shoulder_pan: may still hold" in text and "switch its power off" in text
    assert arm.servos["gripper"].registers.get("torque_enable") == 0


@pytest.mark.parametrize("command", ["setup", "info", "doctor", "release", "calibrate"])
def test_a_rig_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no rig file" in complaint(capsys, command, "so102")


# answers and hands ----------------------------------------------------------------------------------------------------------


def test_answers_from_lines_and_defaults() -> None:
    ask = FromLines(["yes\n", "\n"], "answers.txt")
    assert confirmed(ask, "Sure?") and not confirmed(ask, "Sure?")
    with pytest.raises(RobotError, match="answers.txt ended before this question: Where"):
        ask("Where?")
    assert take_defaults("x", "y") == "y" and not confirmed(take_defaults, "Sure?")


def test_answers_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: " yes ")
    assert confirmed(asking.answers(Console(), yes=False, file=None), "Sure?")
    assert "Sure? (yes/no)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "order", ["jump", "hold", "hold elbow_flex", "hold elbow_flex=x", "alone tail", "wait", "together now"]
)
def test_hands_refuse_what_they_do_not_understand(arm: Emulator, order: str) -> None:
    with pytest.raises(RobotError, match="hands do not understand"):
        Hands(arm).do(order)
    with pytest.raises(RobotError, match="no joint 'tail'"):
        Hands(arm).do("hold tail=1")


def test_hands_move_joints(arm: Emulator) -> None:
    Hands(arm).run(["# a comment", "", "hold elbow_flex=0.5 # half", "wait 0.01"])
    arm.advance(0.3)
    assert arm.angles()["elbow_flex"] == pytest.approx(0.5, abs=0.01)
    person = Person(arm)
    assert person.ask("Anything else") == ""


def test_emulate_takes_hands_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = tmp_path / "hands"
    orders.write_text("hold elbow_flex=0.5\njump\n")
    assert main(["robot", "emulate", "so101", "--seconds", "0.5", "--hands", str(orders)]) == 0
    assert "the hands stop: hands do not understand 'jump'" in capsys.readouterr().err
    words = ("emulate", "so101", "--model", "pybullet", "--hands", str(orders))
    assert "leave --model pybullet out" in complaint(capsys, *words)
