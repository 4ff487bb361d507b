from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tyro
from dataset_samples import instant_disk, make  # noqa: F401

from embodied.commands.data import Data, run
from hardware.errors import EmbodiedError


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return make(tmp_path / "sample", (4, 3))


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(tyro.cli(Data, args=[str(word) for word in words]))
    out = capsys.readouterr()
    return status, out.out, out.err


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    status, out, _ = call(capsys, *words, "--json")
    return status, json.loads(out.splitlines()[-1])


def test_info(capsys: pytest.CaptureFixture[str], sample: Path) -> None:
    status, out, _ = call(capsys, "info", sample)
    assert status == 0 and "2 that were judged" in out and "wrist, 64 x 32" in out and "task 1" in out
    status, facts = as_json(capsys, "info", sample)
    assert (facts["episodes"], facts["frames"], facts["fps"], facts["succeeded"]) == (2, 7, 20, 1)
    assert facts["features"]["action"]["shape"] == [6]


def test_check(capsys: pytest.CaptureFixture[str], sample: Path) -> None:
    assert call(capsys, "check", sample)[:2] == (0, "2 episodes, 7 frames: sound\n")
    (sample / "data/chunk-000/file-001.parquet").write_bytes(b"nonsense")
    status, out, _ = call(capsys, "check", sample, "--quick")
    assert status == 1 and "episode 1: " in out and "file-001.parquet" in out
    status, found = as_json(capsys, "check", sample)
    assert status == 1 and not found["sound"] and len(found["problems"]) == 1


def test_repair(capsys: pytest.CaptureFixture[str], sample: Path, tmp_path: Path) -> None:
    (sample / ".staging/open-000002").mkdir()
    assert "drops it" in call(capsys, "check", sample)[1]
    assert as_json(capsys, "repair", sample) == (
        0,
        {"finished": 0, "dropped": 1, "counted_again": False, "episodes": 2},
    )
    (sample / "videos/observation.images.wrist/chunk-000/file-000.mp4").unlink()
    status, saved = as_json(capsys, "repair", sample, "--out", tmp_path / "sound")
    assert status == 1 and saved["episodes"] == 1 and "file-000.mp4 is missing" in saved["left_out"][0]
    assert call(capsys, "check", tmp_path / "sound")[0] == 0


def test_merge_import_export(capsys: pytest.CaptureFixture[str], sample: Path, tmp_path: Path) -> None:
    assert as_json(capsys, "merge", sample, sample, "--out", tmp_path / "both")[1]["frames"] == 14
    assert call(capsys, "export", sample, "--out", tmp_path / "degrees")[0] == 0
    facts = as_json(capsys, "info", tmp_path / "degrees")[1]
    assert (facts["robot"], facts["units"]) == ("so101_follower", "so101_degrees")
    assert call(capsys, "import", tmp_path / "degrees", "--out", tmp_path / "back", "--robot", "mine")[0] == 0
    facts = as_json(capsys, "info", tmp_path / "back")[1]
    assert (facts["robot"], facts["units"], facts["frames"]) == ("mine", "si", 7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("info", "nowhere"), "holds no dataset"),
        (("info", "one", "two"), "takes one folder"),
        (("merge", "one", "two"), "say where: --out DIR"),
    ],
)
def test_what_cannot_be_done_is_said(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(EmbodiedError, match=sentence):
        run(tyro.cli(Data, args=list(words)))


@pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="needs the extra: pip install 'embodied[view]'")
def test_view_writes_a_recording(capsys: pytest.CaptureFixture[str], sample: Path, tmp_path: Path) -> None:
    status, found = as_json(capsys, "view", sample, "--episode", 1, "--save", tmp_path / "e.rrd")
    assert status == 0 and found["frames"] == 3
    assert (tmp_path / "e.rrd").read_bytes()[:3] == b"RRF" and (tmp_path / "e.rrd").stat().st_size > 1000


def test_view_without_rerun(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(EmbodiedError, match="viewing needs Rerun: pip install"):
        run(Data("view", (sample,)))
