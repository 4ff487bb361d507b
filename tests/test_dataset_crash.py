"""A recording process is killed at random instants; what was saved stays, and what is there can be read."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dataset_samples import CAMERAS, identity, number_in, row

from policies.dataset.checks import check, repair
from policies.dataset.reader import Dataset

# Imports take a second, so they are done once: for each folder it is told, the process below forks a child that records
# short episodes without end, and says the child's number. Importing starts no threads, so forking is safe.
_NURSERY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dataset_samples import open_writer, record
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        writer = open_writer(Path(line.strip()))
        os.write(1, b"ready\\n")
        while True:
            number = record(writer, 2 + writer.info.total_episodes % 5)
            os.write(1, f"saved {number}\\n".encode())
    os.write(1, f"child {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"gone\\n")
"""


@contextmanager
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _NURSERY, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def record_and_kill(process: subprocess.Popen[str], root: Path, after_s: float) -> int:
    """Returns how many episodes the recorder said it had saved in the dataset when it was killed."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{root}\n")
    process.stdin.flush()
    child, saved, ready = 0, -1, False
    while not (child and ready):
        kind, *number = process.stdout.readline().split()
        child, ready = (int(number[0]), ready) if kind == "child" else (child, ready or kind == "ready")
        saved = int(number[0]) if kind == "saved" else saved
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    while (words := process.stdout.readline().split()) != ["gone"]:
        saved = int(words[1])
    return saved + 1


def assert_whole(root: Path, rng: np.random.Generator) -> int:
    """Everything the index names is there and is what was recorded; returns the number of episodes."""
    with Dataset(root) as dataset:
        for episode in dataset.episodes[-3:]:
            assert episode.length == 2 + episode.index % 5
            rows = dataset.episode(episode.index)
            for frame in range(episode.length):
                assert np.allclose(rows["action"][frame], row(episode.index, frame)["action"], atol=1e-6)
                for camera in CAMERAS:
                    shown = number_in(rows[f"observation.images.{camera}"][frame])
                    assert shown == identity(episode.index, frame, camera) % 2**16
        for index in rng.integers(0, max(len(dataset), 1), 3 if len(dataset) else 0):
            assert dataset[int(index)]["index"] == index
        return len(dataset.episodes)


def kill_many(root: Path, kills: int, seed: int, fresh_every: int, longest_s: float) -> dict[str, int]:
    delays, rng = random.Random(seed), np.random.default_rng(seed)
    counts = {"kills": 0, "episodes": 0, "open": 0, "between commit and place": 0}
    with nursery() as process:
        for kill in range(kills):
            folder = root / f"d{kill // fresh_every}"
            known = assert_whole(folder, rng) if (folder / "meta/info.json").exists() else 0
            said = record_and_kill(process, folder, delays.uniform(0.0, longest_s))
            counts["kills"] += 1
            seen = assert_whole(folder, rng)  # as it was left, before anyone repaired anything
            staged = [path.name for path in (folder / ".staging").iterdir()]
            counts["open"] += any(name.startswith("open-") for name in staged)
            counts["between commit and place"] += any(name.startswith("commit-") for name in staged)
            if kill % 2:  # the next recorder repairs as well
                repair(folder)
                assert check(folder, decode=False).sound
                seen = assert_whole(folder, rng)
            counts["episodes"] += seen - known
            assert seen >= max(said, known), f"kill {kill}: {said} episodes were saved, {seen} are there"
    return counts


def test_kill_while_recording(tmp_path: Path) -> None:
    counts = kill_many(tmp_path, 5, seed=1, fresh_every=3, longest_s=0.6)
    assert counts["kills"] == 5 and counts["open"] >= 1


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("EMBODIED_KILLS", "200"))
    counts = kill_many(tmp_path, kills, seed=2, fresh_every=20, longest_s=2.0)
    print(counts)
    assert counts["kills"] == kills and counts["episodes"] > 0 and counts["open"] > 0
