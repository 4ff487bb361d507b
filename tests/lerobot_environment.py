"""An environment with LeRobot 0.4.4 for tests: LeRobot and what it imports without their dependencies, all else (torch,
numpy, PyAV, pyarrow) from the environment that runs the tests. Two things make up for installing it so:

- torchvision's compiled part belongs to another torch build, so the two operators it insists on are only declared;
- torchcodec gets FFmpeg from PyAV's package, by links under the plain names.

``EMBODIED_LEROBOT`` names a folder to keep the environment in; otherwise it is made anew for every run of the tests.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

SITE = Path(sysconfig.get_paths()["purelib"])
#: What LeRobot's policies, datasets and arms import; draccus as LeRobot pins it, since later ones leave the type out of
#: config.json.
PACKAGES = (
    "lerobot==0.4.4", "draccus==0.10.0", "torchcodec==0.13.0", "datasets", "pandas", "dill", "multiprocess", "xxhash",
    "aiohttp", "mergedeep", "pyyaml-include", "typing-inspect", "jsonlines", "termcolor", "einops", "deepdiff", "orderly-set",
    "cachebox", "accelerate", "requests", "urllib3", "certifi", "charset-normalizer", "pytz", "httpx", "imageio", "diffusers",
    "importlib-metadata", "zipp",
)  # fmt: skip
_DECLARE = """
import torch
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.fixture(scope="session")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with LeRobot, the same one in all test files; skips where it cannot be made."""
    kept = os.environ.get("EMBODIED_LEROBOT")
    python = make_environment(Path(kept) if kept else tmp_path_factory.getbasetemp() / "lerobot")
    if isinstance(python, str):
        pytest.skip(f"LeRobot 0.4.4 cannot be installed here: {python}")
    return python


def make_environment(folder: Path) -> str | Path:
    """The interpreter of an environment in ``folder`` (kept if it is complete), or in words why it cannot be made."""
    python = folder / "bin/python"
    if (folder / "ready").exists():
        return python
    venv.create(folder, with_pip=True)
    minor = int(importlib.metadata.version("torch").split(".")[1])
    wanted = [*PACKAGES, f"torchvision==0.{minor + 15}.*"]  # torch 2.x goes with torchvision 0.(x + 15)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "tests_environment.pth").write_text(f"{SITE}\n")
    (site / "sitecustomize.py").write_text(_DECLARE)
    _link_ffmpeg(folder / "ffmpeg")
    (folder / "ready").touch()
    return python


def _link_ffmpeg(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for library in (SITE / "av.libs").glob("lib*.so.*"):
        named = re.fullmatch(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)\..*", library.name)
        if named:
            link = folder / f"{named[1]}.so.{named[2]}"
            link.unlink(missing_ok=True)
            link.symlink_to(library)


def run(python: Path, script: str, *words: object, folder: Path) -> str:
    """Run a script there, without network and with this repository importable; returns what it printed.

    ``folder``: for what LeRobot's libraries cache.
    """
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{python.parent.parent / 'ffmpeg'}:{SITE / 'av.libs'}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    command = [str(python), "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
