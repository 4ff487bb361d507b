"""One control cycle on a 1 Mbps servo bus: all telemetry of six servos and a goal for each, against the wire's own limit.

    python benchmarks/bus_cycle.py
    python benchmarks/bus_cycle.py --lerobot PATH/bin/python      and LeRobot's classes on the same servos

The servos live in a process of their own, on an emulated wire on which every byte takes ten bits. The limit is the time of
the bytes alone, both ways. LeRobot reads the same quantities, as its interface gives them: one register at a time, both
through one servo process after the other in the same run. The figure is the median of all cycles; the median of the best
round stands beside it, which is nearer to what the code itself needs when the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hardware import handshake
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.rig import load_rig
from hardware.servo import dynamixel, feetech
from hardware.servo.bus import Bus

ROUNDS, CYCLES = 7, 150
BYTE_S = 1e-5
#: What LeRobot calls the quantities that are in our one block.
READS = {
    "so101": (
        "Present_Position", "Present_Velocity", "Present_Load", "Present_Voltage", "Present_Temperature", "Status",
        "Present_Current",
    ),
    "koch": ("Present_Current", "Present_Velocity", "Present_Position", "Present_Input_Voltage", "Present_Temperature"),
}  # fmt: skip
SIZES = {
    "so101": {"Present_Position": 2, "Present_Velocity": 2, "Present_Load": 2, "Present_Current": 2},
    "koch": {"Present_Current": 2, "Present_Velocity": 4, "Present_Position": 4, "Present_Input_Voltage": 2},
}

_LEROBOT = """
import json, sys, time
from lerobot.motors import Motor, MotorNormMode
arm, port, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
if arm == "so101":
    from lerobot.motors.feetech import FeetechMotorsBus as Bus
    models = ["sts3215"] * 6
else:
    from lerobot.motors.dynamixel import DynamixelMotorsBus as Bus
    models = ["xl430-w250"] * 2 + ["xl330-m288"] * 4
bus = Bus(port, {f"m{k}": Motor(k, model, MotorNormMode.RANGE_M100_100) for k, model in enumerate(models, 1)})
bus.connect()
goals = bus.sync_read("Present_Position", normalize=False, num_retry=5)
rounds, failed = [], 0
for _ in range(int(sys.argv[4])):
    times = []
    while len(times) < int(sys.argv[5]):
        began = time.perf_counter()
        try:
            for name in names:
                bus.sync_read(name, normalize=False)
            bus.sync_write("Goal_Position", goals, normalize=False)
        except ConnectionError:
            failed += 1
            bus.port_handler.ser.reset_input_buffer()
            if failed > 1000:
                raise
            continue
        times.append(time.perf_counter() - began)
    rounds.append(times)
print(json.dumps({"rounds": rounds, "failed": failed}), flush=True)
"""


@dataclass(frozen=True)
class Result:
    """One way to do the cycle, and how long its cycles took (s), a list per round."""

    name: str
    bytes_out: int
    bytes_in: int
    rounds: list[list[float]]

    @property
    def wire_s(self) -> float:
        """The time of its bytes alone."""
        return (self.bytes_out + self.bytes_in) * BYTE_S

    @property
    def median(self) -> float:
        """Of all cycles."""
        return statistics.median(t for times in self.rounds for t in times)

    @property
    def best(self) -> float:
        """The median of the best round."""
        return min(statistics.median(times) for times in self.rounds)

    @property
    def p99(self) -> float:
        """Of all cycles."""
        times = sorted(t for times in self.rounds for t in times)
        return times[int(0.99 * len(times))]


def serve(arm: str) -> None:
    """Emulate until standard input ends."""
    with Emulator(arm) as servos:
        print(servos.port, flush=True)
        sys.stdin.read()


@contextmanager
def emulated(arm: str) -> Iterator[str]:
    """The port of an arm's servos in a process of their own."""
    command = [sys.executable, __file__, "--servos", arm]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servos:
        if servos.stdin is None or servos.stdout is None:
            raise SystemExit("no pipes to the servos")
        try:
            yield servos.stdout.readline().strip()
        finally:
            servos.stdin.close()


