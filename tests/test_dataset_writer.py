from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset_samples import (
    CAMERAS,
    FEATURES,
    FPS,
    NO_LIMIT,
    identity,
    make,
    number_in,
    open_writer,
    pictures,
    record,
    row,
)

from policies.dataset import commit, video, writer
from policies.dataset.checks import check
from policies.dataset.layout import DatasetError, Feature, read_info
from policies.dataset.reader import Dataset
from policies.dataset.tables import read_episodes
from policies.dataset.writer import DatasetWriter, WriterOptions

CAMERA = "observation.images.front"


def test_layout_is_lerobots(tmp_path: Path) -> None:
    root = make(tmp_path / "d", (4, 6))
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/embodied.json",
        *(f"meta/episodes/chunk-000/file-00{k}.parquet" for k in (0, 1)),
        *(f"data/chunk-000/file-00{k}.parquet" for k in (0, 1)),
        *(f"videos/observation.images.{c}/chunk-000/file-00{k}.mp4" for c in CAMERAS for k in (0, 1)),
        ".staging/lock",
    }
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", FPS, "so101")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 10, 2)
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["action"]["names"][0] == "shoulder_pan.pos"
    assert info["features"][CAMERA]["shape"] == [32, 64, 3]
    assert info["features"][CAMERA]["info"]["video.codec"] == "h264"
    assert info["features"]["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    assert list(info["features"])[-5:] == ["timestamp", "frame_index", "episode_index", "index", "task_index"]

    schema = pq.read_schema(root / "data/chunk-000/file-001.parquet")
    assert str(schema.field("action").type) == "fixed_size_list<element: float>[6]"
    assert [str(schema.field(k).type) for k in ("timestamp", "index", "skill")] == ["float", "int64", "string"]
    assert CAMERA not in schema.names
    described = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert described["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 6, "_type": "List"}

    rows = read_episodes(root / "meta/episodes", stats=True)
    assert rows[1]["dataset_from_index"] == 4 and rows[1]["dataset_to_index"] == 10 and rows[1]["tasks"] == ["task 1"]
    assert rows[1]["data/file_index"] == 1 and rows[1][f"videos/{CAMERA}/to_timestamp"] == pytest.approx(6 / FPS)
    assert len(rows[0]["stats/action/q50"]) == 6 and rows[0]["stats/action/count"] == [4]
    assert np.shape(rows[0][f"stats/{CAMERA}/mean"]) == (3, 1, 1)
    assert not any("time.monotonic" in key or "repeated" in key or "skill" in key for key in rows[0] if "stats" in key)


def test_frame_k_is_row_k(tmp_path: Path) -> None:
    root = make(tmp_path / "d", (40, 7, 23))
    with Dataset(root) as dataset:
        seen = 0
        for episode in dataset.episodes:
            for frame in range(episode.length):
                item = dataset[seen]
                assert item["frame_index"] == frame and item["index"] == seen
                assert np.allclose(item["action"], row(episode.index, frame)["action"], atol=1e-6)
                for camera in CAMERAS:
                    assert number_in(item[f"observation.images.{camera}"]) == identity(episode.index, frame, camera)
                seen += 1
        assert seen == len(dataset) == 70


def test_a_slow_encoder_makes_the_caller_wait_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    add = video.ChannelHistogram.add

    def slowly(self: Any, rgb: Any) -> None:
        time.sleep(0.01)
        add(self, rgb)

    monkeypatch.setattr(video.ChannelHistogram, "add", slowly)
    options = WriterOptions(min_free_mb=0.0, encoding=video.Encoding(queue=2))
    with open_writer(tmp_path / "d", options) as out:
        episode = out.begin("hurry")
        for frame in range(30):
            episode.add(row(0, frame), pictures(0, frame))
        assert episode.waited_s > 0.05
        episode.save()
    with Dataset(tmp_path / "d") as dataset:
        numbers = [number_in(picture) for picture in dataset.pictures(0, "wrist")]
    assert numbers == [identity(0, frame, "wrist") for frame in range(30)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": np.array([0, np.nan, 0, 0, 0, 0.0])}, "action is not finite"),
        ({"observation.state": np.array([0, 0, 0, 0, 0, np.inf])}, "observation.state is not finite"),
        ({"action": np.zeros(5)}, "has the shape"),
        ({"action": "fast"}, "cannot be a float32"),
        ({"speed": 1.0}, "speed"),
    ],
)
def test_a_bad_row_is_left_out_and_nothing_else(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with open_writer(tmp_path / "d") as out:
        record(out, 3)
        episode = out.begin("go on")
        for frame in range(4):
            episode.add(row(1, frame), pictures(1, frame))
        with pytest.raises(DatasetError, match=words):
            episode.add({**row(1, 4), **change}, pictures(1, 4))
        episode.add(row(1, 4), pictures(1, 4))
        assert episode.save() == 1
    assert check(tmp_path / "d").sound
    with Dataset(tmp_path / "d") as dataset:
        assert [number_in(p) for p in dataset.pictures(1, "front")] == [identity(1, k, "front") for k in range(5)]


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    with open_writer(tmp_path / "d") as out:
        episode = out.begin("look")
        episode.add(row(0, 0), pictures(0, 0))
        with pytest.raises(DatasetError, match="camera 'wrist' is missing"):
            episode.add(row(0, 1), {"front": pictures(0, 1)["front"]})
        with pytest.raises(DatasetError, match="gave float64"):
            episode.add(row(0, 1), {**pictures(0, 1), "front": np.zeros((32, 64, 3))})
        with pytest.raises(DatasetError, match="no camera 'top'"):
            episode.add(row(0, 1), {**pictures(0, 1), "top": np.zeros((32, 64, 3), np.uint8)})
        episode.save()
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset) == 1


def test_a_missing_picture_may_be_repeated_and_is_marked(tmp_path: Path) -> None:
    with open_writer(tmp_path / "d", WriterOptions(missing="repeat", min_free_mb=0.0)) as out:
        episode = out.begin("look")
        with pytest.raises(DatasetError, match="missing"):
            episode.add(row(0, 0), {"front": pictures(0, 0)["front"]})  # nothing to repeat yet
        for frame in range(6):
            shown = pictures(0, frame)
            if frame in (2, 3):
                del shown["wrist"]
            episode.add(row(0, frame), shown)
        episode.save()
    with Dataset(tmp_path / "d") as dataset:
        rows = dataset.episode(0)
        assert rows["repeated.wrist"].tolist() == [False, False, True, True, False, False]
        assert not rows["repeated.front"].any()
        numbers = [number_in(picture) for picture in rows["observation.images.wrist"]]
    assert numbers == [identity(0, k, "wrist") for k in (0, 1, 1, 1, 4, 5)]
    report = check(tmp_path / "d")
    assert report.sound and "2 of 6 pictures of wrist are repeated" in report.remarks[0]


def test_reopening_goes_on(tmp_path: Path) -> None:
    root = make(tmp_path / "d", (3, 4))
    with open_writer(root) as out:
        assert record(out, 5, "task 1") == 2
        assert out.tasks == ["task 0", "task 1"]
    assert check(root).sound
    with Dataset(root) as dataset:
        assert [e.success for e in dataset.episodes] == [True, False, True]
        assert int(dataset.stats()["action"]["count"][0]) == 12
        every = np.concatenate([dataset.episode(k, cameras=())["action"] for k in range(3)]).astype(float)
        assert np.allclose(dataset.stats()["action"]["mean"], every.mean(axis=0))
        assert np.allclose(dataset.stats()["action"]["std"], every.std(axis=0))
        assert np.allclose(dataset.stats()["action"]["max"], every.max(axis=0))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"fps": 30}, "20 frames per second, not 30"),
        ({"fps": 12.5}, "whole frame rates only"),
        ({"robot_type": "koch"}, "robot 'so101', not 'koch'"),
        ({"features": {**FEATURES, "current": Feature("float32", (6,))}}, "current is missing in one"),
        ({"features": {**FEATURES, "action": Feature("float32", (7,))}}, "action is float32"),
        ({"units": "so101_degrees"}, "in the units si"),
        ({"features": {"../action": Feature("float32", (6,))}}, "no name for a feature"),
        ({"features": {"index": Feature("int64")}}, "filled in by the writer"),
        ({"features": {"observation.images.x": Feature("video", (33, 64, 3))}}, "even height"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    root = make(tmp_path / "d", (2,))
    with pytest.raises(DatasetError, match=words):
        open_writer(root, **other)
    assert check(root).sound
    open_writer(root).close()  # the lock was let go


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with open_writer(tmp_path / "d"), pytest.raises(DatasetError, match="another process is writing"):
        open_writer(tmp_path / "d")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds files but no"):
        open_writer(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_episodes_open_and_close_in_order(tmp_path: Path) -> None:
    with open_writer(tmp_path / "d") as out:
        first = out.begin("a")
        with pytest.raises(DatasetError, match="open already"):
            out.begin("b")
        with pytest.raises(DatasetError, match="without a single row"):
            first.save()
        with pytest.raises(DatasetError, match="closed"):
            first.add(row(0, 0), pictures(0, 0))
        second = out.begin("b")
        second.add(row(0, 0), pictures(0, 0))
        second.discard()
        record(out, 2)
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset.episodes) == 1 and dataset.tasks == ["lift it"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("length", [4, 400])
def test_a_full_disk_costs_the_open_episode_only(small_disk: Path, length: int, rng: np.random.Generator) -> None:
    root = small_disk / "d"
    saved = 0
    with open_writer(root) as out:
        record(out, 3)
        saved += 1
        with pytest.raises(DatasetError, match="disk is full"):
            while True:  # short episodes fail when they are saved, long ones while they are recorded
                episode = out.begin("fill it")
                for frame in range(length):
                    noise = {camera: rng.integers(0, 256, (32, 64, 3), dtype=np.uint8) for camera in CAMERAS}
                    episode.add(row(saved, frame % 8), noise)
                episode.save()
                saved += 1
        assert not list((root / ".staging").glob("open-*"))
    report = check(root)
    assert report.sound and report.episodes == saved
    with pytest.raises(DatasetError, match="free some space"), open_writer(root, WriterOptions()) as out:
        out.begin("more")


@pytest.mark.parametrize("broken", ["write_rows", "write_episode", "write_tasks"])
def test_a_failing_write_costs_the_open_episode_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_writer(tmp_path / "d") as out:
        record(out, 3)
        with monkeypatch.context() as patch, pytest.raises(DatasetError, match="disk is full"):
            patch.setattr(writer, broken, full)
            record(out, 3)
        assert check(tmp_path / "d").episodes == 1
        assert record(out, 4) == 1
    assert check(tmp_path / "d").sound


def test_interrupted_between_commit_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the moves in turn fails; the episode is never lost and the dataset readable throughout."""
    out = open_writer(tmp_path / "d")
    record(out, 3)
    for failing in range(7):
        replace, moves = commit.os.replace, 0

        def failing_replace(source: Any, target: Any, failing: int = failing, replace: Any = replace) -> None:
            nonlocal moves
            if "commit-" in str(source):
                moves += 1
                if moves > failing:
                    raise OSError(errno.EIO, "Input/output error")
            replace(source, target)

        before = out.info.total_episodes
        with monkeypatch.context() as patch:
            patch.setattr(commit.os, "replace", failing_replace)
            with pytest.raises(DatasetError, match="it is not lost"):
                record(out, 1)
        with Dataset(tmp_path / "d") as dataset:
            assert len(dataset.episodes) == before
            assert dataset[len(dataset) - 1]["episode_index"] == before - 1
        if failing % 2:  # the same writer goes on, or another one opens the dataset
            out.close()
            out = open_writer(tmp_path / "d")
        assert record(out, 1) == before + 1
    out.close()
    assert check(tmp_path / "d").sound and read_info(tmp_path / "d").total_episodes == 15


def test_without_cameras(tmp_path: Path) -> None:
    plain = {key: feature for key, feature in FEATURES.items() if not feature.is_video and "repeated" not in key}
    with DatasetWriter(tmp_path / "d", fps=50, robot_type="so101", features=plain, options=NO_LIMIT) as out:
        episode = out.begin("blind")
        for frame in range(3):
            episode.add(row(0, frame))
        episode.save(True)
    assert json.loads((tmp_path / "d/meta/info.json").read_text())["video_path"] is None
    assert check(tmp_path / "d").sound


def test_nothing_counts_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is synced before the commit, and every folder that changed before the index names what is in it."""
    out = open_writer(tmp_path / "d")
    done: list[tuple[str, str]] = []
    replace = os.replace

    def traced_replace(source: Any, target: Any) -> None:
        done.append(("move", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: done.append(("sync", os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(os, "replace", traced_replace)
    record(out, 2)
    out.close()
    names = [f"{kind} {path.removeprefix(str(tmp_path / 'd') + '/')}" for kind, path in done]
    committed = names.index("move .staging/commit-000000")
    files = [name for name in names[:committed] if name.startswith("sync .staging/open-000000/")]
    assert len(files) == 7 and names[committed - 1] == "sync .staging/open-000000"
    assert names[committed + 1] == "sync .staging"
    assert names[-2:] == ["move meta/info.json", "sync meta"]
    before_index = set(names[committed:-2])
    for folder in (
        "data/chunk-000",
        "meta",
        "meta/episodes/chunk-000",
        *(f"videos/observation.images.{c}/chunk-000" for c in CAMERAS),
    ):
        assert f"sync {folder}" in before_index
