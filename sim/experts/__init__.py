"""Scripted experts: each carries out one skill on the simulated arm, for demonstrations, tests and upper bounds.

    expert = make_expert(world.spec, SkillGoal("pick", point, point))
    while not done:
        move = expert.act(robot.observe())
        robot.act(move.target)
        done = move.done

An expert sees what a policy sees, measured joints, the last command and the goal, but its goal comes from the true scene
(*privileged*). It is a function of the present rather than a script of the past, so it recovers from disturbances and a
policy can learn it; what little it remembers (has the gripper been told to close?) shows in the last command.

Adding a skill: a file with a class that has ``act``, and one line in ``EXPERTS``.
"""

from __future__ import annotations

from hardware.arm_spec import ArmSpec
from hardware.errors import EmbodiedError
from sim.experts.drawer import CloseExpert, OpenExpert
from sim.experts.expert import Expert, Move, SkillGoal
from sim.experts.pick import PickExpert
from sim.experts.place import BowlExpert, PlaceExpert, StackExpert
from sim.experts.press import PressExpert
from sim.experts.push import PushExpert
from sim.experts.reach import ReachExpert

#: Skill names and the experts that carry them out; the names are those of the policies' goals.
EXPERTS: dict[str, type[Expert]] = {
    "reach": ReachExpert,
    "pick": PickExpert,
    "place": PlaceExpert,
    "bowl": BowlExpert,
    "stack": StackExpert,
    "push": PushExpert,
    "open": OpenExpert,
    "close": CloseExpert,
    "press": PressExpert,
}
SKILLS: tuple[str, ...] = tuple(EXPERTS)


def make_expert(spec: ArmSpec, goal: SkillGoal) -> Expert:
    """The expert for a goal. Raises ``EmbodiedError`` on an unknown skill, listing those there are."""
    if goal.skill not in EXPERTS:
        raise EmbodiedError(f"there is no skill {goal.skill!r}; choose one of: {', '.join(SKILLS)}")
    return EXPERTS[goal.skill](spec, goal)


__all__ = ["EXPERTS", "SKILLS", "Expert", "Move", "SkillGoal", "make_expert"]
