"""Replies that did not come in time, and how no later question takes one of them for its answer.

A reply says who speaks and brings some bytes; the protocols have no room to say what was asked. So a question to a servo
that still owes a reply asks for a number of bytes that no owed reply has::

    read position, 2 bytes   ->   ...nothing
    read load,     4 bytes   ->   2 bytes: the late reply, dropped; 4 bytes: the answer, two of which are not needed

What this does not protect against: replies later than ``LATEST_S``, those to all but the last ``REMEMBERED`` questions
that a servo left open, and acknowledgements of writes, which have no bytes: before the next write, ``Bus`` waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

LATEST_S = 1.0
REMEMBERED = 16
_PING = 3  # bytes that a Dynamixel brings when it is pinged; a ping cannot ask for more


class LateReplies:
    """The replies that may still come, by servo. True while there are any."""

    def __init__(self) -> None:
        self._owed: dict[int, deque[tuple[float, int]]] = {}  # id -> (monotonic s, bytes), oldest first

    def __bool__(self) -> bool:
        return bool(self._owed)

    def note(self, id: int, length: int, now_s: float) -> None:
        """A servo was asked for so many bytes and has not brought them."""
        self._owed.setdefault(id, deque(maxlen=REMEMBERED)).append((now_s, length))

    def lengths(self, ids: Iterable[int], now_s: float) -> set[int]:
        """How many bytes the replies have that any of these servos still owes."""
        found: set[int] = set()
        for id_ in ids:
            owed = self._owed.get(id_)
            while owed and owed[0][0] < now_s - LATEST_S:
                owed.popleft()
            if owed:
                found.update(length for _, length in owed)
            elif owed is not None:
                del self._owed[id_]
        return found

    def another_length(self, ids: Iterable[int], size: int, most: int, now_s: float) -> int:
        """How many bytes to ask these servos for: ``size`` or a few more, at most ``most`` if that can be."""
        owed = self.lengths(ids, now_s)
        if size not in owed:
            return size
        return next((n for n in range(size + 1, most + 1) if n not in owed and n != _PING), size)
