"""An environment with LeRobot 0.4.4 for tests: LeRobot and what it imports without their dependencies, all else (torch,
numpy, PyAV) from the environment that runs the tests.

torchvision's compiled part belongs to another torch build, so the two operators it insists on are only declared.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

SITE = Path(sysconfig.get_paths()["purelib"])
#: What LeRobot's policies import; draccus as LeRobot pins it, since later ones leave the type out of config.json.
PACKAGES = (
    "lerobot==0.4.4", "draccus==0.10.0", "datasets", "pandas", "dill", "multiprocess", "xxhash", "aiohttp", "mergedeep",
    "pyyaml-include", "typing-inspect", "jsonlines", "termcolor", "einops", "deepdiff", "orderly-set", "cachebox", "accelerate",
    "requests", "urllib3", "certifi", "charset-normalizer", "pytz", "httpx", "imageio", "diffusers",
    "importlib-metadata", "zipp",
)  # fmt: skip
_DECLARE = """
import torch
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


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
    (folder / "ready").touch()
    return python


def run(python: Path, script: str, *words: object, folder: Path) -> str:
    """Run a script there, with this repository importable; returns what it printed."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONPATH": root}
    done = subprocess.run(
        [str(python), "-c", script, *map(str, words)], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
