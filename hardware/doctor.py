"""What is wrong with an arm, in plain words, and what to do about it: judges what ``arm_report`` has read. No I/O.

What this does not find: what no register tells. Play in the gears needs a hand on the joint (``hardware/play.py``), and
two servos with one id are noticed only by answers that do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hardware.arm_report import ArmReport, ServoReport
from hardware.finding import Finding, problem, remark
from hardware.port_advice import port_findings
from hardware.rig import Rig
from hardware.servo.bus import Reading

_MULTI_TURN_PHASE = 0x10
_WARM_DEGC = 55
_HOT_MARGIN_DEGC = 10
_LOST_SHARE = 0.05  # of the answers; a busy computer may miss one
_SEVEN_VOLT_MOST = 9.0  # V: above this, an STS3215 of the 7.4 V type is destroyed
_FIVE_VOLT_MOST = 5.6
_APART_V = 1.0
_PLAY_COUNTS = 8  # outside the calibrated range by no more than this is rounding
_FAULT_REMEDIES = {
    "voltage": "Check the power supply and its plug",
    "overheat": "Switch it off and let it cool for 20 minutes",
    "overload": "Take the load off and release the arm (a Dynamixel must then be switched off and on)",
    "overcurrent": "Free what blocks the joint, then switch the arm off and on",
    "encoder": "Switch it off and on; if it comes back, the servo is broken",
    "electrical": "Switch it off; the servo or its wiring has a short circuit",
}


def diagnose(rig: Rig, report: ArmReport) -> list[Finding]:
    """Everything noticed, problems first."""
    found = [*port_findings(rig, report.port), *_arm(rig, report)]
    for servo in report.servos:
        found += _servo(rig, report, servo)
    return sorted(found, key=lambda finding: finding.kind != "problem")


# ---- the arm as a whole


def _arm(rig: Rig, report: ArmReport) -> Iterator[Finding]:
    if not report.servos:
        return
    heard = [servo for servo in report.servos if servo.identity is not None]
    if not heard and not any(servo.damaged for servo in report.servos):
        yield problem(
            "arm",
            f"no servo answers at {rig.bus.baud} baud",
            "Is its power supply on, and the cable to the first motor in? Look at other rates: embodied robot find --port "
            f"{report.port.url}",
        )
    if rig.uncalibrated:
        yield problem(
            "arm", f"not calibrated: {', '.join(rig.uncalibrated)}", f"Run: embodied robot calibrate {rig.name}"
        )
    yield from _firmwares(heard)
    yield from _volts_apart(heard)


def _firmwares(heard: Sequence[ServoReport]) -> Iterator[Finding]:
    by_model: dict[str, dict[str, list[str]]] = {}
    for servo in heard:
        if servo.identity is not None and servo.model is not None:
            by_model.setdefault(servo.model.name, {}).setdefault(servo.identity.firmware, []).append(servo.joint)
    for name, versions in by_model.items():
        if len(versions) > 1:
            told = "; ".join(f"{version}: {', '.join(joints)}" for version, joints in sorted(versions.items()))
            yield remark("arm", f"the {name} have different firmware ({told})", "Update them with the maker's program")


def _volts_apart(heard: Sequence[ServoReport]) -> Iterator[Finding]:
    volts = [(s.reading.voltage, s.joint, s.model.name) for s in heard if s.reading is not None and s.model is not None]
    for name in sorted({model for _, _, model in volts}):
        mine = sorted(v for v in volts if v[2] == name)
        if mine[-1][0] - mine[0][0] > _APART_V:
            yield problem(
                mine[0][1],
                f"{mine[0][0]:.1f} V arrive here, {mine[-1][0]:.1f} V at {mine[-1][1]}",
                "A plug or wire in between is bad: press the plugs in, or change the cable",
            )


# ---- one servo


def _servo(rig: Rig, report: ArmReport, servo: ServoReport) -> Iterator[Finding]:
    joint = rig.joints[servo.joint]
    if servo.identity is None:
        if servo.damaged:
            yield _twins(servo)
        elif any(other.identity is not None for other in report.servos):
            yield problem(
                servo.joint,
                f"no servo answers to id {servo.id}",
                "Check its cable; if it has another id, set it up: "
                f"embodied robot setup {rig.name} --only {servo.joint}",
            )
        return
    if servo.identity.model_number != joint.model.number:
        what = servo.model.name if servo.model is not None else f"of unknown model {servo.identity.model_number}"
        yield problem(
            servo.joint, f"the servo with id {servo.id} is {what}, the rig says {joint.servo}",
            "Is this the right rig file, and are the motors in their places?",
        )  # fmt: skip
        return
    yield from _line(servo)
    if not servo.registers:
        return
    yield from _calibration(rig, servo)
    yield from _registers(rig, servo)
    if servo.reading is not None:
        yield from _condition(rig, servo, servo.reading)


def _twins(servo: ServoReport) -> Finding:
    return problem(
        servo.joint,
        f"answers of id {servo.id} are damaged: two servos with this id, or a bad line",
        f"Unplug the chain behind each motor in turn; then give each its own id: embodied robot setup --only {servo.joint}",
    )


def _line(servo: ServoReport) -> Iterator[Finding]:
    lost = servo.asked - servo.answered
    if servo.damaged and lost > 0.3 * servo.asked:
        yield _twins(servo)
    elif lost > _LOST_SHARE * servo.asked:
        yield problem(
            servo.joint, f"{lost} of {servo.asked} answers were lost",
            "Press its plugs in, change the cable to it, keep it away from motors and power supplies",
        )  # fmt: skip


def _calibration(rig: Rig, servo: ServoReport) -> Iterator[Finding]:
    get, c = servo.registers.get, rig.joints[servo.joint].calibration
    if c is None:
        return
    offset = get("homing_offset")
    if c.homing_offset is not None and offset != c.homing_offset:
        yield problem(
            servo.joint,
            f"it holds homing offset {offset}, the calibration was made with {c.homing_offset}",
            f"The servo was reset or changed, or this is another arm; calibrate again: embodied robot calibrate {rig.name}",
        )
        return
    limits = get("min_position"), get("max_position")
    if rig.role == "follower" and limits != (c.min, c.max) and limits[0] != limits[1]:
        yield remark(
            servo.joint, f"its own limits are {limits[0]} to {limits[1]}, the calibration's {c.min} to {c.max}",
            "They are written when the arm is opened",
        )  # fmt: skip
    count = get("present_position")
    if count is not None and not c.min - _PLAY_COUNTS <= count <= c.max + _PLAY_COUNTS:
        yield problem(
            servo.joint,
            f"it stands at count {count}, outside its range {c.min} to {c.max}",
            "Move it inside by hand; if it cannot get there, its horn has slipped: calibrate again",
        )


def _registers(rig: Rig, servo: ServoReport) -> Iterator[Finding]:
    joint, get = rig.joints[servo.joint], servo.registers.get
    delay = get("return_delay") or 0
    if delay:
        yield remark(
            servo.joint,
            f"it waits {delay * 2} microseconds before each answer (return delay {delay})",
            f"Set it to 0: embodied robot setup {rig.name} --together",
        )
    other = [
        f"{name} is {get(name)}, not {value}"
        for name, value in joint.settings.items()
        if name != "return_delay" and get(name) not in (None, value)
    ]
    if other:
        yield remark(
            servo.joint,
            f"settings differ from the rig's: {', '.join(other)}",
            "They are written when the arm is opened",
        )
    if joint.model.protocol != "feetech":
        yield from _old_firmware(servo)
        return
    if (get("phase") or 0) & _MULTI_TURN_PHASE or get("min_position") == get("max_position"):
        yield problem(
            servo.joint, "it counts several turns, so its position is not sure after power-on",
            f"Calibrate again, which switches that off: embodied robot calibrate {rig.name}",
        )  # fmt: skip
    if get("lock") == 0:
        yield remark(servo.joint, "its EEPROM is not locked; another program left it so")
    if get("status_return_level") == 0:
        yield remark(servo.joint, "it does not acknowledge what is written",
                      f"Set that: embodied robot setup {rig.name} --together")  # fmt: skip


def _old_firmware(servo: ServoReport) -> Iterator[Finding]:
    oldest = servo.model.fast_read_firmware if servo.model is not None else None
    if oldest is not None and servo.identity is not None and int(servo.identity.firmware) < oldest:
        yield remark(
            servo.joint, f"firmware {servo.identity.firmware} does not know fast reads ({oldest} does)",
            "Update it with the maker's program",
        )  # fmt: skip


def _condition(rig: Rig, servo: ServoReport, reading: Reading) -> Iterator[Finding]:
    get = servo.registers.get
    if get("torque_enable"):
        yield problem(
            servo.joint, "its torque is on, though no program holds the port",
            f"A program ended without letting go. Support the arm and run: embodied robot release {rig.name}",
        )  # fmt: skip
    for word in reading.faults:
        yield problem(servo.joint, f"it reports {word}", _FAULT_REMEDIES.get(word, "Switch the arm off and on"))
    hottest = get("max_temperature") or 70
    if reading.temperature >= hottest - _HOT_MARGIN_DEGC:
        yield problem(
            servo.joint, f"{reading.temperature:.0f} degrees Celsius; it switches off at {hottest}",
            "Release the arm and let it cool; is something in the joint's way?",
        )  # fmt: skip
    elif reading.temperature >= _WARM_DEGC:
        yield remark(servo.joint, f"warm: {reading.temperature:.0f} degrees Celsius")
    yield from _voltage(rig, servo, reading.voltage)


def _voltage(rig: Rig, servo: ServoReport, volts: float) -> Iterator[Finding]:
    low, high = (servo.registers.get(name) for name in ("min_voltage", "max_voltage"))
    if low is not None and volts < low / 10 + 0.2:
        yield problem(
            servo.joint, f"{volts:.1f} V is too little; it works from {low / 10:.1f} V",
            "The power supply is off, too weak, or the wrong one",
        )  # fmt: skip
    elif high is not None and volts > high / 10:
        yield problem(
            servo.joint, f"{volts:.1f} V is too much; it allows {high / 10:.1f} V",
            "Switch it off at once and use the right power supply",
        )  # fmt: skip
    elif rig.joints[servo.joint].servo != "sts3215":
        return
    elif rig.role == "leader" and volts > _SEVEN_VOLT_MOST:
        yield problem(
            servo.joint, f"{volts:.1f} V at a leader arm, whose motors are of the 7.4 V type",
            "Switch it off at once; use the 5 V supply",
        )  # fmt: skip
    elif servo.id == min(joint.id for joint in rig.joints.values()):  # once for the arm
        yield from _which_type(volts)


def _which_type(volts: float) -> Iterator[Finding]:
    if volts > _SEVEN_VOLT_MOST:
        yield remark(
            "arm", f"{volts:.1f} V: right for the 12 V type of the STS3215 only",
            "The 7.4 V type (C001, C044, C046 on its label) reports the same model and is destroyed by it: look",
        )  # fmt: skip
    elif volts <= _FIVE_VOLT_MOST:
        yield remark(
            "arm", f"{volts:.1f} V: right for the 7.4 V type of the STS3215, with about two thirds of its torque",
            "The 12 V type (C018) hardly moves at this voltage",
        )  # fmt: skip
