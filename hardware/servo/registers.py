"""Control tables as data: what lies where in a servo's memory, how it is encoded and what it means in SI units.

Registers of different makers that mean the same bear the same name, so the code above asks
``model["present_position"]`` and not which servo it is; what only some servos have, it asks with ``"bus_watchdog" in
model``. To add a servo, write one more ``ServoModel`` in this file and name it in ``MODELS`` (``docs/adding-an-arm.md``).

Raw values are the integers after sign decoding; SI value = raw value × ``scale``, with ``unit`` naming the SI unit.

Sources: Feetech "STS3215 memory table" and SDK; ROBOTIS e-manual, XL330-M288-T, XL330-M077-T, XL430-W250-T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from hardware.errors import RobotError
from hardware.servo.feetech import decode_sign_magnitude, encode_sign_magnitude

Protocol = Literal["feetech", "dynamixel"]
Access = Literal["r", "rw"]
Encoding = Literal["unsigned", "twos", "sign_magnitude"]


@dataclass(frozen=True)
class Register:
    """One field of a control table; little-endian."""

    name: str
    address: int
    size: int
    access: Access = "rw"
    storage: Literal["eeprom", "ram"] = "ram"
    encoding: Encoding = "unsigned"
    sign_bit: int = 15  # of sign_magnitude
    scale: float = 1.0  # SI value of one count
    unit: str = ""
    default: int = 0  # factory value, after sign decoding
    limits: tuple[int, int] | None = None  # raw values the servo accepts, both included; None: what fits

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size

    def decode(self, data: bytes) -> int:
        """The value in ``data`` (``size`` bytes), sign decoded. Raises ``RobotError`` for another length."""
        if len(data) != self.size:
            raise RobotError(f"{self.name} has {self.size} bytes, not {len(data)}")
        raw = int.from_bytes(data, "little", signed=self.encoding == "twos")
        return decode_sign_magnitude(raw, self.sign_bit) if self.encoding == "sign_magnitude" else raw

    def encode(self, value: int) -> bytes:
        """Inverse of ``decode``. Raises ``RobotError`` when the value does not fit the field or its limits."""
        if self.limits is not None and not self.limits[0] <= value <= self.limits[1]:
            raise RobotError(f"{self.name} takes {self.limits[0]} to {self.limits[1]}, not {value}")
        if self.encoding == "sign_magnitude":
            value = encode_sign_magnitude(value, self.sign_bit)
        try:
            return int(value).to_bytes(self.size, "little", signed=self.encoding == "twos")
        except OverflowError as error:
            raise RobotError(f"{value} does not fit {self.name}, {self.size} bytes, {self.encoding}") from error

    def to_si(self, raw: int) -> float:
        """SI value of a raw one."""
        return raw * self.scale

    def from_si(self, value: float) -> int:
        """Nearest raw value. Raises ``RobotError`` for NaN and infinity."""
        if not math.isfinite(value):
            raise RobotError(f"{self.name} cannot be {value}")
        return round(value / self.scale)


@dataclass(frozen=True, eq=False)
class ServoModel:
    """A servo type: its protocol, its table and the few facts the bus and the calibration need."""

    name: str
    protocol: Protocol
    number: int  # what it reports as model_number
    registers: Mapping[str, Register]
    telemetry: tuple[int, int]  # address and size of the block that holds all telemetry
    baud_codes: Mapping[int, int]  # code in baud_rate -> bits per second
    homing_sign: int  # present position = encoder + homing_sign * homing_offset
    error_bits: Mapping[int, str]  # bit in hardware_error -> what it means, one word
    max_velocity: float  # rad/s without load: faster readings are encoder jumps
    resolution: int = 4096  # counts of one output turn
    fast_read_firmware: int | None = None  # the oldest firmware that knows fast sync read

    def __getitem__(self, name: str) -> Register:
        """A register by name. Raises ``RobotError`` naming the ones that look alike."""
        if name not in self.registers:
            alike = sorted(n for n in self.registers if set(n.split("_")) & set(name.split("_")))
            raise RobotError(f"{self.name} has no register {name!r}; alike are: {', '.join(alike) or 'none'}")
        return self.registers[name]

    def __contains__(self, name: str) -> bool:
        return name in self.registers

    def __iter__(self) -> Iterator[Register]:
        return iter(self.registers.values())

    def decode_block(self, address: int, data: bytes) -> dict[str, int]:
        """Raw values of all registers that lie whole in ``data``, read from ``address`` on."""
        return {
            register.name: register.decode(data[register.address - address : register.end - address])
            for register in _inside(self, address, address + len(data))
        }

    def faults(self, hardware_error: int) -> tuple[str, ...]:
        """The words for the bits set in ``hardware_error``."""
        return tuple(word for bit, word in self.error_bits.items() if hardware_error >> bit & 1)

    def baud_code(self, rate: int) -> int:
        """The register value for a baud rate. Raises ``RobotError`` listing the rates."""
        for code, known in self.baud_codes.items():
            if known == rate:
                return code
        rates = ", ".join(str(known) for known in sorted(self.baud_codes.values()))
        raise RobotError(f"{self.name} does not know {rate} baud; choose one of: {rates}")


@lru_cache(maxsize=256)
def _inside(model: ServoModel, address: int, end: int) -> tuple[Register, ...]:
    """The registers of a block; the bus asks for the same one in every cycle."""
    return tuple(register for register in model if address <= register.address and register.end <= end)


def _table(*registers: Register) -> Mapping[str, Register]:
    """Registers by name, in order of address. Raises ``RobotError`` for a name used twice or for overlaps."""
    table: dict[str, Register] = {}
    end = 0
    for register in sorted(registers, key=lambda r: r.address):
        if register.name in table or register.address < end:
            raise RobotError(f"register {register.name} at {register.address}: name or address is taken")
        table[register.name], end = register, register.end
    return MappingProxyType(table)


def _rom(
    name: str, address: int, size: int = 1, default: int = 0, scale: float = 1.0, unit: str = "",
    limits: tuple[int, int] | None = None, encoding: Encoding = "unsigned", sign_bit: int = 15, access: Access = "rw",
) -> Register:  # fmt: skip
    return Register(name, address, size, access, "eeprom", encoding, sign_bit, scale, unit, default, limits)


def _ram(
    name: str, address: int, size: int = 1, default: int = 0, scale: float = 1.0, unit: str = "",
    limits: tuple[int, int] | None = None, encoding: Encoding = "unsigned", sign_bit: int = 15, access: Access = "rw",
) -> Register:  # fmt: skip
    return Register(name, address, size, access, "ram", encoding, sign_bit, scale, unit, default, limits)


def _now(
    name: str, address: int, size: int = 1, scale: float = 1.0, unit: str = "",
    encoding: Encoding = "unsigned", sign_bit: int = 15,
) -> Register:  # fmt: skip
    return Register(name, address, size, "r", "ram", encoding, sign_bit, scale, unit)


_TICK = 2.0 * math.pi / 4096  # rad
_RPM = 2.0 * math.pi / 60.0  # rad/s

_STS_TABLE = _table(
    _rom("firmware_major", 0, default=3, access="r"),
    _rom("firmware_minor", 1, default=10, access="r"),
    _rom("byte_order", 2, access="r"),  # 0: little-endian
    _rom("model_number", 3, 2, default=777, access="r"),
    _rom("id", 5, default=1, limits=(0, 253)),
    _rom("baud_rate", 6, limits=(0, 7)),
    _rom("return_delay", 7, default=250, scale=2e-6, unit="s"),  # newer firmwares ignore it
    _rom("status_return_level", 8, default=1, limits=(0, 1)),  # 1: reply to everything
    _rom("min_position", 9, 2, scale=_TICK, unit="rad", limits=(0, 4095)),  # both limits 0: multi-turn
    _rom("max_position", 11, 2, default=4095, scale=_TICK, unit="rad", limits=(0, 4095)),
    _rom("max_temperature", 13, default=70, unit="degC"),
    _rom("max_voltage", 14, default=140, scale=0.1, unit="V"),
    _rom("min_voltage", 15, default=40, scale=0.1, unit="V"),
    _rom("max_torque", 16, 2, default=1000, scale=1e-3, limits=(0, 1000)),  # copied to torque_limit at power-on
    _rom("phase", 18, default=12),  # bits: direction, brushed, speed unit, speed 0, multi-turn feedback, ..
    _rom("unload_condition", 19, default=44),
    _rom("led_condition", 20, default=47),
    _rom("position_p", 21, default=32),
    _rom("position_d", 22, default=32),
    _rom("position_i", 23),
    _rom("min_start_force", 24, default=16),
    _rom("integral_limit", 25),
    _rom("cw_dead_zone", 26, default=1, scale=_TICK, unit="rad"),
    _rom("ccw_dead_zone", 27, default=1, scale=_TICK, unit="rad"),
    _rom("protection_current", 28, 2, default=500, scale=6.5e-3, unit="A", limits=(0, 511)),
    _rom("angular_resolution", 30, default=1),
    _rom("homing_offset", 31, 2, scale=_TICK, unit="rad", encoding="sign_magnitude", sign_bit=11),
    _rom("operating_mode", 33, limits=(0, 3)),  # 0 position, 1 speed, 2 PWM, 3 step
    _rom("protective_torque", 34, default=20, scale=1e-2),
    _rom("protection_time", 35, default=200, scale=1e-2, unit="s"),
    _rom("overload_torque", 36, default=80, scale=1e-2),
    _rom("speed_p", 37, default=10),
    _rom("overcurrent_time", 38, default=200, scale=1e-2, unit="s"),
    _rom("speed_i", 39, default=10),
    _ram("torque_enable", 40),  # 0 off, 1 on, 2 damping, 128: make the present position 2048
    _ram("acceleration", 41, scale=100 * _TICK, unit="rad/s2"),  # 0: as fast as it can
    _ram("goal_position", 42, 2, scale=_TICK, unit="rad", encoding="sign_magnitude"),
    _ram("goal_time", 44, 2, encoding="sign_magnitude", sign_bit=10),  # PWM in mode 2
    _ram("goal_velocity", 46, 2, scale=_TICK, unit="rad/s", encoding="sign_magnitude"),  # 0: as fast as it can
    _ram("torque_limit", 48, 2, default=1000, scale=1e-3, limits=(0, 1000)),
    _ram("lock", 55, default=1),  # 1: writes to the first 40 bytes are lost at power-off
    _now("present_position", 56, 2, _TICK, "rad", "sign_magnitude"),
    _now("present_velocity", 58, 2, _TICK, "rad/s", "sign_magnitude"),
    _now("present_load", 60, 2, 1e-3, "", "sign_magnitude", 10),  # share of full PWM
    _now("present_voltage", 62, 1, 0.1, "V"),
    _now("present_temperature", 63, 1, 1.0, "degC"),
    _now("registered_write", 64),
    _now("hardware_error", 65),
    _now("moving", 66),
    _now("goal_readback", 67, 2, _TICK, "rad", "sign_magnitude"),
    _now("present_current", 69, 2, 6.5e-3, "A", "sign_magnitude"),
    _ram("max_acceleration", 85),  # factory area
)  # fmt: skip

STS3215 = ServoModel(
    name="sts3215",
    protocol="feetech",
    number=777,
    registers=_STS_TABLE,
    telemetry=(56, 15),
    baud_codes={0: 1_000_000, 1: 500_000, 2: 250_000, 3: 128_000, 4: 115_200, 5: 76_800, 6: 57_600, 7: 38_400},
    homing_sign=-1,
    error_bits={0: "voltage", 1: "encoder", 2: "overheat", 3: "overcurrent", 5: "overload"},
    max_velocity=math.radians(276.0),  # 7.4 V type without load; the 12 V type turns at about the same speed
)

_X_ERRORS = {0: "voltage", 2: "overheat", 3: "encoder", 4: "electrical", 5: "overload"}
_X_BAUD = {0: 9_600, 1: 57_600, 2: 115_200, 3: 1_000_000, 4: 2_000_000, 5: 3_000_000, 6: 4_000_000}


def _x_table(
    number: int, firmware: int, max_temperature: int, voltage: tuple[int, int], velocity: int, shutdown: int,
    position_gains: tuple[int, int], velocity_gains: tuple[int, int], modes: tuple[int, int], *extra: Register,
) -> Mapping[str, Register]:  # fmt: skip
    """The table that the XL servos share, with the factory values in which they differ."""
    return _table(
        _rom("model_number", 0, 2, default=number, access="r"),
        _rom("model_information", 2, 4, access="r"),
        _rom("firmware", 6, default=firmware, access="r"),
        _rom("id", 7, default=1, limits=(0, 252)),
        _rom("baud_rate", 8, default=1),
        _rom("return_delay", 9, default=250, scale=2e-6, unit="s", limits=(0, 254)),
        _rom("drive_mode", 10, limits=(0, 13)),  # bits: reverse, time-based profile (2), torque on by goal (3)
        _rom("operating_mode", 11, default=3, limits=modes),  # 0 current 1 velocity 3 position 4 extended 5 .. 16 PWM
        _rom("shadow_id", 12, default=255),
        _rom("protocol_type", 13, default=2),
        _rom("homing_offset", 20, 4, scale=_TICK, unit="rad", encoding="twos", limits=(-1_044_479, 1_044_479)),
        _rom("moving_threshold", 24, 4, default=10, scale=0.229 * _RPM, unit="rad/s", limits=(0, 1023)),
        _rom("max_temperature", 31, default=max_temperature, unit="degC", limits=(0, 100)),
        _rom("max_voltage", 32, 2, default=voltage[1], scale=0.1, unit="V", limits=voltage),
        _rom("min_voltage", 34, 2, default=voltage[0], scale=0.1, unit="V", limits=voltage),
        _rom("pwm_limit", 36, 2, default=885, scale=1.13e-3, limits=(0, 885)),
        _rom("velocity_limit", 44, 4, default=velocity, scale=0.229 * _RPM, unit="rad/s", limits=(0, 2047)),
        _rom("max_position", 48, 4, default=4095, scale=_TICK, unit="rad", limits=(0, 4095)),
        _rom("min_position", 52, 4, scale=_TICK, unit="rad", limits=(0, 4095)),
        _rom("startup_configuration", 60),
        _rom("shutdown", 63, default=shutdown),
        _ram("torque_enable", 64, limits=(0, 1)),
        _ram("led", 65, limits=(0, 1)),
        _ram("status_return_level", 68, default=2, limits=(0, 2)),
        _now("registered_instruction", 69),
        _now("hardware_error", 70),
        _ram("velocity_i", 76, 2, default=velocity_gains[0], limits=(0, 16383)),
        _ram("velocity_p", 78, 2, default=velocity_gains[1], limits=(0, 16383)),
        _ram("position_d", 80, 2, default=position_gains[0], limits=(0, 16383)),
        _ram("position_i", 82, 2, limits=(0, 16383)),
        _ram("position_p", 84, 2, default=position_gains[1], limits=(0, 16383)),
        _ram("feedforward_2", 88, 2, limits=(0, 16383)),
        _ram("feedforward_1", 90, 2, limits=(0, 16383)),
        _ram("bus_watchdog", 98, scale=0.02, unit="s", encoding="twos", limits=(-1, 127)),  # -1 when it has tripped
        _ram("goal_pwm", 100, 2, default=885, scale=1.13e-3, encoding="twos", limits=(-885, 885)),
        _ram("goal_velocity", 104, 4, scale=0.229 * _RPM, unit="rad/s", encoding="twos"),
        _ram("profile_acceleration", 108, 4, scale=214.577 * _RPM / 60, unit="rad/s2", limits=(0, 32767)),
        _ram("profile_velocity", 112, 4, scale=0.229 * _RPM, unit="rad/s", limits=(0, 32767)),
        _ram("goal_position", 116, 4, scale=_TICK, unit="rad", encoding="twos"),
        _now("realtime_tick", 120, 2, 1e-3, "s"),
        _now("moving", 122),
        _now("moving_status", 123),
        _now("present_pwm", 124, 2, 1.13e-3, "", "twos"),
        _now("present_velocity", 128, 4, 0.229 * _RPM, "rad/s", "twos"),
        _now("present_position", 132, 4, _TICK, "rad", "twos"),
        _now("velocity_trajectory", 136, 4, 0.229 * _RPM, "rad/s", "twos"),
        _now("position_trajectory", 140, 4, _TICK, "rad", "twos"),
        _now("present_voltage", 144, 2, 0.1, "V"),
        _now("present_temperature", 146, 1, 1.0, "degC"),
        _now("backup_ready", 147),
        *extra,
    )  # fmt: skip


def _indirect(first_address: int, first_data: int, count: int, number: int = 1) -> tuple[Register, ...]:
    """``count`` slots that show any byte of the table at a second place, so that one read can gather them."""
    addresses = (
        _ram(f"indirect_address_{number + k}", first_address + 2 * k, 2, default=first_data + k) for k in range(count)
    )
    return (*addresses, *(_ram(f"indirect_data_{number + k}", first_data + k) for k in range(count)))


_XL330_EXTRA = (
    _rom("current_limit", 38, 2, default=1750, scale=1e-3, unit="A", limits=(0, 1750)),
    _rom("pwm_slope", 62, default=140, limits=(1, 255)),
    _ram("goal_current", 102, 2, default=1750, scale=1e-3, unit="A", encoding="twos", limits=(-1750, 1750)),
    _now("present_current", 126, 2, 1e-3, "A", "twos"),
    *_indirect(168, 208, 20),
)  # fmt: skip
_XL430_EXTRA = (
    _now("present_load", 126, 2, 1e-3, "", "twos"),  # share of full load, estimated by the servo
    *_indirect(168, 224, 28),
    *_indirect(578, 634, 28, number=29),
)


def _xl330(name: str, number: int, rpm: float) -> ServoModel:
    table = _x_table(number, 46, 70, (35, 70), 445, 53, (0, 400), (1600, 180), (0, 16), *_XL330_EXTRA)
    return ServoModel(
        name, "dynamixel", number, table, (126, 21), _X_BAUD, 1, _X_ERRORS, rpm * _RPM, fast_read_firmware=46
    )


XL330_M288 = _xl330("xl330-m288", 1200, 103.0)
XL330_M077 = _xl330("xl330-m077", 1190, 383.0)
XL430_W250 = ServoModel(
    name="xl430-w250",
    protocol="dynamixel",
    number=1060,
    registers=_x_table(1060, 45, 72, (60, 140), 265, 52, (4000, 640), (1000, 100), (1, 16), *_XL430_EXTRA),
    telemetry=(126, 21),
    baud_codes={**_X_BAUD, 7: 4_500_000},
    homing_sign=1,
    error_bits=_X_ERRORS,
    max_velocity=61.0 * _RPM,
    fast_read_firmware=45,
)

#: Every servo the project knows, by the name that rig files use.
MODELS: Mapping[str, ServoModel] = MappingProxyType(
    {model.name: model for model in (STS3215, XL330_M288, XL330_M077, XL430_W250)}
)


def find_model(name: str) -> ServoModel:
    """A servo type by name. Raises ``RobotError`` listing the names."""
    if name not in MODELS:
        raise RobotError(f"no servo is named {name!r}; choose one of: {', '.join(MODELS)}")
    return MODELS[name]