def ours(arm: str) -> Result:
    """This project's driver, as its loop uses it: the goals and the question for one block of telemetry in one go."""
    with emulated(arm) as port:
        rig = nominal(load_rig(arm), port)
        with Bus.open(port, {joint.id: joint.model for joint in rig.joints.values()}) as bus:
            handshake.configure(bus, rig, handshake.identify(bus, rig))
            goals = {id_: reading.position for id_, reading in bus.telemetry().items()}
            rounds = [_our_cycles(bus, goals, CYCLES) for _ in range(ROUNDS)]
            size, ids = rig.joints["gripper"].model.telemetry[1], list(goals)
            if bus.protocol == "feetech":
                read = feetech.encode(feetech.sync_read(56, size, ids))
                write = feetech.encode(feetech.sync_write(42, {id_: bytes(2) for id_ in ids}))
                return Result("this project", len(read) + len(write), 6 * (size + 6), rounds)
            read = dynamixel.encode(dynamixel.sync_read(126, size, ids, fast=bus.fast))
            write = dynamixel.encode(dynamixel.sync_write(116, {id_: bytes(4) for id_ in ids}))
            back = 8 + 6 * (size + 4) if bus.fast else 6 * (size + 11)
            return Result("this project", len(read) + len(write), back, rounds)


def _our_cycles(bus: Bus, goals: dict[int, int], count: int) -> list[float]:
    times: list[float] = []
    while len(times) < count:
        began = time.perf_counter()
        if len(bus.telemetry(goals=goals)) == len(goals):
            times.append(time.perf_counter() - began)
    return times


def theirs(arm: str, python: str) -> Result:
    """LeRobot's bus classes in their own process: one sync read per quantity, one write."""
    with emulated(arm) as port:
        command = [python, "-c", _LEROBOT, arm, port, ",".join(READS[arm]), str(ROUNDS), str(CYCLES)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit("LeRobot's process failed; its errors stand above")
        told = json.loads(done.stdout.splitlines()[-1])
    if told["failed"]:
        print(f"LeRobot: {told['failed']} cycles failed and were done again")
    sizes = [SIZES[arm].get(name, 1) for name in READS[arm]]
    if arm == "so101":
        return Result("LeRobot 0.4.4", 14 * len(sizes) + 26, sum(6 * (size + 6) for size in sizes), told["rounds"])
    return Result("LeRobot 0.4.4", 20 * len(sizes) + 44, sum(6 * (size + 11) for size in sizes), told["rounds"])


def measure(arm: str, lerobot: str) -> None:
    """Measure one arm's servos and print a table."""
    results = [ours(arm), *([theirs(arm, lerobot)] if lerobot else [])]
    print(f"\n{arm}: six servos, 1 Mbps, {ROUNDS} rounds of {CYCLES} cycles; load average {os.getloadavg()[0]:.1f}")
    print(
        f"{'':16} {'bytes':>9} {'wire':>8} {'median':>8} {'best round':>11} {'p99':>8} {'median/wire':>12} {'best/wire':>10}"
    )
    for each in results:
        print(
            f"{each.name:16} {each.bytes_out:4}+{each.bytes_in:<4} {1e3 * each.wire_s:5.2f} ms {1e3 * each.median:5.2f} ms "
            f"{1e3 * each.best:8.2f} ms {1e3 * each.p99:5.2f} ms {each.median / each.wire_s:11.2f}x "
            f"{each.best / each.wire_s:9.2f}x"
        )
    if len(results) > 1:
        print(f"LeRobot needs {results[1].median / results[0].median:.1f} times as long for the same quantities")
    else:
        print(
            "LeRobot was not measured: install it in an environment of its own and name that with --lerobot or in "
            "EMBODIED_LEROBOT"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("so101", "koch", "both"), default="both")
    parser.add_argument(
        "--lerobot", default=os.environ.get("EMBODIED_LEROBOT", ""), help="interpreter, or its environment"
    )
    parser.add_argument("--servos", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.servos:
        serve(options.servos)
        return
    lerobot = os.path.join(options.lerobot, "bin/python") if os.path.isdir(options.lerobot) else options.lerobot
    if lerobot and not os.access(lerobot, os.X_OK):
        parser.error(
            f"--lerobot {options.lerobot}: there is no interpreter; name a virtual environment with LeRobot in it"
        )
    for arm in ("so101", "koch") if options.arm == "both" else (options.arm,):
        measure(arm, lerobot)


if __name__ == "__main__":
    main()
