"""The memory of a servo: EEPROM that outlives power, RAM that does not, and who may write what.

The emulated servo itself uses ``get`` and ``put`` by name; what comes over the wire goes through ``read`` and the two
protocols' ``write``. ``memory`` is what reads show; ``eeprom`` is what comes back after a power cycle. They differ
after a write to a locked Feetech servo.
"""

from __future__ import annotations

from collections.abc import Mapping

from hardware.errors import RobotError
from hardware.servo.dynamixel import Result
from hardware.servo.registers import Register, ServoModel


class RegisterFile:
    """One servo's control table. ``eeprom`` maps register names to values that differ from the factory's."""

    def __init__(self, model: ServoModel, eeprom: Mapping[str, int] | None = None) -> None:
        """Raises ``RobotError`` when ``eeprom`` holds a name or a value that the model does not have."""
        self.model = model
        self.size = max(register.end for register in model)
        self._table = dict(model.registers)
        self._owner: dict[int, Register] = {a: r for r in model for a in range(r.address, r.end)}
        # A byte of indirect data shows the byte whose address the register at the pointer holds.
        self._pointer_of = {
            register.address: model[register.name.replace("data", "address")].address
            for register in model
            if register.name.startswith("indirect_data_")
        }
        self._factory = bytearray(self.size)
        for register in model:
            self._factory[register.address : register.end] = _raw(register, register.default)
        self._eeprom = bytearray(self._factory)
        self.memory = bytearray(self._factory)
        self.generation = 0  # goes up with every write that may change how the servo behaves
        self.saved = 0  # goes up whenever what is in the EEPROM has changed
        for name, value in (eeprom or {}).items():
            register = model[name]
            if register.storage != "eeprom":
                raise RobotError(f"{name} of a {model.name} is not in its EEPROM; remove it from the saved registers")
            self._eeprom[register.address : register.end] = _raw(register, value)
        self.power_cycle()

    def get(self, name: str) -> int:
        """A register's value, sign decoded."""
        register = self._table[name]
        return register.decode(bytes(self.memory[register.address : register.end]))

    def put(self, name: str, value: int) -> None:
        """Set by the servo itself: clipped to what the field can hold; no access rule."""
        register = self._table[name]
        self.memory[register.address : register.end] = _raw(register, value)

    def save(self, name: str, value: int) -> None:
        """Set by the servo itself, and remembered in the EEPROM."""
        self.put(name, value)
        self._commit(self._table[name])
        self.generation += 1

    def poke(self, address: int, value: int) -> None:
        """Overwrite the register at an address, whatever its access: how a fault or another program changes it."""
        if address not in self._owner:
            raise RobotError(f"a {self.model.name} has no register at {address}")
        register = self._owner[address]
        self.put(register.name, value)
        if register.storage == "eeprom":
            self._commit(register)
        self.generation += 1

    def power_cycle(self) -> None:
        """EEPROM stays, RAM is as after power-on."""
        self.memory = bytearray(self._factory)
        for register in self.model:
            if register.storage == "eeprom":
                where = slice(register.address, register.end)
                self.memory[where] = self._eeprom[where]
        self.generation += 1

    def factory_reset(self, keep: tuple[str, ...] = ("id",)) -> None:
        """Everything as new but the registers in ``keep``."""
        kept = {name: self.get(name) for name in keep}
        self._eeprom = bytearray(self._factory)
        self.power_cycle()
        for name, value in kept.items():
            self.save(name, value)
        self.saved += 1

    def changed(self) -> dict[str, int]:
        """The EEPROM's registers that differ from the factory's, for storing and for the constructor."""
        return {
            register.name: register.decode(bytes(self._eeprom[register.address : register.end]))
            for register in self.model
            if register.storage == "eeprom"
            and self._eeprom[register.address : register.end] != self._factory[register.address : register.end]
        }

    def _commit(self, register: Register) -> None:
        where = slice(register.address, register.end)
        if self._eeprom[where] != self.memory[where]:
            self._eeprom[where] = self.memory[where]
            self.saved += 1

    def _resolve(self, address: int) -> int:
        pointer = self._pointer_of.get(address)
        if pointer is None:
            return address
        return int.from_bytes(self.memory[pointer : pointer + 2], "little") % self.size

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``; bytes that no register owns are 0."""
        if not self._pointer_of or self._pointer_of.keys().isdisjoint(range(address, address + size)):
            return bytes(self.memory[address : address + size]).ljust(size, b"\0")
        places = (self._resolve(a) for a in range(address, address + size))
        return bytes(self.memory[a] if a < self.size else 0 for a in places)

    def write_feetech(self, address: int, data: bytes, locked: bool) -> list[str]:
        """Write as an STS does: read-only bytes and impossible values are passed over in silence.

        EEPROM registers change at once; the change outlives a power cycle only if the servo is not ``locked``.
        Returns the names of the registers that were written.
        """
        names: list[str] = []
        for register in self._touched(range(address, address + len(data))):
            if register.access == "r":
                continue
            before = bytes(self.memory[register.address : register.end])
            for a in range(max(register.address, address), min(register.end, address + len(data))):
                self.memory[a] = data[a - address]
            value = register.decode(bytes(self.memory[register.address : register.end]))
            if register.limits is not None and not register.limits[0] <= value <= register.limits[1]:
                self.memory[register.address : register.end] = before
                continue
            if register.storage == "eeprom" and not locked:
                self._commit(register)
            names.append(register.name)
        self.generation += 1
        return names

    def check_dynamixel(self, address: int, data: bytes, torque_on: bool) -> Result:
        """Whether an X series servo would take this write; the first thing wrong with it, or ``OK``."""
        if not data:
            return Result.DATA_LENGTH
        written = self._placed(address, data)
        if any(a not in self._owner for a in written):
            return Result.ACCESS
        registers = self._touched(written)
        if any(r.access == "r" or (r.storage == "eeprom" and torque_on) for r in registers):
            return Result.ACCESS
        for register in registers:
            place = range(register.address, register.end)
            if any(a not in written for a in place):
                return Result.DATA_LENGTH
            value = register.decode(bytes(written[a] for a in place))
            if register.limits is not None and not register.limits[0] <= value <= register.limits[1]:
                return Result.DATA_RANGE
        return Result.OK

    def values_in(self, address: int, data: bytes) -> dict[str, int]:
        """The registers that a write covers whole, with the values it brings."""
        written = self._placed(address, data)
        return {
            register.name: register.decode(bytes(written[a] for a in range(register.address, register.end)))
            for register in self._touched(written)
            if all(a in written for a in range(register.address, register.end))
        }

    def write_dynamixel(self, address: int, data: bytes) -> list[str]:
        """Write what ``check_dynamixel`` allowed; returns the names of the registers."""
        written = self._placed(address, data)
        for a, byte in written.items():
            self.memory[a] = byte
        registers = self._touched(written)
        for register in registers:
            if register.storage == "eeprom":
                self._commit(register)
        self.generation += 1
        return [register.name for register in registers]

    def _placed(self, address: int, data: bytes) -> dict[int, int]:
        return {self._resolve(address + k): byte for k, byte in enumerate(data)}

    def _touched(self, addresses: range | dict[int, int]) -> list[Register]:
        found: dict[str, Register] = {}
        for a in addresses:
            register = self._owner.get(a)
            if register is not None:
                found.setdefault(register.name, register)
        return list(found.values())


def _raw(register: Register, value: int) -> bytes:
    """Encoded without the register's limits, which bind the host and not the servo, and clipped to the field."""
    bits = 8 * register.size
    if register.encoding == "sign_magnitude":
        largest = (1 << register.sign_bit) - 1
        value = max(-largest, min(largest, value))
        value = -value | 1 << register.sign_bit if value < 0 else value
        return value.to_bytes(register.size, "little")
    if register.encoding == "twos":
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        return max(low, min(high, value)).to_bytes(register.size, "little", signed=True)
    return max(0, min((1 << bits) - 1, value)).to_bytes(register.size, "little")
