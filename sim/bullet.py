"""PyBullet, quietly: its C code prints a banner at import, ``argv[0]=`` at connect and ten lines when EGL starts.

Standard output belongs to the command line (its last line may be JSON), so whatever C prints meanwhile is dropped.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def _flush_c() -> None:
    # C buffers its own stdout; without this the lines come out later, past the redirection.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what this process writes to file descriptors 1 and 2 meanwhile. Not for code that other threads print beside."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _flush_c()
    try:
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    except OSError:  # closed descriptors, as under some daemons: nothing to keep quiet
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd, _ in saved:
            os.dup2(sink, fd)
        yield
    finally:
        _flush_c()
        for fd, copy in saved:
            os.dup2(copy, fd)
            os.close(copy)
        os.close(sink)


with quiet():
    import pybullet
    from pybullet_utils.bullet_client import BulletClient

__all__ = ["BulletClient", "pybullet", "quiet"]
