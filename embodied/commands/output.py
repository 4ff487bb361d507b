"""What commands share: one line of JSON for programs, output and files for people, serving until somebody stops it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from rich.console import Console


def people_console(as_json: bool) -> Console:
    """People's output; out of the way of the JSON line."""
    from rich.console import Console

    return Console(stderr=as_json, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[float], None]]:
    """For commands that serve: what it yields waits for so many seconds (0: for ever), Ctrl-C, or SIGTERM."""
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        stop.set()

    def wait(seconds: float) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            stop.wait(seconds or None)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield wait
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object as a line of its own on standard output, at once."""
    sys.stdout.flush()
    print(json.dumps(data), flush=True)


def save(path: Path, content: bytes, advice: str = "choose another place") -> None:
    """Write a file and the folders above it. Raises ``EmbodiedError`` that ends with ``advice``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise EmbodiedError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
