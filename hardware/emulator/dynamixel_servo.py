"""An XL330 or XL430 on the wire: its instructions, its errors, its modes, its shutdown rule and its bus watchdog."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from hardware.emulator.servo import TICKS_PER_RAD, Answer, EmulatedServo
from hardware.servo import dynamixel
from hardware.servo.dynamixel import ALERT, BROADCAST, FACTORY_ALL, FACTORY_KEEP_ID, Instruction, Result
from hardware.servo.packet import Packet

VOLTAGE, OVERHEAT, ENCODER, SHOCK, OVERLOAD = 1 << 0, 1 << 2, 1 << 3, 1 << 4, 1 << 5
_GOALS = ("goal_pwm", "goal_current", "goal_velocity", "goal_position")
_POSITION_MODES = (3, 4, 5)
_TRIPPED = -1
#: Overload, as the e-manual has it: a load beyond what the motor can give, for a while. How long is an estimate.
_OVERLOAD_DUTY, _OVERLOAD_S = 0.95, 1.0


class DynamixelServo(EmulatedServo):
    """One servo of the XL series."""

    boot_s = 0.3

    def _configure(self) -> None:
        get, scale = self.registers.get, self.model
        self._drive_mode = get("drive_mode")
        self._mode = get("operating_mode")
        self._offset = get("homing_offset")
        self._goal = get("goal_position")
        self._level = get("status_return_level")
        self._watchdog = get("bus_watchdog")
        self._velocity = get("goal_velocity") * scale["goal_velocity"].scale * TICKS_PER_RAD
        self._profile = (
            get("profile_velocity") * scale["profile_velocity"].scale * TICKS_PER_RAD,
            get("profile_acceleration") * scale["profile_acceleration"].scale * TICKS_PER_RAD,
        )
        self._integral = get("position_i") / 65536 / 885 * 1000
        self.drive.stiffness = get("position_p") / 128 / 885 * TICKS_PER_RAD
        self.drive.damping = get("position_d") / 16 / 885 * TICKS_PER_RAD / 1000
        self._duty_limit = get("pwm_limit") / 885
        self._shutdown = get("shutdown")
        shadow = get("shadow_id")
        self._shadow = shadow if shadow <= dynamixel.MAX_ID and shadow != self.id else -1
        self._threshold = get("moving_threshold") * scale["moving_threshold"].scale * TICKS_PER_RAD

    def _start(self) -> None:
        self._hardware_error = 0
        self._overload_s = 0.0
        self._heard_s = self.now_s
        self._turns = 0.0
        self._backup: bytes | None = None
        self._timed: tuple[float, float] | None = None
        self._reconfigure()
        self._turns = (
            math.floor(self._raw() / self.model.resolution) * self.model.resolution
        )  # turns are not remembered
        self.registers.put("goal_position", round(self.position()))
        self.registers.put("goal_pwm", self.registers.get("pwm_limit"))
        if "goal_current" in self.model:
            self.registers.put("goal_current", self.registers.get("current_limit"))
        super()._start()

    @property
    def _direction(self) -> float:
        return -1.0 if self._drive_mode & 1 else 1.0

    def _raw(self) -> float:
        count = self._gear * TICKS_PER_RAD + self._jump
        return self._middle + count * self._direction

    def position(self) -> float:
        count = self._raw() - self._turns
        return (count % self.model.resolution if self._mode == 3 else count) + self._offset

    # Time ------------------------------------------------------------------------------------------------------------

    def tick(self, now_s: float, dt: float) -> None:
        super().tick(now_s, dt)
        if self._watchdog > 0 and now_s - self._heard_s > self._watchdog * 0.02:
            self.registers.put("bus_watchdog", _TRIPPED)
            self._watchdog = _TRIPPED
            self._set, self._set_speed = self.position(), 0.0

    def _rest(self) -> None:
        self._overload_s = 0.0

    def _moving(self) -> bool:
        return self._was_on and (not self._arrived or abs(self._count_speed()) > self._threshold)

    def _steer(self, dt: float) -> None:
        drive, get = self.drive, self.registers.get
        drive.limit, drive.bias = self._duty_limit, drive.bias if self._integral else 0.0
        if self._watchdog == _TRIPPED:
            self._set_speed = 0.0
            self._hold_set_point()
        elif self._mode == 16:
            drive.mode, drive.duty = "duty", get("goal_pwm") / 885 * self._direction
        elif self._mode == 0:
            drive.mode, drive.duty = "duty", get("goal_current") / 1000 / self.motor.stall_a * self._direction
        elif self._mode == 1:
            self._run(self._velocity, self._profile[1], dt)
            self._hold_set_point()
        else:
            self._follow(self._goal, *(self._profile if self._timed is None else self._timed), dt)
            self._hold_set_point()
            if self._mode == 5:
                drive.limit = min(drive.limit, abs(get("goal_current")) / 1000 / self.motor.stall_a)
            if self._integral:
                drive.bias += self._integral * drive.error_rad * TICKS_PER_RAD * dt
                drive.bias = max(-drive.limit, min(drive.limit, drive.bias))

    def _protect(self, dt: float) -> None:
        error = self._hardware_error
        if not self._voltages[0] <= self.supply.present <= self._voltages[1]:
            error |= VOLTAGE
        if self.winding.degc > self._hottest:
            error |= OVERHEAT
        heavy = self._was_on and abs(self.shaft.duty) >= _OVERLOAD_DUTY * self._duty_limit
        self._overload_s = self._overload_s + dt if heavy and abs(self.shaft.speed) < 0.1 else 0.0
        if self._overload_s > _OVERLOAD_S:
            error |= OVERLOAD
        self._hardware_error = error  # all of them latch until the reboot
        if error & self._shutdown and self._torque:
            self._switch_off()

    def refresh(self) -> None:
        put, shaft, way = self.registers.put, self.shaft, self._direction
        rpm = self.model["present_velocity"].scale * TICKS_PER_RAD
        put("registered_instruction", int(self._pending is not None))
        put("hardware_error", self._hardware_error)
        put("realtime_tick", int(self.now_s * 1000) % 32768)
        put("moving", int(self._moving()))
        put("moving_status", int(self._arrived) | (0 if self._arrived else 2))
        put("present_pwm", round(885 * shaft.duty * way))
        put("present_velocity", round(self._count_speed() / rpm))
        position = round(self.position())
        if self._mode == 3:
            position = (position - self._offset) % self.model.resolution + self._offset
        put("present_position", position)
        put("velocity_trajectory", round(self._set_speed / rpm))
        put("position_trajectory", round(self._set))
        put("present_voltage", round(10 * self.supply.present))
        put("present_temperature", round(self.winding.degc))
        if "present_current" in self.model:
            put("present_current", round(1000 * self.winding.amperes * way))
        else:
            put("present_load", round(1000 * shaft.torque / self.motor.stall_nm * way))

    # Instructions ----------------------------------------------------------------------------------------------------

    def respond(self, packet: Packet) -> Answer | None:
        self._heard_s = self.now_s  # the watchdog asks for any packet, not for goals
        act = _INSTRUCTIONS.get(packet.code)
        if act is None:
            return self._result(packet, Result.INSTRUCTION)
        return act(self, packet)

    def bad_crc(self) -> Answer | None:
        """The answer to a packet for this servo whose CRC does not fit."""
        if not self.awake or self._level < 2:
            return None
        return Answer(self, self.id, self._error(Result.CRC), baud=self.baud, delay_s=self._return_delay_s)

    def _error(self, result: Result) -> int:
        return int(result) | (ALERT if self._hardware_error else 0)

    def _data(self, address: int, size: int, order: int = 0, fast: bool = False) -> Answer | None:
        if self._level < 1:
            return None
        if size == 0 or address + size > self.registers.size:
            return Answer(self, self.id, self._error(Result.ACCESS), bytes(size) if fast else b"", order, fast)
        return Answer(self, self.id, self._error(Result.OK), self.registers.read(address, size), order, fast)

    def _result(self, packet: Packet, result: Result) -> Answer | None:
        if packet.id == BROADCAST or self._level < 2:
            return None
        return Answer(self, self.id, self._error(result))

    def _ping(self, packet: Packet) -> Answer | None:
        data = self.registers.read(self.model["model_number"].address, 2) + self.registers.read(
            self.model["firmware"].address, 1
        )
        return Answer(self, self.id, self._error(Result.OK), data, self.id if packet.id == BROADCAST else 0)

    def _read(self, packet: Packet) -> Answer | None:
        if packet.id == BROADCAST:
            return None
        if len(packet.params) != 4:
            return self._result(packet, Result.DATA_LENGTH)
        return self._data(*struct.unpack("<HH", packet.params))

    def _sync_read(self, packet: Packet) -> Answer | None:
        ask = dynamixel.parse_sync_read(packet.params)
        if packet.id != BROADCAST or ask is None or self.id not in ask.ids:
            return None
        return self._data(ask.address, ask.size, ask.ids.index(self.id), packet.code == Instruction.FAST_SYNC_READ)

    def _bulk_read(self, packet: Packet) -> Answer | None:
        for order, block in enumerate(dynamixel.parse_bulk_read(packet.params) or ()):
            if block.id == self.id:
                return self._data(block.address, block.size, order, packet.code == Instruction.FAST_BULK_READ)
        return None

    def _write(self, packet: Packet) -> Answer | None:
        if len(packet.params) < 3:
            return self._result(packet, Result.DATA_LENGTH)
        answered_as, level = self.id, self._level  # a new id is valid from the next packet on
        address, data = struct.unpack_from("<H", packet.params)[0], packet.params[2:]
        result = self._put(address, data)
        if packet.id == BROADCAST or level < 2:
            return None
        return Answer(self, answered_as, self._error(result))

    def _sync_write(self, packet: Packet) -> Answer | None:
        order = dynamixel.parse_sync_write(packet.params)
        for id_ in (self.id, self._shadow):
            if order is not None and id_ in order.data:
                self._put(order.address, order.data[id_])
        return None

    def _bulk_write(self, packet: Packet) -> Answer | None:
        for write in dynamixel.parse_bulk_write(packet.params) or ():
            if write.id in (self.id, self._shadow):
                self._put(write.address, write.data)
        return None

    def _reg_write(self, packet: Packet) -> Answer | None:
        if len(packet.params) < 3:
            return self._result(packet, Result.DATA_LENGTH)
        address, data = struct.unpack_from("<H", packet.params)[0], packet.params[2:]
        result = self._check(address, data)
        if result is Result.OK:
            self._pending = (address, data)
        return self._result(packet, result)

    def _action(self, packet: Packet) -> Answer | None:
        result = Result.OK
        if self._pending is not None:
            pending, self._pending = self._pending, None
            result = self._put(*pending)
        return self._result(packet, result)

    def _factory_reset(self, packet: Packet) -> Answer | None:
        what = packet.params[0] if packet.params else FACTORY_ALL
        if packet.id == BROADCAST and what == FACTORY_ALL:  # would give every servo the same id
            return None
        kept = () if what == FACTORY_ALL else ("id",) if what == FACTORY_KEEP_ID else ("id", "baud_rate")
        answer = self._result(packet, Result.OK)
        self.reset(kept)
        return answer

    def _reboot(self, packet: Packet) -> Answer | None:
        self._hardware_error = 0
        answer = self._result(packet, Result.OK)
        self.restart()
        return answer

    def _clear(self, packet: Packet) -> Answer | None:
        if packet.params != dynamixel.clear_turns(self.id).params:
            return self._result(packet, Result.DATA_RANGE)
        if self._moving():
            return self._result(packet, Result.RESULT_FAIL)
        self._turns = math.floor(self._raw() / self.model.resolution) * self.model.resolution
        self._set = self.position()
        self.registers.put("goal_position", round(self._set))
        self._reconfigure()
        return self._result(packet, Result.OK)

    def _table_backup(self, packet: Packet) -> Answer | None:
        store, restore = (bytes((k,)) + b"CTRL" for k in (1, 2))
        if self.torque_on or packet.params not in (store, restore) or (packet.params == restore and not self._backup):
            return self._result(packet, Result.RESULT_FAIL)
        if packet.params == store:
            self._backup = bytes(self.registers.memory)
            self.registers.put("backup_ready", 1)
        elif self._backup is not None:
            for register in self.model:
                if register.access == "rw" and register.name != "torque_enable":
                    self.registers.put(register.name, register.decode(self._backup[register.address : register.end]))
            self._reconfigure()
        return self._result(packet, Result.OK)

    # Writing ---------------------------------------------------------------------------------------------------------

    def _check(self, address: int, data: bytes) -> Result:
        result = self.registers.check_dynamixel(address, data, self.torque_on)
        if result is not Result.OK:
            return result
        values, get = self.registers.values_in(address, data), self.registers.get
        if self._watchdog == _TRIPPED and any(name in values for name in _GOALS) and values.get("bus_watchdog") != 0:
            return Result.DATA_RANGE
        bounds = {"goal_velocity": "velocity_limit", "goal_pwm": "pwm_limit", "goal_current": "current_limit"}
        if any(name in values and abs(values[name]) > get(limit) for name, limit in bounds.items()):
            return Result.DATA_LIMIT
        goal = values.get("goal_position")
        if goal is not None and self._mode == 3 and not get("min_position") <= goal <= get("max_position"):
            return Result.DATA_LIMIT
        return Result.OK

    def _put(self, address: int, data: bytes) -> Result:
        result = self._check(address, data)
        if result is not Result.OK or self._frozen:
            return result
        names = self.registers.write_dynamixel(address, data)
        if "operating_mode" in names:
            self._forget_gains()
        if self.torque_on and self._hardware_error & self.registers.get("shutdown"):
            self.registers.put("torque_enable", 0)  # only a reboot helps
        if "goal_position" in names:
            if self.registers.get("drive_mode") & 8:
                self.registers.put("torque_enable", 1)
            self._plan_time()
        self._reconfigure()
        return Result.OK

    def _forget_gains(self) -> None:
        """A change of mode gives gains, profile and goals their first values."""
        for name in ("position_p", "position_i", "position_d", "velocity_p", "velocity_i", "profile_velocity",
                     "profile_acceleration", "goal_velocity"):  # fmt: skip
            self.registers.put(name, self.model[name].default)
        self._reconfigure()
        self.registers.put("goal_position", round(self.position()))

    def _plan_time(self) -> None:
        """Time-based profile: speed and acceleration that reach the goal in as many ms as the profile says."""
        get = self.registers.get
        total = get("profile_velocity") / 1000
        if not get("drive_mode") & 4 or total == 0.0:
            self._timed = None
            return
        rise = min(get("profile_acceleration") / 1000, total / 2)
        speed = max(abs(get("goal_position") - self._set), 1.0) / (total - rise)
        self._timed = (speed, speed / rise if rise else 0.0)


_INSTRUCTIONS: dict[int, Callable[[DynamixelServo, Packet], Answer | None]] = {
    Instruction.PING: DynamixelServo._ping,
    Instruction.READ: DynamixelServo._read,
    Instruction.WRITE: DynamixelServo._write,
    Instruction.REG_WRITE: DynamixelServo._reg_write,
    Instruction.ACTION: DynamixelServo._action,
    Instruction.FACTORY_RESET: DynamixelServo._factory_reset,
    Instruction.REBOOT: DynamixelServo._reboot,
    Instruction.CLEAR: DynamixelServo._clear,
    Instruction.CONTROL_TABLE_BACKUP: DynamixelServo._table_backup,
    Instruction.SYNC_READ: DynamixelServo._sync_read,
    Instruction.FAST_SYNC_READ: DynamixelServo._sync_read,
    Instruction.BULK_READ: DynamixelServo._bulk_read,
    Instruction.FAST_BULK_READ: DynamixelServo._bulk_read,
    Instruction.SYNC_WRITE: DynamixelServo._sync_write,
    Instruction.BULK_WRITE: DynamixelServo._bulk_write,
}
