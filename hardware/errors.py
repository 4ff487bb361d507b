"""The small tree of errors a user may meet. A message says what was wrong, the valid choices and the next step."""

from __future__ import annotations


class EmbodiedError(Exception):
    """Root of every error this project raises on purpose; the command line prints it as one sentence."""


class RobotError(EmbodiedError):
    """The arm, its bus, its cameras or its limits refused something."""


class UnreachableError(RobotError):
    """No joint configuration inside the limits puts the tool where it was asked to be."""


class SceneError(EmbodiedError):
    """A scene file could not be read or describes something that cannot exist."""


class CheckpointError(EmbodiedError):
    """A model folder is missing, incomplete or corrupted."""


class PlanError(EmbodiedError):
    """A planner's output is not a plan, or the plan cannot be carried out."""
