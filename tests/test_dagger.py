"""DAgger: whose turn it is, what is recorded, in which order things are learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hardware.arm_spec import SO101
from hardware.robot import Observation
from policies.checkpoint import SHIPPED, load_policy
from policies.dagger import EXPERT_STEPS, POLICY_STEPS, Turns, dagger, run_rounds
from policies.data import Demo
from policies.goal import Goal
from policies.images import VIEWS
from policies.policy import Chunk, Policy
from policies.train import TrainConfig, train

GOAL = Goal("reach", np.array([0.2, 0.0, 0.0]), np.array([0.2, 0.0, 0.0]))


class Stubborn:
    """Wants the first joint at 7, which no expert wants; counts how often it was asked."""

    name = "stubborn"
    control_hz = 20.0

    def __init__(self, cameras: tuple[str, ...] = ()) -> None:
        self.cameras = cameras
        self.asked, self.resets = 0, 0
        self.saw: list[tuple[str, ...]] = []

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        self.asked += 1
        self.saw.append(tuple(observation.frames))
        return Chunk(np.tile(np.array([7.0, 0, 0, 0, 0, 0.5]), (10, 1)), 0.0)


def test_policy_and_expert_take_turns(rng: np.random.Generator) -> None:
    policy, expert = Stubborn(), np.zeros(6)
    turns = Turns(policy, GOAL, rng)
    observation = Observation(0.0, SO101.home, SO101.home)
    acted = [turns.next(observation, expert)[0] > 6.9 for _ in range(600)]
    assert acted[0] and policy.asked == 600 and policy.resets == 1
    changes = [0, *(np.flatnonzero(np.diff(np.array(acted, int))) + 1).tolist()]
    for begins, ends in zip(changes, changes[1:], strict=False):
        low, high = POLICY_STEPS if acted[begins] else EXPERT_STEPS
        assert low <= ends - begins < high


def test_rounds_correct_the_policy_that_was_learned_last() -> None:
    events: list[tuple[str, object, int]] = []

    class Notebook:
        def learn(self, corrections: Sequence[Demo], round_: int) -> str:
            events.append(("learn", list(corrections), round_))
            return f"policy {round_}"

    def correct(policy: str, round_: int) -> list[Demo]:
        events.append(("correct", policy, round_))
        return []

    assert run_rounds(Notebook(), correct, 2) == "policy 2"
    assert events == [
        ("learn", [], 0), ("correct", "policy 0", 1), ("learn", [], 1), ("correct", "policy 1", 2), ("learn", [], 2),
    ]  # fmt: skip


@pytest.mark.parametrize("seeing", [False, True])
def test_what_is_recorded_is_the_expert_s_answer(seeing: bool) -> None:
    policy = Stubborn(("front", "wrist") if seeing else ())
    got: list[Demo] = []

    class Learner:
        def learn(self, corrections: Sequence[Demo], round_: int) -> Policy:
            got.extend(corrections)
            return policy

    views = VIEWS if seeing else ()
    assert dagger(Learner(), skills=("reach",), rounds=1, episodes=1, seed=3, views=views) is policy
    assert len(got) == 1 and policy.asked > 0
    for demo in got:
        assert np.abs(demo.target[:, 0]).max() < 3.0  # never the policy's 7
        assert np.ptp(demo.q[:, 0]) > 0.05  # which nevertheless moved the arm
        assert (demo.pictures is not None) == seeing
    assert set(policy.saw) == {("front", "wrist") if seeing else ()}


def test_the_trainer_corrects_and_resumes_between_rounds(tmp_path: Path) -> None:
    console = Console(quiet=True)
    config = TrainConfig(
        out=tmp_path / "policy", data=tmp_path / "data", skills=("reach",), demos=1, rounds=2, corrections=1, updates=2,
        round_updates=2, batch=4, width=8, layers=1, evaluate=0, save_every=1,
    )  # fmt: skip
    train(config, console=console)
    assert sorted(path.parent.name for path in config.data.rglob("*.npz")) == ["demos", "round1", "round2"]
    weights = (config.out / "model.safetensors").read_bytes()
    (config.out / "model.safetensors").unlink()
    train(TrainConfig(**{**vars(config), "resume": True}), console=console)
    assert (config.out / "model.safetensors").read_bytes() == weights


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no weights are shipped yet")
def test_the_shipped_policy_still_loads() -> None:
    policy = load_policy()
    assert policy.name == "point" and policy.cameras == ()
