"""Soak: the real driver at 100 Hz on emulated servos that damage and lose replies, for as long as asked.

    python benchmarks/soak.py                  30 minutes
    python benchmarks/soak.py --minutes 3
    chrt -f 20 python benchmarks/soak.py       on a machine that does other work too: Linux's real-time priority

The servos live in a process of their own, on a wire with honest byte times; 1 % of their replies are corrupted, 0.5 % are
dropped. Every write of a goal is judged there, at the servo's registers, so the driver cannot hide anything. Commands are
slow waves of all joints with 2 % nonsense among them: NaN, degrees for radians, spikes.

Prints a table and ends with status 1 when a promise is broken: no crash, no goal outside the calibrated range or further
from the joint than the following error and one step allow, p99 of the period at most 1.25 times nominal, no growth of memory
(5 MB), file descriptors or threads.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.emulator.faults import FaultPlan
from hardware.emulator.servo import EmulatedServo
from hardware.errors import RobotError
from hardware.joint_map import JointMap
from hardware.rig import load_rig
from hardware.safety import Limits
from hardware.serial_arm import SerialArm
from hardware.servo.port import PortLost

ARM = "so101"
RATE_HZ = 100.0
FAULTS = "corrupt=0.01,drop=0.005"
WARM_UP_S = 15.0
PERIOD_LIMIT, GROWTH_LIMIT_MB = 1.25, 5.0


# ---- the servos, in a process of their own


def serve(seed: int) -> None:
    """Emulate until standard input ends; then say what was written."""
    rig = nominal(load_rig(ARM))
    joints = JointMap(rig)
    limits = Limits.profile(joints.spec)
    # What a dead driver would leave: the following error, the longest step there is, and a little for the measurement.
    rad = np.broadcast_to(limits.following, 6) + limits.velocity * limits.max_dt_s + 0.02
    counts: Counter[str] = Counter()
    with Emulator(ARM, faults=FaultPlan.parse(FAULTS, seed)) as servos:
        for (joint, servo), lead in zip(servos.servos.items(), joints.max_speed(rad).values(), strict=True):
            calibration = rig.joints[joint].calibration
            if calibration is None:
                raise SystemExit(f"{joint} has no calibration")
            judged = _judged(servo, calibration.min, calibration.max, lead, counts)
            setattr(servo.registers, "write_feetech", judged)  # noqa: B010 (in place of a method)
        print(json.dumps({"port": servos.port}), flush=True)
        sys.stdin.read()
        print(json.dumps({**counts, "faults": dict(servos.injector.counts), "traffic": dict(servos.traffic)}))


def _judged(servo: EmulatedServo, low: int, high: int, lead: float, counts: Counter[str]) -> Callable[..., list[str]]:
    write = servo.registers.write_feetech

    def judged(address: int, data: bytes, locked: bool) -> list[str]:
        names: list[str] = write(address, data, locked)
        if "goal_position" in names:
            goal = servo.registers.get("goal_position")
            counts["goals"] += 1
            counts["outside"] += not low <= goal <= high
            counts["too far"] += servo.torque_on and abs(goal - servo.position()) > lead
        return names

    return judged


# ---- the driver


@dataclass
class Ledger:
    """What happened on the driver's side.

    Room for the periods is taken beforehand, so that what the measurement keeps does not look like a leak.
    """

    room: int = 0
    count: int = 0
    periods: np.ndarray = field(init=False)
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.periods = np.full(self.room, math.nan)

    def period(self, seconds: float) -> None:
        """Keep one more period, while there is room."""
        if self.count < self.room:
            self.periods[self.count] = seconds
            self.count += 1


def drive(arm: SerialArm, seconds: float, rng: np.random.Generator, ledger: Ledger) -> None:
    """Command the arm once per period."""
    spec = arm.spec
    middle = np.append(np.zeros(5), 0.5)
    begun = last = time.monotonic()
    while True:
        now = time.monotonic()
        if now - begun >= seconds:
            return
        ledger.period(now - last)
        last = now
        phase = 2.0 * math.pi * 0.2 * (now - begun) + np.arange(6)
        wanted = spec.clip(middle + np.append(0.25 * np.sin(phase[:5]), 0.3 * np.sin(phase[5])))
        try:
            here = arm.observe().command
            target = here + np.clip(wanted - here, -0.005, 0.005)
            ledger.verdicts[arm.act(_spoiled(target, rng)).verdict] += 1
            if arm.fault is not None:
                ledger.faults[arm.fault] += 1
                arm.reset_fault()
        except PortLost:
            raise
        except RobotError as error:  # nothing fresh to read, for example: said, and the arm holds
            ledger.faults[str(error)] += 1
            if arm.fault is not None:
                arm.reset_fault()
            time.sleep(1.0 / RATE_HZ)


def _spoiled(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(150)
    if kind == 0:
        target[rng.integers(6)] = rng.choice([math.nan, math.inf, -math.inf])
    elif kind == 1:
        target = np.degrees(target) + 40.0
    elif kind == 2:
        target[rng.integers(6)] += rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 20.0)
    return target


def resident_mb() -> float:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--servos", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.servos:
        serve(options.seed)
        return 0
    logging.getLogger("hardware").setLevel(logging.ERROR)  # holds are counted below
    command = [sys.executable, __file__, "--servos", "--seed", str(options.seed)]
    ledger = Ledger(math.ceil(1.05 * 60.0 * options.minutes * RATE_HZ))
    rng = np.random.default_rng(options.seed)
    files = threads = cycles = overruns = 0
    took = before_mb = after_mb = 0.0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servos:
        if servos.stdin is None or servos.stdout is None:
            raise SystemExit("no pipes to the servos")
        port = json.loads(servos.stdout.readline())["port"]
        rig = nominal(load_rig(ARM), port)
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"rate_hz": RATE_HZ})})
        files_before, threads_before = open_files(), threading.active_count()
        crash = left_stiff = ""
        arm = SerialArm.open(rig, control_hz=RATE_HZ)
        try:
            arm.act(arm.read())
            drive(arm, min(WARM_UP_S, 12.0 * options.minutes), rng, Ledger())
            files, threads, before_mb = open_files(), threading.active_count(), resident_mb()
            cycles, overruns, begun = arm.snapshot.cycle, arm.snapshot.overruns, time.monotonic()
            drive(arm, 60.0 * options.minutes, rng, ledger)
            after_mb = resident_mb()
            took = time.monotonic() - begun
            cycles, overruns = arm.snapshot.cycle - cycles, arm.snapshot.overruns - overruns
            files, threads = open_files() - files, threading.active_count() - threads
        except Exception as error:  # whatever it was: that is what this looks for
            crash = repr(error)
        health = arm.health()
        try:
            arm.close()
        except RobotError as error:  # a reply to the last question may be lost as well; it is said, and no crash
            left_stiff = str(error)
        files_after, threads_after = open_files() - files_before, threading.active_count() - threads_before
        servos.stdin.close()
        told = json.loads(servos.stdout.readline())
    if crash:
        print(f"crashed: {crash}")
        return 1
    periods = 1000.0 * ledger.periods[1 : ledger.count]
    p50, p99 = np.percentile(periods, [50, 99])
    nominal_ms = 1000.0 / RATE_HZ
    missed, good = (sum(getattr(h, name) for h in health.values()) for name in ("missed", "good"))
    rows = [
        ("control periods", f"{len(periods)} in {took:.0f} s, {dict(ledger.verdicts)}", True),
        ("bus cycles", f"{cycles / took:.1f} a second, {overruns} began late", True),
        ("replies", f"{good} good, {missed} missed ({missed / max(good + missed, 1):.2%}); injected {told['faults']}", True),
        ("holds and resets", f"{sum(ledger.faults.values())}: {dict(ledger.faults.most_common(3))}", True),
        ("crashes", "0", True),
        ("closing", left_stiff or "all joints limp", True),
        ("goals written", f"{told.get('goals', 0)}", told.get("goals", 0) > 0),
        ("goals outside limits", f"{told.get('outside', 0)}", told.get("outside", 0) == 0),
        ("goals too far from the joint", f"{told.get('too far', 0)}", told.get("too far", 0) == 0),
        ("period p50 / p99 / max", f"{p50:.2f} / {p99:.2f} / {periods.max():.1f} ms", p99 <= PERIOD_LIMIT * nominal_ms),
        ("memory", f"{before_mb:.1f} -> {after_mb:.1f} MB", after_mb - before_mb <= GROWTH_LIMIT_MB),
        ("files, threads gained", f"{files}, {threads}; after closing {files_after}, {threads_after}",
         max(files, threads, files_after, threads_after) <= 0),
    ]  # fmt: skip
    for name, value, kept in rows:
        print(f"{name:28} {value:72} {'' if kept else 'BROKEN'}")
    return 0 if all(kept for _, _, kept in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
