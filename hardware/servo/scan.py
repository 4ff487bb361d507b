"""Who is on a serial line, when neither protocol, baud rate nor ids are known.

A broadcast ping is answered by every servo that hears it. Where servos talk at the same time, as two with one id do, the
answer is damaged; then the ids named are asked one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hardware.servo import dynamixel, feetech
from hardware.servo.bus import Bus, Health, Identity, NoReply, Refused
from hardware.servo.packet import Codec, PacketParser
from hardware.servo.port import PORT_ERRORS, PortLost, SerialPort, close_port, open_port
from hardware.servo.registers import MODELS, Protocol, ServoModel

PROTOCOLS: tuple[Protocol, ...] = ("feetech", "dynamixel")
#: Rates of the servos in ``registers``, the likely ones first.
BAUDS: dict[Protocol, tuple[int, ...]] = {
    protocol: tuple(
        sorted(
            {rate for model in MODELS.values() if model.protocol == protocol for rate in model.baud_codes.values()},
            key=lambda rate: (rate != 1_000_000, rate != 57_600, -rate),
        )
    )
    for protocol in PROTOCOLS
}

_QUIET_S = 0.06  # nobody says anything after a silence this long
_LONGEST_S = 1.5
_PROBES = 8  # reads that must come back undamaged before a servo is believed to be alone with its id


@dataclass(frozen=True)
class Found:
    """The servos that answer in one protocol at one baud rate."""

    protocol: Protocol
    baud: int
    servos: tuple[Identity, ...]
    damaged: bool = False  # something answered that could not be understood: two servos at once, or a bad line


def scan(
    url: str, protocols: Sequence[Protocol] = PROTOCOLS, bauds: Sequence[int] | None = None, ids: Iterable[int] = (),
    thorough: bool = False,
) -> list[Found]:  # fmt: skip
    """Everyone who answers on a port, likely rates first.

    ``ids`` are asked one by one where the broadcast was answered; ``thorough`` asks them at every rate. Stops at the
    first rate at which somebody answers, unless ``thorough``. Raises ``PortError`` when the port cannot be opened.
    """
    found: list[Found] = []
    pairs = [(protocol, baud) for protocol in protocols for baud in bauds or BAUDS[protocol]]
    for protocol, baud in sorted(
        pairs, key=lambda pair: BAUDS[pair[0]].index(pair[1]) if pair[1] in BAUDS[pair[0]] else 99
    ):
        here = listen(url, protocol, baud, ids if thorough or baud in (1_000_000, 57_600) else (), ids)
        if here.servos or here.damaged:
            found.append(here)
            if here.servos and not thorough:
                break
    return found


def listen(url: str, protocol: Protocol, baud: int, always: Iterable[int] = (), ids: Iterable[int] = ()) -> Found:
    """Who answers in one protocol at one rate: to a broadcast, then ``always``, and ``ids`` if there was an answer."""
    answered, damaged = _broadcast(url, protocol, baud)
    asked = set(always) | (set(ids) if answered or damaged else set())
    servos: list[Identity] = []
    if not answered and not asked:
        return Found(protocol, baud, (), damaged)
    with Bus.open(url, {}, protocol, baud=baud) as bus:
        for id_ in sorted(answered | asked):
            try:
                servos.append(bus.identify(id_, attempts=3 if id_ in answered else 1))
            except (NoReply, Refused):
                damaged = damaged or id_ in answered
        damaged = damaged or bus.damaged > 0
    return Found(protocol, baud, tuple(servos), damaged)


def alone(bus: Bus, id: int) -> bool:
    """Whether one servo only answers to this id: two never tell the same position, load and voltage for long."""
    before, missed = bus.damaged, bus.health.setdefault(id, Health()).missed
    block = bus.models[id].telemetry
    for _ in range(_PROBES):
        bus.sync_read(*block, [id])
    return bus.damaged == before and bus.health[id].missed - missed <= _PROBES // 4


def known_model(number: int, protocol: Protocol) -> ServoModel | None:
    """The servo type with this model number."""
    return next((m for m in MODELS.values() if m.number == number and m.protocol == protocol), None)


def _broadcast(url: str, protocol: Protocol, baud: int) -> tuple[set[int], bool]:
    """The ids that answer a ping to all, and whether anything was damaged."""
    codec: Codec = feetech if protocol == "feetech" else dynamixel
    parser: PacketParser = feetech.Parser("status") if protocol == "feetech" else dynamixel.Parser("status")
    request = codec.encode(codec.ping(codec.BROADCAST))
    port = open_port(url, baud)
    try:
        heard = _heard(port, request)
    except PORT_ERRORS as error:
        raise PortLost(f"{url} went away ({error}); check the cable") from error
    finally:
        close_port(port)
    packets = parser.feed(heard.removeprefix(request)) + parser.flush()  # a half-duplex adapter tells our own bytes too
    ids = [packet.id for packet in packets]
    return set(ids), parser.bad > 0 or parser.skipped > 0 or len(ids) != len(set(ids))


def _heard(port: SerialPort, request: bytes) -> bytes:
    while port.in_waiting:
        port.read(4096)
    port.write(request)
    heard = b""
    begun = quiet = time.monotonic()
    while (now := time.monotonic()) - quiet < _QUIET_S and now - begun < _LONGEST_S:
        data = port.read(4096)
        if data:
            heard += data
            quiet = now
    return heard
