"""Questions and answers on a servo bus: one request at a time, bounded in time, nothing stale, every failure counted.

A ``Bus`` belongs to one thread at a time (``hardware/servo/loop.py`` holds it while an arm runs). Every exchange:

1. drop what has come in since the last one; after a missed reply, wait first until the line is quiet;
2. send, strip the echo of a half-duplex adapter;
3. accept replies whose id and length fit what was asked, until all are there or the time is up. No reply that may still
   come to an earlier question has that length (``late_replies``).

What this does not protect against: a damaged reply whose checksum happens to fit. ``ServoLoop`` judges plausibility.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

from hardware.servo import dynamixel, feetech
from hardware.servo.late_replies import LateReplies
from hardware.servo.packet import Codec, Packet, PacketParser
from hardware.servo.port import PORT_ERRORS, WRITE_TIMEOUT, BusError, PortLost, SerialPort, close_port, open_port
from hardware.servo.registers import Protocol, Register, ServoModel

_CODECS: dict[Protocol, Codec] = {"feetech": feetech, "dynamixel": dynamixel}
_READ_SIZE = 4096
_QUIET_S = 0.002  # a line on which nothing came for this long has nothing more to say
_SETTLE_S = 0.005  # but no longer is waited for quiet
_GAP_SHARE = 0.15  # of the latency: replies that stop for longer have stopped, so asking again may still be in time
_LINE_S = 0.001  # per servo, on top of the wire time: the factory's return delay is 0.5 ms


class NoReply(BusError):
    """A servo did not answer in time, or only with damaged bytes."""


class Refused(BusError):
    """A servo answered that it will not do what was asked."""


@dataclass
class Health:
    """How well one servo answers. Counters since the bus was opened."""

    good: int = 0  # replies taken
    missed: int = 0  # requests that stayed without a whole reply, retries counted
    misses_in_a_row: int = 0
    last_s: float = -1.0  # monotonic time of the last good reply; -1 never

    def hit(self, now_s: float) -> None:
        """Count a good reply."""
        self.good, self.misses_in_a_row, self.last_s = self.good + 1, 0, now_s

    def miss(self) -> None:
        """Count a missing one."""
        self.missed, self.misses_in_a_row = self.missed + 1, self.misses_in_a_row + 1


@dataclass(frozen=True)
class Identity:
    """What a servo says it is."""

    id: int
    model_number: int
    firmware: str


class Reading(NamedTuple):
    """Telemetry of one servo at one instant."""

    stamp_s: float  # monotonic
    position: int  # counts
    velocity: float  # rad/s
    load: float  # share of full torque, -1..1; 0 where the servo does not know
    current: float  # A; 0 where the servo does not know
    voltage: float  # V
    temperature: float  # degrees Celsius
    faults: tuple[str, ...] = ()  # words of ``ServoModel.error_bits``


_SI_QUANTITIES = ("present_velocity", "present_load", "present_current", "present_voltage", "present_temperature")
_STRUCT_CODES = {1: "B", 2: "H", 4: "I"}  # by size


class _TelemetryBlock:
    """How the telemetry of a model is taken out of its block: worked out once, used for every servo in every cycle."""

    def __init__(self, model: ServoModel) -> None:
        at, size = model.telemetry
        end = at + size
        inside = [register for register in model if at <= register.address and register.end <= end]
        form = "<"
        for register in inside:
            code = _STRUCT_CODES[register.size]
            form += "x" * (register.address - at) + (code.lower() if register.encoding == "twos" else code)
            at = register.end
        self._struct = struct.Struct(form + "x" * (end - at))
        self._signs = [(k, 1 << r.sign_bit) for k, r in enumerate(inside) if r.encoding == "sign_magnitude"]
        place = {register.name: k for k, register in enumerate(inside)}
        self._position, self._flags = place["present_position"], place.get("hardware_error")
        # What a servo does not know is 0: whatever comes first in its block, taken no times.
        scales = {register.name: register.scale for register in inside}
        self._si = [(place.get(name, 0), scales.get(name, 0.0)) for name in _SI_QUANTITIES]

    def values(self, data: bytes) -> tuple[int, int, list[float]]:
        """Position in counts, error bits, and each of ``_SI_QUANTITIES``."""
        raw = list(self._struct.unpack(data))
        for k, sign in self._signs:  # as ``feetech.decode_sign_magnitude``, without a call for each of 30 fields
            magnitude = raw[k] & sign - 1
            raw[k] = -magnitude if raw[k] & sign else magnitude
        flags = 0 if self._flags is None else raw[self._flags]
        return raw[self._position], flags, [raw[k] * scale for k, scale in self._si]


@lru_cache(maxsize=64)
def _telemetry_block(model: ServoModel) -> _TelemetryBlock:
    return _TelemetryBlock(model)


class Bus:
    """Servos of one protocol on one port."""

    def __init__(
        self,
        port: SerialPort,
        models: Mapping[int, ServoModel],
        protocol: Protocol | None = None,
        *,
        name: str = "the port",
        baud: int = 1_000_000,
        latency_s: float = 0.02,
        attempts: int = 3,
    ) -> None:
        """``models`` by id; may be empty (then ``protocol`` is needed) to look for servos.

        ``latency_s`` is the longest time a healthy reply may need beyond its bytes on the wire: adapter, driver,
        scheduler. Raises ``BusError`` when the servos speak different protocols.
        """
        spoken = {model.protocol for model in models.values()} | ({protocol} if protocol else set())
        if len(spoken) != 1:
            raise BusError(f"servos on one bus must speak one protocol, not {sorted(spoken) or 'none'}; use two ports")
        self.protocol: Protocol = spoken.pop()
        self.models = dict(models)
        self.name = name
        self.health = {id_: Health() for id_ in models}
        self.strays = 0  # whole packets that nobody asked for: late replies, or two servos with one id
        self.latency_s = latency_s
        self.attempts = attempts
        self.fast = False  # use fast sync reads; set it only when every servo knows them
        self.unacknowledged: set[int] = set()  # ids of servos that reply to reads only
        self._codec = _CODECS[self.protocol]
        self._port = port
        self._byte_s = 10.0 / baud
        self._echo: bool | None = None  # not known yet
        self._dirty = True  # something may still be on its way
        self._late = LateReplies()
        self._bad = 0
        self._closed = False

    @classmethod
    def open(cls, url: str, models: Mapping[int, ServoModel], protocol: Protocol | None = None, *,
             baud: int = 1_000_000, latency_s: float = 0.02, attempts: int = 3) -> Bus:  # fmt: skip
        """Open a port for this process alone. Raises ``PortTaken`` or ``PortError``."""
        port = open_port(url, baud)
        try:
            return cls(port, models, protocol, name=url, baud=baud, latency_s=latency_s, attempts=attempts)
        except BusError:
            close_port(port)
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def damaged(self) -> int:
        """Frames that failed their checksum or made no sense, since the bus was opened."""
        return self._bad

    def close(self) -> None:
        """Release the port; safe to call twice. Leaves the servos as they are."""
        if not self._closed:
            self._closed = True
            close_port(self._port)

    # ---- single servos

    def identify(self, id: int, attempts: int | None = None) -> Identity:
        """Model and firmware of a servo of any model. Raises ``NoReply``."""
        if self.protocol == "dynamixel":
            params = self._ask(id, dynamixel.ping(id), 3, attempts).params
            return Identity(id, int.from_bytes(params[:2], "little"), str(params[2]))
        params = self._read(id, 0, 5, attempts)
        return Identity(id, int.from_bytes(params[3:5], "little"), f"{params[0]}.{params[1]}")

    def read(self, id: int, name: str) -> int:
        """One register, raw, sign decoded. Raises ``NoReply`` or ``Refused``."""
        register = self._register(id, name)
        return register.decode(self._read(id, register.address, register.size))

    def write(self, id: int, name: str, value: int) -> None:
        """Write one register, raw. Raises ``NoReply`` or ``Refused``; ``BusError`` for a value that does not fit."""
        register = self._register(id, name)
        if register.access == "r":
            raise BusError(f"{name} of servo {id} can only be read")
        request = self._codec.write(id, register.address, register.encode(value))
        if id in self.unacknowledged:
            self._send(self._codec.encode(request))
        else:
            self._ask(id, request, 0)

    def ensure(self, id: int, name: str, value: int) -> bool:
        """Make a register hold ``value``; writes only when it differs, so that EEPROM lasts. True when it was written.

        Raises ``Refused`` when it does not hold the value afterwards, or would change EEPROM while torque is on.
        """
        register = self._register(id, name)
        register.encode(value)  # refuse what does not fit before anything is sent
        if self.read(id, name) == value:
            return False
        persistent = register.storage == "eeprom"
        if persistent and self.read(id, "torque_enable") != 0:
            raise Refused(
                f"{name} of servo {id} must change, but its torque is on: support the arm, switch torque off, try again"
            )
        locked = persistent and "lock" in self.models[id]
        if locked:
            self.write(id, "lock", 0)
        try:
            self.write(id, name, value)
        finally:
            if locked:
                self.write(id, "lock", 1)
        found = self.read(id, name)
        if found != value:
            raise Refused(f"{name} of servo {id} is {found} after writing {value}; does its firmware know this value?")
        return True

    def reboot(self, id: int) -> None:
        """Restart a servo: it loses torque and all settings in RAM, and a latched hardware error. Waits until it is back.

        Raises ``NoReply`` when it does not come back within two seconds.
        """
        self._send(self._codec.encode(self._codec.reboot(id)))
        end = time.monotonic() + 2.0
        while True:
            time.sleep(0.1)
            self._dirty = True  # the acknowledgement of a Dynamixel is not waited for
            try:
                self.identify(id, attempts=1)
                return
            except NoReply:
                if time.monotonic() > end:
                    raise

    # ---- all servos at once

    def sync_read(
        self, address: int, size: int, ids: Sequence[int], budget_s: float | None = None, first: bytes = b""
    ) -> dict[int, tuple[int, bytes]]:
        """The same block of several servos: id -> (error byte, data). Servos that stayed silent are missing.

        Asks the silent ones again while there is time left in ``budget_s`` (seconds, default: enough for all attempts).
        ``first``: frames that nobody replies to, sent once, in front of the first request.
        """
        found: dict[int, tuple[int, bytes]] = {}
        begins: dict[int, int] = {}  # length of the block asked for -> its address; a retry may ask for more
        end = time.monotonic() + (self._time(size, len(ids)) * self.attempts if budget_s is None else budget_s)
        for attempt in range(self.attempts):
            missing = [id_ for id_ in ids if id_ not in found]
            left = end - time.monotonic()
            if not missing or (attempt and left <= 0.0):
                break
            # A chain with a silent member may break off, and the ids in it do not tell late ones apart: the plain way then.
            if self.fast and not self._late:
                found.update(self._fast_read(address, size, missing, min(self._time(size, len(missing)), left), first))
                first = b""
                continue
            begin, length = self._block(ids, address, size)
            begins = {**{n: k for n, k in begins.items() if n != length}, length: begin}  # the newest last
            sent = first + _sync_read(self.protocol, begin, length, tuple(missing))
            wait = min(self._time(length, len(missing)), left)
            for id_, packet in self._exchange(sent, dict.fromkeys(missing, tuple(begins)), wait).items():
                skip = address - begins.get(len(packet.params), address)
                found[id_] = packet.code, packet.params[skip : skip + size]
            first = b""
        return found

    def read_all(self, name: str, ids: Sequence[int] | None = None, budget_s: float | None = None) -> dict[int, int]:
        """One register of several servos, raw. Servos that stayed silent are missing."""
        values: dict[int, int] = {}
        for register, group in self._groups(name, self.models if ids is None else ids):
            for id_, (_, data) in self.sync_read(register.address, register.size, group, budget_s).items():
                values[id_] = register.decode(data)
        return values

    def write_all(self, name: str, values: Mapping[int, int]) -> None:
        """Write one register of several servos, raw, in one packet. No servo acknowledges this."""
        for frame in self._sync_writes(name, values):
            self._send(frame)

    def telemetry(
        self, ids: Sequence[int] | None = None, budget_s: float | None = None, goals: Mapping[int, int] | None = None
    ) -> dict[int, Reading]:
        """All telemetry of several servos in one exchange. Servos that stayed silent are missing.

        ``goals`` (counts, by id) are written first, in the same transmission: the driver and the adapter are asked once.
        """
        first = b"".join(self._sync_writes("goal_position", goals)) if goals else b""
        groups: dict[tuple[int, int], list[int]] = {}
        for id_ in self.models if ids is None else ids:
            groups.setdefault(self.models[id_].telemetry, []).append(id_)
        readings: dict[int, Reading] = {}
        for (address, size), group in groups.items():
            for id_, (error, data) in self.sync_read(address, size, group, budget_s, first).items():
                if len(data) == size:  # a refusal brings nothing
                    readings[id_] = self._reading(id_, error, data)
            first = b""
        return readings

    def torque_off(self, ids: Iterable[int] | None = None) -> dict[int, str]:
        """Make servos limp, whatever it takes: every servo is tried, silent or not. Never raises.

        Returns id -> why, for those that may still hold.
        """
        ids = list(self.models if ids is None else ids)
        try:
            for _ in range(2):
                self.write_all("torque_enable", dict.fromkeys(ids, 0))
        except BusError as error:
            return dict.fromkeys(ids, str(error))
        failed: dict[int, str] = {}
        for id_ in ids:
            try:
                if self.read(id_, "torque_enable") != 0:
                    self.write(id_, "torque_enable", 0)
                    if self.read(id_, "torque_enable") != 0:
                        failed[id_] = f"servo {id_} keeps its torque on"
            except BusError as error:
                failed[id_] = str(error)
        return failed

    # ---- the wire

    def _register(self, id: int, name: str) -> Register:
        if id not in self.models:
            raise BusError(f"servo {id} is not on this bus; known ids: {', '.join(map(str, self.models)) or 'none'}")
        return self.models[id][name]

    def _groups(self, name: str, ids: Iterable[int]) -> list[tuple[Register, list[int]]]:
        """The ids by where the register lies in their tables: one group, unless quite different servos share a bus."""
        groups: dict[tuple[int, int], tuple[Register, list[int]]] = {}
        for id_ in ids:
            register = self._register(id_, name)
            groups.setdefault((register.address, register.size), (register, []))[1].append(id_)
        return list(groups.values())

    def _sync_writes(self, name: str, values: Mapping[int, int]) -> list[bytes]:
        """The frames that write one register of several servos."""
        frames: list[bytes] = []
        for register, group in self._groups(name, values):
            blocks = {id_: register.encode(values[id_]) for id_ in group}
            frames.append(self._codec.encode(self._codec.sync_write(register.address, blocks)))
        return frames

    def _reading(self, id: int, error: int, data: bytes) -> Reading:
        model = self.models[id]
        position, flags, si = _telemetry_block(model).values(data)
        if self.protocol == "feetech":
            flags |= error
        elif error & dynamixel.ALERT:  # the flags lie outside the block: one more question, only when there is news
            register = model["hardware_error"]
            try:
                flags = register.decode(self._read(id, register.address, register.size, attempts=1))
            except (NoReply, Refused):
                flags = 0
        velocity, load, current, voltage, temperature = si
        faults = model.faults(flags) if flags else ()
        return Reading(self.health[id].last_s, position, velocity, load, current, voltage, temperature, faults)

    def _time(self, size: int, servos: int) -> float:
        """How long to wait for the replies of ``servos`` servos with ``size`` bytes each, the request included."""
        return self.latency_s + (30 + servos * (size + 12)) * self._byte_s + servos * _LINE_S

    def _block(self, ids: Sequence[int], address: int, size: int) -> tuple[int, int]:
        """Address and length of a block around the one that is wanted, as long as no reply that may still come."""
        if not self._late:
            return address, size
        known = [max(register.end for register in self.models[id_]) for id_ in ids if id_ in self.models]
        end = min(known, default=address + 2 * size)
        length = self._late.another_length(ids, size, end, time.monotonic())
        return (address if length == size else min(address, end - length)), length

    def _read(self, id: int, address: int, size: int, attempts: int | None = None) -> bytes:
        """A block of one servo, asked for again while it stays silent. Raises ``NoReply`` or ``Refused``."""
        begins: dict[int, int] = {}
        for _ in range(self.attempts if attempts is None else attempts):
            begin, length = self._block([id], address, size)
            begins = {**{n: k for n, k in begins.items() if n != length}, length: begin}
            request = self._codec.read(id, begin, length)
            reply = self._exchange(self._codec.encode(request), {id: tuple(begins)}, self._time(length, 1)).get(id)
            if reply is not None:
                self._obeyed(request, reply)
                skip = address - begins[len(reply.params)]
                return reply.params[skip : skip + size]
        raise self._silent(id)

    def _ask(self, id: int, request: Packet, size: int, attempts: int | None = None) -> Packet:
        """A request whose reply has a fixed length, asked again while the servo stays silent."""
        owed = size in self._late.lengths(
            [id], time.monotonic()
        )  # one acknowledgement looks like the other: let it pass
        quiet_s = self._time(size, 1) if owed else _QUIET_S
        for _ in range(self.attempts if attempts is None else attempts):
            reply = self._exchange(self._codec.encode(request), {id: (size,)}, self._time(size, 1), quiet_s).get(id)
            if reply is not None:
                self._obeyed(request, reply)
                return reply
            quiet_s = _QUIET_S  # what comes now is about this very request
        raise self._silent(id)

    def _obeyed(self, request: Packet, reply: Packet) -> None:
        """Raises ``Refused`` when the reply says no."""
        if self.protocol == "dynamixel" and (result := reply.code & ~dynamixel.ALERT):
            known = {r.value for r in dynamixel.Result}
            word = dynamixel.Result(result).name.lower().replace("_", " ") if result in known else f"{result}"
            raise Refused(f"servo {reply.id} refused {_told(request)}: {word} error")

    def _silent(self, id: int) -> NoReply:
        return NoReply(f"servo {id} on {self.name} does not answer; check its cable, its power and its id")

    def _fast_read(
        self, address: int, size: int, ids: Sequence[int], wait_s: float, first: bytes
    ) -> dict[int, tuple[int, bytes]]:
        sent = first + _sync_read(self.protocol, address, size, tuple(ids), fast=True)
        length = len(ids) * (size + 4) - 3  # the parameters: all but the first error byte and the packet's own CRC
        replies = self._exchange(sent, {dynamixel.BROADCAST: (length,)}, wait_s)
        found: dict[int, tuple[int, bytes]] = {}
        if dynamixel.BROADCAST in replies:
            shares = dynamixel.decode_fast_status(replies[dynamixel.BROADCAST], [size] * len(ids))
            found = {share.id: (share.error, share.data) for share in shares if share.id in ids}
        now = time.monotonic()
        for id_ in found:
            self.health[id_].hit(now)
        for id_ in set(ids) - set(found):
            self.health[id_].miss()
        return found

    def _send(self, frame: bytes) -> None:
        """A frame that nobody replies to. Its echo is dropped with the stale input before the next one."""
        self._settle()
        self._write(frame)

    def _exchange(
        self, sent: bytes, wanted: Mapping[int, tuple[int, ...]], wait_s: float, quiet_s: float = _QUIET_S
    ) -> dict[int, Packet]:
        """Send and collect replies. Raises ``PortLost``.

        ``sent`` ends with the request. ``wanted`` is id -> numbers of parameters: last the one asked for now, before it those
        of earlier attempts at the same question.
        """
        self._settle(quiet_s)
        parser = _new_parser(self.protocol)
        replies: dict[int, Packet] = {}
        begun, held, echo = False, b"", self._echo is not False
        total = sum(lengths[-1] + (11 if self.protocol == "dynamixel" else 6) for lengths in wanted.values())
        self._write(sent)
        end, quiet = time.monotonic() + wait_s, math.inf
        missing = total + (len(sent) if self._echo else 0)
        while len(replies) < len(wanted):
            data = self._receive(max(missing, 1))
            missing -= len(data)
            came = bool(data)
            if echo and not begun:  # the first bytes may be our own
                held += data
                if len(held) < len(sent) and sent.startswith(held):
                    data = b""
                else:
                    begun = True
                    heard = held.startswith(sent)
                    data = held[len(sent) :] if heard else held
                    missing += len(sent) if heard and self._echo is None else 0
                    echo = heard
            now = time.monotonic()
            if came:
                quiet = now + self.latency_s * _GAP_SHARE
            late = now >= min(end, quiet)
            packets = parser.feed(data)
            if late:
                packets += (parser.feed(held) if echo and not begun else []) + parser.flush()
            for packet in packets:
                self._take(packet, wanted, replies, now)
            if late:
                break
        if (
            self._echo is None and replies and total != len(sent)
        ):  # a reply of the length of its question proves nothing
            self._echo = echo and begun
        self._bad += parser.bad
        for id_, lengths in wanted.items():
            self._count(id_, lengths, replies.get(id_))
        return replies

    def _count(self, id: int, lengths: tuple[int, ...], reply: Packet | None) -> None:
        """What is still owed after an exchange: the reply, or, where that of an earlier attempt was taken, this one's."""
        if reply is None and id in self.health:
            self.health[id].miss()
        if reply is None or len(reply.params) in lengths[:-1]:
            self._late.note(id, lengths[-1], time.monotonic())
            self._dirty = True

    def _take(
        self, packet: Packet, wanted: Mapping[int, tuple[int, ...]], replies: dict[int, Packet], now_s: float
    ) -> None:
        refusal = self.protocol == "dynamixel" and not packet.params and packet.code & ~dynamixel.ALERT
        if packet.id in wanted and packet.id not in replies and (len(packet.params) in wanted[packet.id] or refusal):
            replies[packet.id] = packet
            if packet.id in self.health:
                self.health[packet.id].hit(now_s)
        else:
            self.strays += 1

    def _settle(self, quiet_s: float = _QUIET_S) -> None:
        """Drop what has come in; after a missed reply, until nothing has come for ``quiet_s``."""
        self._check_open()
        end = time.monotonic() + max(_SETTLE_S, 2.0 * quiet_s)
        quiet = time.monotonic() + (quiet_s if self._dirty or quiet_s > _QUIET_S else 0.0)
        try:
            while True:
                now = time.monotonic()
                if self._port.in_waiting:
                    self._port.read(_READ_SIZE)
                    quiet = max(quiet, time.monotonic() + quiet_s) if self._dirty else quiet
                elif now >= quiet:
                    break
                else:
                    time.sleep(0.0005)
                if now >= end:  # checked last: however late this thread was woken, what had come in is dropped
                    break
        except PORT_ERRORS as error:
            raise self._lost(error) from error
        self._dirty = False

    def _check_open(self) -> None:
        if self._closed:
            raise PortLost(f"{self.name} has been closed; open the arm again")

    def _write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except WRITE_TIMEOUT:  # perhaps sent, perhaps not: what was asked for will be missing, and that is dealt with
            self._dirty = True
        except PORT_ERRORS as error:
            raise self._lost(error) from error

    def _receive(self, size: int) -> bytes:
        try:
            return bytes(self._port.read(size))
        except PORT_ERRORS as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> PortLost:
        return PortLost(
            f"{self.name} went away ({error}); the servos hold their last goal. Check cable and power, then start again"
        )


@lru_cache(maxsize=64)
def _sync_read(protocol: Protocol, address: int, size: int, ids: tuple[int, ...], fast: bool = False) -> bytes:
    """The frame that asks several servos for the same block: the same in every cycle."""
    if fast:
        return dynamixel.encode(dynamixel.sync_read(address, size, ids, fast=True))
    codec = _CODECS[protocol]
    return codec.encode(codec.sync_read(address, size, ids))


def _new_parser(protocol: Protocol) -> PacketParser:
    return dynamixel.Parser("status") if protocol == "dynamixel" else feetech.Parser("status")


def _told(request: Packet) -> str:
    return f"instruction {request.code:#04x} with {request.params.hex(' ') or 'no parameters'}"
