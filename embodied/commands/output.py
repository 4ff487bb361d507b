"""What all commands do with their results: one line of JSON for programs, files for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hardware.errors import EmbodiedError


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
