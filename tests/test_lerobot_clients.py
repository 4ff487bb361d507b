"""LeRobot 0.4.4's own arm classes as clients of the emulator: connect, calibrate, read, move.

They run in the environment that ``lerobot_environment`` makes, in a process of their own, on the emulator's port. The test
is the user: it reads the prompts, moves the arm by hand and presses Enter. The classes are unmodified, but for the patience
of the SDKs below them.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_environment import lerobot  # noqa: F401 (a fixture)

from hardware.emulator.emulator import Emulator, Pace

pytestmark = pytest.mark.slow

_CLIENT = """
import importlib, json, sys, time
from pathlib import Path

module, name, port, folder = sys.argv[1:]
device_class = getattr(importlib.import_module(module), name)
config_class = getattr(importlib.import_module(module), name + "Config")

def tell(**what):
    print("\\n#" + json.dumps(what), flush=True)

def read(device):
    seen = device.get_observation() if hasattr(device, "get_observation") else device.get_action()
    return {key.removesuffix(".pos"): float(value) for key, value in seen.items()}

def make():
    device = device_class(config_class(port=port, id="test", calibration_dir=Path(folder)))
    handler = device.bus.port_handler
    # The only change: its SDKs give up after 34 or 50 ms, which a busy machine does not always keep.
    handler.isPacketTimeout = lambda: handler.getTimeSinceStart() > handler.packet_timeout + 1000.0
    device.connect()
    return device

device = make()
tell(calibrated=device.is_calibrated, seen=read(device))
for line in sys.stdin:
    command = json.loads(line)
    if command == "read":
        tell(seen=read(device))
    elif command == "again":  # as a later program would: no question is asked any more
        device.disconnect()
        device = make()
        tell(calibrated=device.is_calibrated, seen=read(device))
    elif command == "limp":
        device.bus.disable_torque()
        tell(limp=True)
    elif command == "stiff":
        device.bus.enable_torque()
        tell(limp=False)
    elif command == "end":
        device.disconnect()
        tell(connected=device.is_connected)
        break
    else:
        sent = device.send_action({joint + ".pos": value for joint, value in command.items()})
        tell(sent={key.removesuffix(".pos"): float(value) for key, value in sent.items()})
