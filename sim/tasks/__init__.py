"""Tasks: a scene, an instruction in plain words, and a condition that says whether it has been carried out.

    sample = TASKS["stack"].sample(rng)
    world.load(sample.scene); start = Start.of(world)
    ...                                                   # sample.instruction is all the agent is told
    success(world, sample, start)

Adding a task: a family in a file of this folder, and one line in ``TASKS``.
"""

from __future__ import annotations

from sim.conditions import Start, holds
from sim.tasks.fixtures import close_drawer, open_drawer, press_button
from sim.tasks.placing import beside, place, stack
from sim.tasks.single import pick, push, reach
from sim.tasks.task import Part, Step, Task, TaskSample
from sim.tasks.tidying import chain, clear_table, sort_by_color, sort_by_kind
from sim.world import World

#: Every task by name.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("reach", reach),
        Task("pick", pick),
        Task("place", place),
        Task("place_left", beside("left")),
        Task("place_right", beside("right")),
        Task("place_front", beside("front")),
        Task("place_behind", beside("behind")),
        Task("stack", stack),
        Task("push", push),
        Task("open", open_drawer),
        Task("close", close_drawer),
        Task("press", press_button),
        Task("sort_by_color", sort_by_color, distractors=0),
        Task("sort_by_kind", sort_by_kind, distractors=0),
        Task("clear_table", clear_table, distractors=0),
        Task("chain", chain, distractors=1),
    )
}


def success(world: World, sample: TaskSample, start: Start) -> bool:
    """Whether the task is carried out now; ``start`` was taken before the arm moved."""
    return holds(world, sample.condition, start)


__all__ = ["TASKS", "Part", "Step", "Task", "TaskSample", "success"]
