"""What is left after a plan about several things: the planner is asked once more, with the same words and a new picture.

A planner that overlooks one cube of "all the cubes", or names one that is not there, sees the table better when the others
are away. Only work that can be told from its result is asked about again: things carried into containers, from words that
speak of several. "Put the left cube in the bowl" would mean the next cube by then.

What this does not protect against: a thing put into the wrong container stays there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from embodied.grounding import kind_of, on_table, usual_size
from embodied.plan import Home, Pick, Place, Plan, SkillCall
from hardware.camera_model import CameraModel
from hardware.errors import PlanError
from sim.scene import CONTAINERS

_NOUNS = (
    "things|objects|items|stuff|cubes|blocks|boxes|bricks|cylinders|cans|tubes|tins|rolls|barrels|balls|spheres|orbs"
)
#: Words for a whole set, its members unnamed, and for work that ends when nothing is left. Not "all right", "sort of", nor
#: what is only said in passing: "I am tidying up.", "time to clean up: put the left cube in the bowl".
_SEVERAL = re.compile(
    rf"""\b(?:
      (?<!of\ )(?<!at\ )(?<!after\ )(?<!is\ )(?<!'s\ )all(?!\ right|\ done)
    | every(?:thing|one)? | each | both | anything | whatever | {_NOUNS}
    | colou?rs | by\ (?:(?:their|its)\ )?colou?r | sort(?!\ of)(?:ing|ed)?
    | (?:clear|clean|free|tidy|tidied|empty|emptied)(?:ing|ed)?\ (?:up\ |off\ )?(?:the\ |this\ |my\ )?table
    | table\ (?:\w+\ ){{0,4}}(?:clear|clean|tidy|tidied|empty|emptied)(?:ed)?
    | (?:tidy|clean|tidied|cleaned)\ up(?!:) | declutter | order\ on\ the\ table | red\ (?:to|with)\ red
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def speaks_of_several(instruction: str) -> bool:
    """Whether words ask for a set of things rather than for one that they single out."""
    return _SEVERAL.search(instruction) is not None


def collects(plan: Plan) -> bool:
    """Whether a plan does nothing but carry things into containers."""
    places = [call for call in plan.calls if isinstance(call, Place)]
    return bool(places) and all(
        isinstance(call, Pick | Home) or (isinstance(call, Place) and kind_of(call.object) in CONTAINERS)
        for call in plan.calls
    )


def left_to_do(again: Plan, before: Sequence[SkillCall], model: CameraModel) -> Plan | None:
    """What of the answer ``again`` is still to be done after the calls ``before``; None when that is nothing.

    ``model``: the camera of both pictures. What lies in a container already is left there.
    """
    if not collects(again):
        return None
    try:
        containers = [
            (on_table(model, call.point)[:2], 0.5 * usual_size(call.object)[0])
            for call in (*before, *again.calls) if isinstance(call, Place)
        ]  # fmt: skip
        calls: list[SkillCall] = []
        pick: Pick | None = None
        for call in again.calls:
            if isinstance(call, Pick):
                spot = on_table(model, call.point)[:2]
                pick = None if any(math.dist(spot, middle) < radius for middle, radius in containers) else call
            elif isinstance(call, Place) and pick is not None:
                calls += [pick, call]
                pick = None
    except PlanError:  # a point that is not on the table
        return None
    return Plan(calls=tuple(calls)) if calls else None
