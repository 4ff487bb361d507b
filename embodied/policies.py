"""The policies there are by name: shipped, scripted, in a folder, or behind a connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from hardware.robot import Robot
    from policies.policy import Policy


def make_policy(policy: str | Path | None) -> Policy:
    """The shipped policy, one of ``"point"``, ``"refiner"``, ``"scripted"``, a folder, ``"lerobot:FOLDER"``, ``"ws://HOST:PORT"``.

    Raises ``CheckpointError`` when there is none, ``PolicyError`` when its server does not answer.
    """
    if policy == "scripted":
        from embodied.scripted_policy import ScriptedPolicy

        return ScriptedPolicy()
    from policies.outside.address import is_outside, load_outside

    if isinstance(policy, str) and is_outside(policy):
        return load_outside(policy)
    from policies.checkpoint import load_policy

    return load_policy(policy)


def policy_for(robot: Robot, policy: str | Path | None) -> Policy:
    """As ``make_policy``, for this robot's arm. Raises ``CheckpointError`` when the policy was trained for another."""
    if policy == "scripted":
        from embodied.scripted_policy import ScriptedPolicy

        return ScriptedPolicy(robot.spec, robot.control_hz)
    from policies.checkpoint import read_config
    from policies.outside.address import is_outside

    if isinstance(policy, str) and is_outside(policy):
        return make_policy(policy)  # which says itself what it is for
    made_for = read_config(policy)["made"].get("arm", "so101")  # policies that do not say were trained on that one
    if made_for != robot.spec.name:
        raise CheckpointError(
            f"this policy was trained on a {made_for} and the arm is a {robot.spec.name}, whose joints lie elsewhere; train "
            "one for it, or use --policy scripted"
        )
    return make_policy(policy)
