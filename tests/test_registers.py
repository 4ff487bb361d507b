from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import RobotError
from hardware.servo import registers
from hardware.servo.registers import MODELS, STS3215, XL330_M077, XL330_M288, XL430_W250, Register, ServoModel

ALL = [(model, register) for model in MODELS.values() for register in model]

#: What the bus, the handshake and the arm ask of every servo.
NEEDED = (
    "model_number", "id", "baud_rate", "return_delay", "status_return_level", "homing_offset", "min_position",
    "max_position", "operating_mode", "torque_enable", "goal_position", "present_position", "present_velocity",
    "present_voltage", "present_temperature", "hardware_error",
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_every_servo_has_what_is_asked_of_it(model: ServoModel) -> None:
    for name in NEEDED:
        assert name in model and model[name].name == name
    start, size = model.telemetry
    block = model.decode_block(start, bytes(size))
    assert {"present_position", "present_velocity", "present_voltage", "present_temperature"} <= set(block)
    assert {"present_load", "present_current"} & set(block)
    assert model["model_number"].default == model.number
    assert model["baud_rate"].default in model.baud_codes
    assert model["torque_enable"].storage == "ram" and model["homing_offset"].storage == "eeprom"


@pytest.mark.parametrize(
    ("model", "name", "address", "size"),
    [
        (STS3215, "model_number", 3, 2), (STS3215, "id", 5, 1), (STS3215, "homing_offset", 31, 2),
        (STS3215, "torque_enable", 40, 1), (STS3215, "goal_position", 42, 2), (STS3215, "lock", 55, 1),
        (STS3215, "present_position", 56, 2), (STS3215, "hardware_error", 65, 1), (STS3215, "present_current", 69, 2),
        (XL330_M288, "homing_offset", 20, 4), (XL330_M288, "torque_enable", 64, 1), (XL330_M288, "bus_watchdog", 98, 1),
        (XL330_M288, "goal_position", 116, 4), (XL330_M288, "present_current", 126, 2),
        (XL330_M288, "present_position", 132, 4), (XL430_W250, "present_load", 126, 2),
        (XL430_W250, "present_voltage", 144, 2), (XL430_W250, "indirect_address_29", 578, 2),
        (XL430_W250, "indirect_data_56", 661, 1), (XL330_M077, "indirect_data_20", 227, 1),
    ],
)  # fmt: skip
def test_addresses_are_those_of_the_manuals(model: ServoModel, name: str, address: int, size: int) -> None:
    assert (model[name].address, model[name].size) == (address, size)


def test_one_block_of_the_sts3215_holds_all_telemetry() -> None:
    assert STS3215.telemetry == (56, 15)
    block = STS3215.decode_block(56, bytes.fromhex("00 08 00 00 0a 04 79 1e 00 20 01 00 08 0a 80"))
    assert block["present_position"] == 2048 and block["present_load"] == -10
    assert STS3215["present_voltage"].to_si(block["present_voltage"]) == pytest.approx(12.1)
    assert block["present_temperature"] == 30 and block["hardware_error"] == 32 and block["moving"] == 1
    assert STS3215["present_current"].to_si(block["present_current"]) == pytest.approx(-0.065)
    assert STS3215.faults(block["hardware_error"]) == ("overload",)


def test_what_only_some_have() -> None:
    assert "bus_watchdog" not in STS3215 and "lock" in STS3215
    assert "present_current" in XL330_M288 and "present_current" not in XL430_W250
    assert XL430_W250.faults(0b100001) == ("voltage", "overload")


@given(st.sampled_from(ALL), st.data())
def test_values_survive(chosen: tuple[ServoModel, Register], data: st.DataObject) -> None:
    _, register = chosen
    bits = 8 * register.size
    span = {
        "unsigned": (0, (1 << bits) - 1),
        "twos": (-(1 << bits - 1), (1 << bits - 1) - 1),
        "sign_magnitude": (1 - (1 << register.sign_bit), (1 << register.sign_bit) - 1),
    }[register.encoding]
    low, high = register.limits or span
    value = data.draw(st.integers(max(low, span[0]), min(high, span[1])))
    assert register.decode(register.encode(value)) == value
    assert register.from_si(register.to_si(value)) == value


def test_every_default_fits() -> None:
    for _, register in ALL:
        assert register.decode(register.encode(register.default)) == register.default


@given(st.sampled_from(ALL), st.binary(max_size=5))
def test_any_bytes_decode_or_are_refused(chosen: tuple[ServoModel, Register], data: bytes) -> None:
    _, register = chosen
    if len(data) == register.size:
        assert isinstance(register.decode(data), int)
    else:
        with pytest.raises(RobotError, match=register.name):
            register.decode(data)


def test_a_turn_is_a_turn() -> None:
    for model in MODELS.values():
        assert model["present_position"].to_si(model.resolution) == pytest.approx(2 * math.pi)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_servo_takes_what_is_not_finite(value: float) -> None:
    with pytest.raises(RobotError, match="goal_position"):
        STS3215["goal_position"].from_si(value)


def test_refusals_say_what_fits() -> None:
    with pytest.raises(RobotError, match="0 to 1000, not 1001"):
        STS3215["torque_limit"].encode(1001)
    with pytest.raises(RobotError, match="does not fit"):
        XL430_W250["present_position"].encode(1 << 40)
    with pytest.raises(RobotError, match="present_position"):
        STS3215["actual_position"]
    with pytest.raises(RobotError, match="1000000"):
        STS3215.baud_code(2_000_000)
    with pytest.raises(RobotError, match="sts3215"):
        registers.find_model("sts3214")
    assert STS3215.baud_code(500_000) == 1


def test_a_table_with_overlaps_is_refused() -> None:
    with pytest.raises(RobotError, match="taken"):
        registers._table(Register("a", 0, 2), Register("b", 1, 1))
    with pytest.raises(RobotError, match="taken"):
        registers._table(Register("a", 0, 1), Register("a", 1, 1))