"""
_CLASSES = {
    "so101": ("lerobot.robots.so_follower", "SO101Follower"),
    "so101_leader": ("lerobot.teleoperators.so_leader", "SO101Leader"),
    "koch": ("lerobot.robots.koch_follower", "KochFollower"),
    "koch_leader": ("lerobot.teleoperators.koch_leader", "KochLeader"),
}
#: Where the user holds the joints as their middle, and how far to both sides they are swept, rad.
_MIDDLE, _JAW_MIDDLE, _SWING = 0.2, 0.7, 0.5


class Client:
    """LeRobot's process, and the user in front of it."""

    def __init__(self, process: subprocess.Popen[bytes], servos: Emulator) -> None:
        self.process, self.servos = process, servos
        self._text = ""
        self._new = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def end(self) -> None:
        """Kill it, and read to the end what it said."""
        self.process.kill()
        self._listener.join(60.0)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self._new:
                self._text = (self._text + data.decode(errors="replace"))[-200_000:]
                self._new.notify_all()
        self.process.wait()
        with self._new:  # whoever waits for a word of it has waited long enough
            self._new.notify_all()

    def expect(self, words: str, timeout_s: float = 300.0) -> str:
        """Wait until it has said ``words``; returns what follows on that line and forgets everything before."""

        def there() -> bool:
            found = self._text.find(words)
            return (found >= 0 and ("#" not in words or "\n" in self._text[found:])) or self.process.poll() is not None

        with self._new:
            self._new.wait_for(there, timeout_s)
            found = self._text.find(words)
            assert found >= 0, f"LeRobot never said {words!r}: {self._text[-3000:]}"
            rest = self._text[found + len(words) :]
            self._text = rest.partition("\n")[2] if "#" in words else rest
            return rest.partition("\n")[0]

    def told(self) -> dict[str, Any]:
        """The next thing that the script itself says."""
        answer: dict[str, Any] = json.loads("{" + self.expect("#{"))
        return answer

    def enter(self, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def ask(self, command: Any) -> dict[str, Any]:
        self.enter(json.dumps(command))
        return self.told()

    def calibrate(self) -> None:
        """What LeRobot's guide tells the user to do."""
        self.hold(0.0)
        self.expect("to the middle of its range of motion and press ENTER")
        time.sleep(0.5)
        self.enter()
        self.expect("Press ENTER to stop")
        for way in (-_SWING, _SWING, 0.0):
            self.hold(way)
            time.sleep(1.0)
        self.enter()

    def hold(self, way: float) -> None:
        """The user's hands hold every joint so far (rad) from its middle."""
        middles = {joint: _JAW_MIDDLE if joint == "gripper" else _MIDDLE for joint in self.servos.servos}
        self.servos.hold({joint: middle + way for joint, middle in middles.items()})


@contextmanager
def _client(python: Path, rig: str, folder: Path) -> Iterator[Client]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONUNBUFFERED": "1"}
    with Emulator(rig, pace=Pace(wire=False)) as servos:
        command = [str(python), "-c", _CLIENT, *_CLASSES[rig], servos.port, str(folder)]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            client = Client(process, servos)
            try:
                yield client
            finally:
                client.end()


def _degrees(way: float) -> float:
    """LeRobot counts degrees from the middle of the range, and 4095 counts a turn."""
    return float(np.degrees(way)) * 4096 / 4095


@pytest.mark.parametrize("rig", _CLASSES)
def test_lerobot_connects_calibrates_reads_and_moves(lerobot: Path, rig: str, tmp_path: Path) -> None:  # noqa: F811
    with _client(lerobot, rig, tmp_path) as client:
        servos = client.servos
        client.calibrate()
        told = client.told()
        assert told["calibrated"] is True
        assert json.loads((tmp_path / "test.json").read_text()).keys() == servos.servos.keys()
        for joint, calibration in json.loads((tmp_path / "test.json").read_text()).items():
            swept = joint not in (("wrist_roll",) if "so101" in rig else ("shoulder_pan", "wrist_roll"))
            wide = calibration["range_max"] - calibration["range_min"]
            assert wide == pytest.approx(2 * _SWING * 4096 / (2 * np.pi), abs=6) if swept else wide == 4095, joint
            held = servos.servos[joint].registers
            assert held.get("homing_offset") == calibration["homing_offset"]
            assert (held.get("min_position"), held.get("max_position")) == (
                calibration["range_min"], calibration["range_max"],
            )  # fmt: skip
        _reads(client, rig)
        if "leader" not in rig:
            _moves(client, rig)
        again = client.ask("again")
        assert again["calibrated"] is True
        assert client.ask("end")["connected"] is False
        assert not any(servo.registers.get("torque_enable") for servo in servos.servos.values())


def _reads(client: Client, rig: str) -> None:
    """What a hand does with the arm is what LeRobot sees, in its own units."""
    joints = list(client.servos.servos)
    # A hand that holds driven joints for more than two seconds is an overload, and on a busy machine it may take that long.
    assert client.ask("limp")["limp"]
    for way in (-0.3, 0.2):
        client.hold(way)
        time.sleep(0.6)
        seen = client.ask("read")["seen"]
        for joint in joints[:5]:
            if "so101" in rig:
                expected = _degrees(way)
            elif joint in ("shoulder_pan", "wrist_roll"):
                expected = 100 * way / np.pi
            else:
                expected = 100 * way / _SWING
            inverted = rig == "koch_leader" and joint == "elbow_flex"
            assert seen[joint] == pytest.approx(-expected if inverted else expected, abs=1.0), (joint, seen)
        assert seen["gripper"] == pytest.approx(50 + 50 * way / _SWING, abs=1.5), (way, seen)
    client.servos.let_go()
    if "leader" not in rig:
        assert not client.ask("stiff")["limp"]


def _moves(client: Client, rig: str) -> None:
    """What LeRobot sends is where the shafts go."""
    client.servos.let_go()
    before = client.ask("read")["seen"]
    for way in (-1.0, 1.0):
        target = {joint: value + way * (8.0 if joint == "gripper" else 12.0) for joint, value in before.items()}
        assert client.ask(target)["sent"] == pytest.approx(target)
        deadline = time.monotonic() + 60.0  # the servos' own time goes slowly on a busy machine
        while (seen := client.ask("read")["seen"]) != pytest.approx(target, abs=4.0) and time.monotonic() < deadline:
            time.sleep(0.3)
        assert seen == pytest.approx(target, abs=4.0), (rig, way)
    angles = client.servos.angles()
    assert all(np.isfinite(list(angles.values())))
