"""What all tests share: no network, no window, seeded randomness, and the choice of a real arm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Before any library reads them: tests never ask a server for a model and never open a window. Thread pools larger than
# the machine's share make small matrix products slower, not faster.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from hypothesis import settings

from hardware.emulator.emulator import Emulator, Pace

# Derandomised: the same examples in every run, so a red test stays red until it is repaired. No deadline: a shared
# machine's pauses are not the code's.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--port", default=None, help="serial port of a real arm; without it the tests marked `arm` skip")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--port") is None:
        for item in items:
            if item.get_closest_marker("arm"):
                item.add_marker(pytest.mark.skip(reason="needs a real arm: --port /dev/tty..."))


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator of the test's own."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def so101() -> Iterator[Emulator]:
    """Emulated servos of an SO-101 in stepped time."""
    with Emulator("so101", pace=Pace("stepped")) as emulator:
        yield emulator
