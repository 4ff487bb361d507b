"""An STS3215 on the wire: its instructions, its position loop and its overload rule.

Where the maker's documents are silent the emulator takes the reading that is worse for the host: a goal register that is
0 after power-on, silence to what it does not understand, goals beyond the limits clipped without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hardware.emulator.servo import MIDDLE, TICKS_PER_RAD, Answer, EmulatedServo
from hardware.servo import feetech
from hardware.servo.feetech import BROADCAST, Error, Instruction
from hardware.servo.packet import Packet

_VOLTAGE, _OVERHEAT = int(Error.VOLTAGE), int(Error.OVERHEAT)
_OVERCURRENT, _OVERLOAD = int(Error.OVERCURRENT), int(Error.OVERLOAD)
#: Duty per radian for P = 1: one thousandth of full duty per count of error.
STIFFNESS = 1e-3 * TICKS_PER_RAD
#: Duty per rad/s for D = 1: with P = 16 and D = 32 a joint of 0.03 kg m² is critically damped.
_DAMPING = 0.6 / 32


class FeetechServo(EmulatedServo):
    """One STS3215."""

    def _configure(self) -> None:
        get = self.registers.get
        low, high = get("min_position"), get("max_position")
        self._endless = (low == 0 and high == 0) or bool(get("phase") & 0x10)
        self._low, self._high = (-32767, 32767) if self._endless else (low, max(high, low))
        self._offset = get("homing_offset")
        self._mode = get("operating_mode")
        self._goal = get("goal_position")
        self._speed = float(get("goal_velocity"))
        self._acceleration = 100.0 * get("acceleration")
        self._answers_all = get("status_return_level") == 1
        self._torque_limit = get("torque_limit") / 1000
        self._integral = get("position_i") * 1e-3
        self._dead_zones = get("cw_dead_zone"), get("ccw_dead_zone")
        self._unload = get("unload_condition") & ~_OVERLOAD
        self._protective = get("protective_torque") / 100
        self._overload_at = get("overload_torque") / 100 - 1e-9, get("protection_time") / 100
        self._overcurrent_at = get("protection_current") * 6.5e-3, get("overcurrent_time") / 100
        drive = self.drive
        drive.stiffness = get("position_p") * STIFFNESS
        drive.damping = get("position_d") * _DAMPING
        drive.start_duty = get("min_start_force") / 1000

    def _start(self) -> None:
        self._turns = 0.0
        self._status = 0
        self._step_to: float | None = None  # step mode: where the steps told so far lead
        self._overload_s = self._overcurrent_s = 0.0
        self.registers.put("torque_limit", self.registers.get("max_torque"))
        super()._start()

    def position(self) -> float:
        count = self._raw() - self._offset
        return count - self._turns if self._endless else count % self.model.resolution

    def _rest(self) -> None:
        self._status &= ~(_OVERLOAD | _OVERCURRENT)
        self._overload_s = self._overcurrent_s = 0.0
        self._step_to = None

    def _steer(self, dt: float) -> None:
        drive = self.drive
        drive.limit = self._torque_limit
        if self._status & _OVERLOAD:
            drive.limit = min(drive.limit, self._protective)
        if self._torque == 2 or self._unload & self._status:
            drive.mode = "brake" if self._torque == 2 else "free"
            self._set, self._set_speed = self.position(), 0.0
        elif self._mode == 2:
            drive.mode, drive.duty = "duty", self.registers.get("goal_time") / 1000
        else:
            if self._mode == 1:
                self._run(self._speed, self._acceleration, dt)
            else:
                goal = float(self._goal)
                if self._mode == 3:
                    goal = self._set if self._step_to is None else self._step_to
                self._follow(max(self._low, min(self._high, goal)), abs(self._speed), self._acceleration, dt)
            self._hold_set_point()
            drive.dead_rad = self._dead_zones[drive.error_rad > 0] / TICKS_PER_RAD
            if self._integral:
                drive.bias += self._integral * drive.error_rad * TICKS_PER_RAD * dt
                drive.bias = max(-drive.limit, min(drive.limit, drive.bias))
            else:
                drive.bias = 0.0

    def _protect(self, dt: float) -> None:
        status = self._status & (_OVERLOAD | _OVERCURRENT)  # these two latch until the torque goes off
        if self._was_on:
            heavy, patience = self._overload_at
            self._overload_s = self._overload_s + dt if abs(self.shaft.duty) >= heavy else 0.0
            if self._overload_s > patience:
                status |= _OVERLOAD
            strong, patience = self._overcurrent_at
            self._overcurrent_s = self._overcurrent_s + dt if abs(self.winding.amperes) >= strong else 0.0
            if self._overcurrent_s > patience:
                status |= _OVERCURRENT
        if not self._voltages[0] <= self.supply.present <= self._voltages[1]:
            status |= _VOLTAGE
        if self.winding.degc > self._hottest:
            status |= _OVERHEAT
        self._status = status

    def refresh(self) -> None:
        put, shaft, way = self.registers.put, self.shaft, self._direction
        position = round(self.position())
        put("present_position", position if self._endless else position % self.model.resolution)
        put("present_velocity", round(self._count_speed()))
        put("present_load", round(1000 * shaft.duty * way))
        put("present_voltage", round(10 * self.supply.present))
        put("present_temperature", round(self.winding.degc))
        put("registered_write", int(self._pending is not None))
        put("hardware_error", self._status)
        put("moving", int(self._moving()))
        put("goal_readback", self._goal)
        put("present_current", round(self.winding.amperes * way / 6.5e-3))

    # Instructions ----------------------------------------------------------------------------------------------------

    def respond(self, packet: Packet) -> Answer | None:
        act = _INSTRUCTIONS.get(packet.code)
        return None if act is None else act(self, packet)

    def _answer(self, params: bytes = b"", order: int = 0) -> Answer:
        return Answer(self, self.id, self._status, params, order)

    def _acknowledge(self, packet: Packet) -> Answer | None:
        return self._answer() if self._answers_all and packet.id != BROADCAST else None

    def _ping(self, packet: Packet) -> Answer | None:
        return self._answer(order=self.id if packet.id == BROADCAST else 0)

    def _read(self, packet: Packet) -> Answer | None:
        if packet.id == BROADCAST or len(packet.params) != 2 or not 0 < packet.params[1] <= feetech.MAX_PARAMS:
            return None
        return self._answer(self.registers.read(*packet.params))

    def _sync_read(self, packet: Packet) -> Answer | None:
        ask = feetech.parse_sync_read(packet.params)
        if packet.id != BROADCAST or ask is None or self.id not in ask.ids or ask.size > feetech.MAX_PARAMS:
            return None
        return self._answer(self.registers.read(ask.address, ask.size), ask.ids.index(self.id))

    def _write(self, packet: Packet) -> Answer | None:
        if len(packet.params) < 2:
            return None
        answer = self._acknowledge(packet)  # with the old id: the new one is valid from the next packet on
        self._put(packet.params[0], packet.params[1:])
        return answer

    def _sync_write(self, packet: Packet) -> Answer | None:
        order = feetech.parse_sync_write(packet.params)
        if order is not None and self.id in order.data:
            self._put(order.address, order.data[self.id])
        return None

    def _reg_write(self, packet: Packet) -> Answer | None:
        if len(packet.params) < 2:
            return None
        self._pending = (packet.params[0], packet.params[1:])
        return self._acknowledge(packet)

    def _action(self, packet: Packet) -> Answer | None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._put(*pending)
        return self._acknowledge(packet)

    def _recover(self, packet: Packet) -> Answer | None:
        answer = self._acknowledge(packet)
        self.reset(("id",))
        return answer

    def _reboot(self, packet: Packet) -> Answer | None:
        self.restart()
        return None

    def _reset_turns(self, packet: Packet) -> Answer | None:
        count = self._raw() - self._offset
        self._turns = math.floor(count / self.model.resolution) * self.model.resolution
        return self._acknowledge(packet)

    def _calibrate(self, packet: Packet) -> Answer | None:
        here = int.from_bytes(packet.params[:2], "little") if len(packet.params) >= 2 else MIDDLE
        self._make_here(here)
        return self._acknowledge(packet)

    def _make_here(self, count: int) -> None:
        """Choose the homing offset so that the present position reads ``count``; ±2047 is all the register holds."""
        raw = round(self._raw()) % self.model.resolution
        offset = (raw - count + 2048) % self.model.resolution - 2048
        self.registers.save("homing_offset", max(-2047, offset))
        self._reconfigure()
        self._set, self._set_speed = self.position(), 0.0

    def _put(self, address: int, data: bytes) -> None:
        if self._frozen:
            return
        torque = self.registers.get("torque_enable")
        names = self.registers.write_feetech(address, data, bool(self.registers.get("lock")))
        if "torque_enable" in names and self.registers.get("torque_enable") == 128:
            self.registers.put("torque_enable", torque)
            self._make_here(MIDDLE)
        self._reconfigure()
        if "goal_position" in names and self._mode == 3:
            self._step_to = (self._set if self._step_to is None else self._step_to) + self._goal


_INSTRUCTIONS: dict[int, Callable[[FeetechServo, Packet], Answer | None]] = {
    Instruction.PING: FeetechServo._ping,
    Instruction.READ: FeetechServo._read,
    Instruction.WRITE: FeetechServo._write,
    Instruction.REG_WRITE: FeetechServo._reg_write,
    Instruction.ACTION: FeetechServo._action,
    Instruction.RECOVERY: FeetechServo._recover,
    Instruction.REBOOT: FeetechServo._reboot,
    Instruction.RESET_TURNS: FeetechServo._reset_turns,
    Instruction.CALIBRATE: FeetechServo._calibrate,
    Instruction.SYNC_READ: FeetechServo._sync_read,
    Instruction.SYNC_WRITE: FeetechServo._sync_write,
}
