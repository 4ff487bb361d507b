"""The shipped model in a real `transformers serve` process on loopback makes the plans that it makes here."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embodied.agent import Agent
from embodied.remote.choose import make_remote

#: What ``transformers serve`` needs beside transformers. Torchvision is not among it, because the shipped folder names a
#: processor without videos (``embodied.planner.processor``).
NEEDED = ("accelerate", "fastapi", "openai", "uvicorn")
WORDS = (
    "put the red cube in the blue bowl",
    "pick up the green cylinder",
    "push the red cube to the left",
    "put the green cylinder on the red cube",
    "take the yellow ball",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the process; it ends with the tests."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs: pip install {' '.join(missing)}")
    from embodied.planner.local import SHIPPED

    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [program, "serve", str(SHIPPED), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
             "--dtype", "float32"],
            stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180.0
        while not _answers(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20.0)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_the_same_words_come_through_the_plain_openai_interface(served: str) -> None:
    """Without any code of this project on the asking side.

    The server applies no grammar, so equal answers also show that the model keeps to the plan language by itself. It is asked
    for what can be done: of a tray that is to be pushed, the grammar here forbids answers that the server may give.
    """
    from openai import OpenAI
    from PIL import Image

    from embodied.planner.local import SHIPPED, LocalPlanner
    from embodied.planner.picture import shrink
    from sim.generate import random_scene
    from sim.robot import SimRobot
    from sim.scene import GRASPABLE
    from sim.world import World

    local, rng = LocalPlanner(), np.random.default_rng(21)
    with OpenAI(base_url=served, api_key="none", max_retries=0, timeout=120.0) as client:
        for _ in range(3):
            scene = random_scene(rng, kinds_required=("cube", "ball"))
            world = World(scene)
            frame = SimRobot(world).observe(("front",)).frames["front"]
            world.close()
            png = io.BytesIO()
            # At the size the model sees: what the server scales, it scales another way than we do.
            Image.fromarray(shrink(frame.rgb)).save(png, "PNG")
            url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
            movable = [f"{o.color} {o.kind}" for o in scene.objects if o.kind in GRASPABLE]
            first, last = movable[0], movable[-1]
            for words in (
                f"pick up the {first}",
                f"put the {first} to the left of the {last}",
                f"push the {last} to the right, then hover over the {first}",
                "make me a coffee",
            ):
                content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": words}]
                reply = client.chat.completions.create(
                    model=str(SHIPPED), messages=[{"role": "user", "content": content}], temperature=0.0, max_tokens=220
                )  # type: ignore[call-overload]
                local.plan(words, frame)
                assert reply.choices[0].message.content == local.last_text, words


@pytest.mark.slow
def test_the_served_model_makes_the_same_plans_as_the_local_one(
    served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from embodied.planner.local import SHIPPED, LocalPlanner

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("EMBODIED_PLANNER_URL", served)
    monkeypatch.setenv("EMBODIED_PLANNER_BUDGET_S", "120")
    remote = make_remote(f"remote:shipped/{SHIPPED}")
    local = LocalPlanner()
    with Agent.simulated("scenes/first.json", planner=remote, policy="scripted") as agent:
        frame = agent.robot.observe(("front",)).frames["front"]
        for words in WORDS:
            assert remote.plan(words, frame) == local.plan(words, frame), words
        by_remote = agent.run(WORDS[0])
        agent.load("scenes/first.json")
        agent.planner = local
        by_local = agent.run(WORDS[0])
    assert by_remote.plan == by_local.plan
    assert by_remote.outcome == by_local.outcome
    assert [np.round(r.goal.point, 4).tolist() for r in by_remote.records if r.goal] == [
        np.round(r.goal.point, 4).tolist() for r in by_local.records if r.goal
    ]
