"""Demonstrations as a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_samples import instant_disk  # noqa: F401

from hardware.errors import CheckpointError
from policies.dataset.checks import check
from policies.dataset.reader import Dataset
from policies.demonstrations import instruction, record_demonstrations
from policies.skills import SKILLS
from sim.rollout import SkillEpisode


def test_demonstrations_are_a_dataset_with_pictures_words_and_goals(tmp_path: Path) -> None:
    told: list[str] = []
    rows = record_demonstrations(tmp_path / "d", ("reach",), 1, seed=3, on_episode=told.append)
    assert told == ["reach"] and check(tmp_path / "d").sound
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset) == rows and len(dataset.episodes) == 1 and set(dataset.camera_names) == {"front", "wrist"}
        for number, skill in enumerate(told):
            episode = dataset.episode(number)
            assert dataset.episodes[number].success is True and set(episode["skill"]) == {skill}
            (words,) = set(episode["task"])
            assert words.startswith("reach for the ") and np.any(episode["goal.point"][0] != 0.0)
            # Nothing disturbs the expert: what was sent is what it wanted, and the arm went there.
            assert np.abs(episode["action"] - episode["requested_action"])[:, :5].max() < 0.1
            assert np.abs(episode["observation.state"][-1] - episode["action"][-2])[:5].max() < 0.1
            assert np.ptp(episode["observation.images.wrist"].astype(int), axis=0).max() > 50  # it moves along


def test_the_same_seed_makes_the_same_and_another_one_adds(tmp_path: Path) -> None:
    for seed, name in ((1, "a"), (1, "b"), (2, "a")):
        record_demonstrations(tmp_path / name, ("press",), 1, seed=seed, cameras=())
    with Dataset(tmp_path / "a") as one, Dataset(tmp_path / "b") as same:
        assert len(one.episodes) == 2 and len(same.episodes) == 1
        first, second = (one.episode(k, cameras=())["action"] for k in (0, 1))
        assert np.array_equal(first, same.episode(0, cameras=())["action"])
        assert first.shape != second.shape or not np.array_equal(first, second)


def test_an_expert_that_keeps_failing_is_told_and_leaves_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.conditions.holds", lambda world, condition, start: False)
    monkeypatch.setattr("policies.demonstrations.MAX_ATTEMPTS", 2)
    with pytest.raises(CheckpointError, match="the expert for reach failed 2 times"):
        record_demonstrations(tmp_path / "d", ("reach",), 1, cameras=("wrist",))
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset.episodes) == 0


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_has_its_words(skill: str) -> None:
    episode = SkillEpisode.sample(skill, np.random.default_rng(0))
    words = instruction(episode)
    for name in (episode.target, episode.held):
        assert not name or episode.scene.find(name).label in words
    assert "  " not in words and not words.endswith("the ")
