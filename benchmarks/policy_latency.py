"""How long one call of a policy takes on one core, from a picture of two cameras to half a second of joint targets.

    python benchmarks/policy_latency.py

Networks of kinds that do not ship are measured with random weights: the time does not depend on them. The refiner looks at
every fourth step only; measured is a step at which it looks. The promise is a median of 5 ms for the point policy and of
15 ms for ACT and the refiner; the program ends with status 1 when one is broken. On a machine with other work, give it priority
(``chrt -f 10`` on Linux), or it measures that work.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from policies.act import ActConfig, ActNetwork, ActPolicy
from policies.checkpoint import SHIPPED_POLICIES, load_policy
from policies.flow import FlowConfig, FlowNetwork, FlowPolicy
from policies.goal import Goal
from policies.policy import Policy
from policies.refiner import LOOK_EVERY
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

CALLS, WARM_UP = 200, 20
LIMIT_MS = {"point": 5.0, "act": 15.0, "refiner": 15.0}


def main() -> int:
    """Measure, print a table, and say by the status whether the promises hold."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world = World(Scene())
    robot = SimRobot(world)
    observation = robot.observe(("front", "wrist"))
    goal = Goal("pick", np.array([0.22, 0.02, 0.0]), np.array([0.22, 0.02, 0.0]))
    policies: dict[str, Policy] = {
        **{name: load_policy(folder) for name, folder in SHIPPED_POLICIES.items()},
        "act": ActPolicy(ActNetwork(ActConfig())), "flow": FlowPolicy(FlowNetwork(FlowConfig())),
    }  # fmt: skip
    broken = []
    for name, policy in policies.items():
        policy.reset()
        taken_ms = []
        for _ in range(WARM_UP + CALLS):
            started = time.perf_counter()
            policy.act(observation, goal)
            taken_ms.append(1e3 * (time.perf_counter() - started))
        kept = taken_ms[WARM_UP:]
        if name == "refiner":
            kept = kept[::LOOK_EVERY]
        median = statistics.median(kept)
        print(f"{name:8s} median {median:6.2f} ms, 95th percentile {np.percentile(kept, 95):6.2f} ms")
        if median > LIMIT_MS.get(name, float("inf")):
            broken.append(name)
    world.close()
    if broken:
        print(f"over the limit: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
