"""A serial port with servos behind it, in memory: byte for byte, without time of its own, so that every damage can be done."""

from __future__ import annotations

import time
from collections.abc import Callable

from hardware.servo import dynamixel, feetech
from hardware.servo.packet import Packet
from hardware.servo.registers import STS3215, XL330_M288, XL430_W250, ServoModel

Tamper = Callable[[bytes, list[bytes]], list[bytes]]


class Line:
    """A port with servos behind it. ``tamper(request, replies)`` may damage, drop or add replies."""

    def __init__(self, models: dict[int, ServoModel], tamper: Tamper | None = None) -> None:
        self.models = models
        self.tamper = tamper
        self.tables = {id_: bytearray(1024) for id_ in models}
        self.protocol = next(iter(models.values())).protocol
        self.alert: dict[int, int] = {}  # id -> error byte
        self.sent: list[Packet] = []
        self.late_s = 0.0
        self.broken: Exception | None = None
        self._parser = feetech.Parser("instruction") if self.protocol == "feetech" else dynamixel.Parser("instruction")
        self._buffer: list[tuple[float, bytes]] = []
        for id_, model in models.items():
            for register in model:
                self.poke(id_, register.name, register.default)
            self.poke(id_, "id", id_)
            self.poke(id_, "present_position", 2048)
            self.poke(id_, "present_voltage", 74)

    def poke(self, id_: int, name: str, value: int) -> None:
        register = self.models[id_][name]
        raw = value if register.limits is None else max(register.limits[0], min(register.limits[1], value))
        self.tables[id_][register.address : register.end] = register.encode(raw)

    def peek(self, id_: int, name: str) -> int:
        register = self.models[id_][name]
        return register.decode(bytes(self.tables[id_][register.address : register.end]))

    def writes(self) -> list[Packet]:
        return [p for p in self.sent if p.code == feetech.Instruction.WRITE]

    # -- the port

    @property
    def in_waiting(self) -> int:
        self._check()
        now = time.monotonic()
        return sum(len(data) for ready, data in self._buffer if ready <= now)

    def read(self, size: int = 1) -> bytes:
        end = time.monotonic() + 0.001
        while True:
            count = self.in_waiting
            if count or time.monotonic() >= end:
                break
            time.sleep(0.0002)
        data = b""
        while self._buffer and self._buffer[0][0] <= time.monotonic() and len(data) < size:
            _, chunk = self._buffer.pop(0)
            data += chunk
        if len(data) > size:
            self._buffer.insert(0, (0.0, data[size:]))
        return data[:size]

    def write(self, data: bytes) -> int:
        self._check()
        for packet in self._parser.feed(data):
            self.sent.append(packet)
            replies = self._replies(packet)
            for reply in self.tamper(data, replies) if self.tamper else replies:
                self._buffer.append((time.monotonic() + self.late_s, reply))
        return len(data)

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    # -- the servos

    def _status(self, id_: int, data: bytes = b"") -> bytes:
        packet = Packet(id_, self.alert.get(id_, 0), data)
        return feetech.encode(packet, "status") if self.protocol == "feetech" else dynamixel.encode(packet, "status")

    def _write(self, id_: int, address: int, data: bytes) -> None:
        self.tables[id_][address : address + len(data)] = data
        if self.peek(id_, "torque_enable") == 1:
            self.poke(id_, "present_position", self.peek(id_, "goal_position"))

    def _replies(self, packet: Packet) -> list[bytes]:
        codec = feetech if self.protocol == "feetech" else dynamixel
        code, params = packet.code, packet.params
        wide = self.protocol == "dynamixel"
        if code == dynamixel.Instruction.FAST_SYNC_READ and (asked := codec.parse_sync_read(params)):
            shares = [
                dynamixel.Share(i, 0, bytes(self.tables[i][asked.address : asked.address + asked.size]))
                for i in asked.ids
                if i in self.tables
            ]
            return [dynamixel.encode_fast_status(shares)] if len(shares) == len(asked.ids) else []
        if code == feetech.Instruction.SYNC_READ and (asked := codec.parse_sync_read(params)):
            here = [i for i in asked.ids if i in self.tables]
            return [self._status(i, bytes(self.tables[i][asked.address : asked.address + asked.size])) for i in here]
        if code == feetech.Instruction.SYNC_WRITE and (order := codec.parse_sync_write(params)):
            for id_, data in order.data.items():
                if id_ in self.tables:
                    self._write(id_, order.address, data)
            return []
        if packet.id not in self.tables:
            return []
        if code == feetech.Instruction.PING:
            if not wide:
                return [self._status(packet.id)]
            model = self.models[packet.id]
            return [self._status(packet.id, model.number.to_bytes(2, "little") + bytes((model["firmware"].default,)))]
        if code == feetech.Instruction.READ:
            address, size = (int.from_bytes(params[:2], "little"), params[2]) if wide else (params[0], params[1])
            return [self._status(packet.id, bytes(self.tables[packet.id][address : address + size]))]
        if code == feetech.Instruction.WRITE:
            address, data = (int.from_bytes(params[:2], "little"), params[2:]) if wide else (params[0], params[1:])
            self._write(packet.id, address, data)
            return [self._status(packet.id)]
        return [self._status(packet.id)] if wide else []


STS = dict.fromkeys((1, 2, 3), STS3215)
XL = {1: XL430_W250, 2: XL330_M288, 3: XL330_M288}
