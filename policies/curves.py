"""Training curves in the format of TensorBoard, if that is installed; read with ``tensorboard --logdir runs``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

#: Gradient steps between two points of a curve.
CURVE_EVERY = 20


class Curves:
    """Writes named numbers per step to ``<folder>/curves``; without TensorBoard it writes nothing."""

    def __init__(self, writer: Any | None) -> None:
        self._writer = writer

    @classmethod
    def to(cls, folder: Path, wanted: bool = True) -> Curves:
        """Curves in a folder; silent when not ``wanted`` (other processes of the same training) or not possible."""
        if not wanted:
            return cls(None)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return cls(None)
        return cls(SummaryWriter(str(folder / "curves")))

    def add(self, values: dict[str, float], step: int) -> None:
        """One point of each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
