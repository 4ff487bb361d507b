"""Keeps what C libraries print (PyBullet's and the renderer's banners) out of the user's terminal.

They write to file descriptor 1 behind Python's back, so the descriptor itself is exchanged; Python's own ``sys.stdout``
goes on to the real one. Python's errors on ``sys.stderr`` are never hidden.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def c_output_hidden() -> Iterator[None]:
    """While inside, only Python writes to stdout. Does nothing where stdout is not the process's own."""
    try:
        ours = sys.stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        yield
        return
    _import_pybullet_quietly()
    sys.stdout.flush()
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        with os.fdopen(os.dup(saved), "w", encoding=sys.stdout.encoding, buffering=1) as real, redirect_stdout(real):
            yield
    finally:
        # Descriptor 1 stays on /dev/null for what C code still holds in its buffers; it is flushed at exit only.
        os.dup2(saved, 1)
        os.close(saved)


def _import_pybullet_quietly() -> None:
    """PyBullet greets on stderr when it is imported."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import pybullet  # noqa: F401
    except ImportError:
        return  # whoever needs it will say so
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
