"""How much of PyBullet's own stepping speed a state environment keeps: both measured in turn, in one run.

    python benchmarks/sim_speed.py

Prints, per round and as the median, control steps per second of ``embodied/Push-v0`` (12 substeps, safety core,
observation, reward) and of bare ``stepSimulation`` in the same world with the same motor commands, and their ratio.
"""

from __future__ import annotations

import statistics
import time

import gymnasium
import numpy as np
import pybullet

import sim.envs  # noqa: F401 (registers the environments)

STEPS, ROUNDS, SUBSTEPS = 300, 5, 12


def main() -> None:
    """Measure and print."""
    env = gymnasium.make("embodied/Push-v0")
    inner = env.unwrapped
    env.action_space.seed(0)
    actions = [env.action_space.sample() * np.float32(0.3) for _ in range(STEPS)]
    ratios = []
    for round_number in range(ROUNDS):
        env.reset(seed=round_number)
        targets = []
        began = time.perf_counter()
        for action in actions:
            inner.step(action)
            targets.append(inner._stage.world.arm_target)
        ours = STEPS / (time.perf_counter() - began)
        env.reset(seed=round_number)
        world = inner._stage.world
        cid = world._cid
        began = time.perf_counter()
        for target in targets:
            world.set_arm_target(list(target))
            for _ in range(SUBSTEPS):
                pybullet.stepSimulation(physicsClientId=cid)
        raw = STEPS / (time.perf_counter() - began)
        ratios.append(ours / raw)
        print(f"round {round_number}: {ours:.0f} steps/s, bare PyBullet {raw:.0f} steps/s, ratio {ours / raw:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")
    env.close()


if __name__ == "__main__":
    main()
