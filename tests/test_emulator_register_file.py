from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.emulator.register_file import RegisterFile
from hardware.errors import RobotError
from hardware.servo.dynamixel import Result
from hardware.servo.registers import MODELS, STS3215, XL330_M288, XL430_W250

LITTLE = "little"


def _bytes(value: int, size: int) -> bytes:
    return value.to_bytes(size, LITTLE)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_new_servo_holds_the_factory_values_and_its_model_number(model) -> None:
    registers = RegisterFile(model)
    assert registers.get("model_number") == model.number
    assert all(registers.get(r.name) == r.default for r in model)
    assert registers.changed() == {}


def test_ram_is_lost_and_eeprom_kept_over_a_power_cycle() -> None:
    registers = RegisterFile(STS3215)
    registers.write_feetech(9, _bytes(500, 2), locked=False)
    registers.write_feetech(42, _bytes(1234, 2), locked=False)
    assert (registers.get("min_position"), registers.get("goal_position")) == (500, 1234)
    registers.power_cycle()
    assert (registers.get("min_position"), registers.get("goal_position")) == (500, 0)
    assert registers.changed() == {"min_position": 500}


def test_a_locked_feetech_servo_forgets_eeprom_writes() -> None:
    registers = RegisterFile(STS3215)
    registers.write_feetech(9, _bytes(500, 2), locked=True)
    assert registers.get("min_position") == 500  # at once, but not for long
    registers.power_cycle()
    assert registers.get("min_position") == 0


def test_the_saved_eeprom_makes_the_same_servo_again() -> None:
    registers = RegisterFile(STS3215)
    registers.write_feetech(5, b"\x07", locked=False)
    registers.write_feetech(31, _bytes(0x864, 2), locked=False)
    again = RegisterFile(STS3215, registers.changed())
    assert (again.get("id"), again.get("homing_offset")) == (7, -100)


def test_a_factory_reset_keeps_only_what_it_is_told() -> None:
    registers = RegisterFile(STS3215, {"id": 5, "min_position": 100})
    registers.factory_reset(("id",))
    assert (registers.get("id"), registers.get("min_position")) == (5, 0)
    assert registers.changed() == {"id": 5}


@pytest.mark.parametrize(
    ("saved", "words"), [({"goal_position": 1}, "not in its EEPROM"), ({"nothing": 1}, "no register")]
)
def test_impossible_saved_values_are_refused(saved: dict[str, int], words: str) -> None:
    with pytest.raises(RobotError, match=words):
        RegisterFile(STS3215, saved)


def test_feetech_passes_over_what_it_cannot_do() -> None:
    registers = RegisterFile(STS3215)
    assert registers.write_feetech(3, _bytes(1, 2), locked=False) == []  # the model number
    assert registers.write_feetech(33, b"\x09", locked=False) == []  # no such mode
    assert (registers.get("model_number"), registers.get("operating_mode")) == (777, 0)
    assert registers.write_feetech(43, b"\x08", locked=False) == ["goal_position"]  # half a register
    assert registers.get("goal_position") == 0x800


@pytest.mark.parametrize(
    ("address", "data", "torque", "result"),
    [
        (116, _bytes(2048, 4), True, Result.OK),
        (116, _bytes(2048, 2), True, Result.DATA_LENGTH),
        (132, _bytes(0, 4), False, Result.ACCESS),  # present position
        (11, b"\x03", True, Result.ACCESS),  # EEPROM while torque is on
        (11, b"\x03", False, Result.OK),
        (11, b"\x11", False, Result.DATA_RANGE),
        (14, b"\x00", False, Result.ACCESS),  # no register there
        (5000, b"\x00", False, Result.ACCESS),
        (64, b"", False, Result.DATA_LENGTH),
    ],
)
def test_dynamixel_says_what_is_wrong(address: int, data: bytes, torque: bool, result: Result) -> None:
    assert RegisterFile(XL430_W250).check_dynamixel(address, data, torque) is result


def test_indirect_data_shows_and_changes_other_registers() -> None:
    registers = RegisterFile(XL330_M288)
    pointers, data = XL330_M288["indirect_address_1"].address, XL330_M288["indirect_data_1"].address
    for k in range(4):
        registers.write_dynamixel(pointers + 2 * k, _bytes(116 + k, 2))
    registers.put("goal_position", 1111)
    assert registers.read(data, 4) == _bytes(1111, 4)
    assert registers.check_dynamixel(data, _bytes(3333, 4), True) is Result.OK
    assert registers.write_dynamixel(data, _bytes(3333, 4)) == ["goal_position"]
    assert registers.get("goal_position") == 3333


@given(address=st.integers(0, 255), data=st.binary(max_size=40), locked=st.booleans())
def test_no_feetech_write_breaks_the_table(address: int, data: bytes, locked: bool) -> None:
    registers = RegisterFile(STS3215)
    size = len(registers.memory)
    registers.write_feetech(address, data, locked)
    assert len(registers.memory) == size
    assert registers.get("model_number") == 777
    for register in STS3215:
        if register.limits is not None:
            assert register.limits[0] <= registers.get(register.name) <= register.limits[1]


@given(address=st.integers(0, 0xFFFF), data=st.binary(max_size=40), torque=st.booleans())
def test_dynamixel_writes_all_or_nothing(address: int, data: bytes, torque: bool) -> None:
    registers = RegisterFile(XL330_M288)
    before = bytes(registers.memory)
    if registers.check_dynamixel(address, data, torque) is Result.OK:
        registers.write_dynamixel(address, data)
        assert registers.get("model_number") == 1200
    assert len(registers.memory) == len(before)
    assert registers.read(address, 16) is not None


@given(value=st.integers(-(2**40), 2**40))
def test_the_servos_own_values_are_clipped_to_the_field(value: int) -> None:
    registers = RegisterFile(STS3215)
    registers.put("present_position", value)
    assert abs(registers.get("present_position")) <= 32767
    registers.put("present_load", value)
    assert abs(registers.get("present_load")) <= 1023
