"""Waiting no longer than so many seconds, whatever the thing waited for does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TooSlow(Exception):
    """The time was up."""


class _Outcome(Generic[T]):
    """What the other thread came to."""

    value: T
    error: BaseException | None = None
    done: bool = False


def within(seconds: float, work: Callable[[], T], *, abort: Callable[[], None] | None = None) -> T:
    """What ``work`` returns or raises, or ``TooSlow`` after ``seconds``.

    A time-out of a socket counts from the last byte, so a server that sends one byte a second holds a caller for ever,
    and looking a name up has no time-out at all: hence a thread, whose late answer nobody takes. ``abort`` is called
    when the time is up, to close what the thread waits for. The thread never keeps the program from ending.
    """
    outcome: _Outcome[T] = _Outcome()

    def run() -> None:
        try:
            outcome.value = work()
        except BaseException as error:  # carried over to the caller, who raises it
            outcome.error = error
        outcome.done = True

    thread = threading.Thread(target=run, daemon=True, name="bounded-wait")
    thread.start()
    thread.join(max(seconds, 0.0))
    if not outcome.done:
        if abort is not None:
            abort()
        raise TooSlow(f"no answer within {seconds:.1f} s")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
