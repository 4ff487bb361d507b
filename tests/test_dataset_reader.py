from __future__ import annotations

import copy
import json
import multiprocessing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_samples import CAMERAS, FPS, identity, instant_disk, make, number_in, row  # noqa: F401

from policies.dataset import reader
from policies.dataset.checks import check
from policies.dataset.copying import from_lerobot, merge, to_lerobot
from policies.dataset.layout import DatasetError, read_info
from policies.dataset.lerobot_units import SO101_DEGREES
from policies.dataset.reader import Dataset
from policies.dataset.tables import read_episodes

FRONT = "observation.images.front"
LENGTHS = (5, 8, 3)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sample") / "d", LENGTHS)


@pytest.fixture(scope="module")
def packed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as LeRobot lays it out: all episodes in one table and in one video per camera, nothing of ours."""
    root = tmp_path_factory.mktemp("packed") / "d"
    info = json.loads((sample / "meta/info.json").read_text())
    dropped = ("skill", "time.monotonic", "success", "repeated.front", "repeated.wrist")
    info["features"] = {key: feature for key, feature in info["features"].items() if key not in dropped}
    files = [sample / f"data/chunk-000/file-00{k}.parquet" for k in range(3)]
    (root / "data/chunk-000").mkdir(parents=True)
    tables = [pq.read_table(file).drop_columns(list(dropped)) for file in files]
    with pq.ParquetWriter(root / "data/chunk-000/file-000.parquet", tables[0].schema) as out:
        for table in tables:
            out.write_table(table)
    starts = np.cumsum([0, *LENGTHS]) / FPS
    for camera in CAMERAS:
        folder = f"videos/observation.images.{camera}/chunk-000"
        (root / folder).mkdir(parents=True)
        with av.open(str(root / folder / "file-000.mp4"), "w") as joined:
            for number, start in enumerate(starts[:-1]):
                with av.open(str(sample / folder / f"file-00{number}.mp4")) as part:
                    if number == 0:
                        stream = joined.add_stream_from_template(part.streams.video[0])
                    for packet in part.demux(video=0):
                        if packet.pts is not None and packet.dts is not None:
                            shift = round(start / packet.time_base)
                            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                            packet.stream = stream
                            joined.mux(packet)
    rows = read_episodes(sample / "meta/episodes", stats=True)
    for number, described in enumerate(rows):
        described["data/file_index"] = described["meta/episodes/file_index"] = 0
        for camera in CAMERAS:
            described[f"videos/observation.images.{camera}/file_index"] = 0
            del described[f"videos/observation.images.{camera}/crc32"]
            described[f"videos/observation.images.{camera}/from_timestamp"] = starts[number]
            described[f"videos/observation.images.{camera}/to_timestamp"] = starts[number + 1]
        del described["success"], described["measured_fps"]
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    (root / "meta/info.json").write_text(json.dumps(info))
    for name in ("stats.json", "tasks.parquet"):
        (root / "meta" / name).write_bytes((sample / "meta" / name).read_bytes())
    return root


def shown(dataset: Dataset, index: int, camera: str = "front") -> int:
    return number_in(dataset[index][f"observation.images.{camera}"])


@pytest.mark.parametrize("name", ["sample", "packed"])
def test_random_access(name: str, request: pytest.FixtureRequest, rng: np.random.Generator) -> None:
    with Dataset(request.getfixturevalue(name)) as dataset:
        assert len(dataset) == 16 and [e.length for e in dataset.episodes] == list(LENGTHS)
        for index in rng.integers(0, 16, 40).tolist():
            item = dataset[index]
            episode, frame = int(item["episode_index"]), int(item["frame_index"])
            assert dataset.episodes[episode].start + frame == index == item["index"]
            assert item["observation.state"].dtype == np.float32 and item["observation.state"].shape == (6,)
            assert np.allclose(item["observation.state"], row(episode, frame)["observation.state"])
            assert item["task"] == f"task {episode % 2}"
            for camera in CAMERAS:
                picture = item[f"observation.images.{camera}"]
                assert picture.shape == (32, 64, 3) and picture.dtype == np.uint8
                assert number_in(picture) == identity(episode, frame, camera)
        assert np.array_equal(dataset[-1]["action"], dataset[15]["action"])
        with pytest.raises(IndexError, match="16 frames"):
            dataset[16]
    assert check(dataset.root).sound


def test_whole_episodes(sample: Path) -> None:
    with Dataset(sample) as dataset:
        rows = dataset.episode(1, cameras=("wrist",))
        assert rows["action"].shape == (8, 6) and rows["timestamp"].shape == (8,)
        assert np.allclose(rows["timestamp"], np.arange(8) / FPS)
        assert rows["skill"].tolist() == ["", "pick"] * 4 and rows["task"] == ["task 1"] * 8
        assert FRONT not in rows and rows["observation.images.wrist"].shape == (8, 32, 64, 3)
        assert np.allclose(rows["time.monotonic"], 100.0 + np.arange(8) / FPS)
        assert rows["success"].tolist() == [0] * 8 and dataset.episodes[1].success is False
        assert dataset.episodes[0].measured_fps == pytest.approx(20.0)
        with pytest.raises(DatasetError, match="no episode 3"):
            dataset.episode(3)
        with pytest.raises(DatasetError, match="no camera 'top'"):
            dataset.episode(0, cameras=("top",))


def test_chunks_stop_at_the_episodes_ends(packed: Path) -> None:
    deltas = {"action": [0.0, 0.05, 0.1], FRONT: [-0.05, 0.0], "observation.state": [-0.1, 0.0]}
    with Dataset(packed, delta_timestamps=deltas) as dataset:
        item = dataset[4]  # the last frame of episode 0
        assert item["action"].shape == (3, 6) and item["action_is_pad"].tolist() == [False, True, True]
        assert np.array_equal(item["action"][1], item["action"][0])
        assert [number_in(p) for p in item[FRONT]] == [identity(0, 3, "front"), identity(0, 4, "front")]
        item = dataset[5]  # the first of episode 1
        assert item["action_is_pad"].tolist() == [False] * 3
        assert np.allclose(item["action"], [row(1, k)["action"] for k in range(3)])
        assert item[f"{FRONT}_is_pad"].tolist() == [True, False]
        assert [number_in(p) for p in item[FRONT]] == [identity(1, 0, "front")] * 2
        assert item["observation.state_is_pad"].tolist() == [True, False]
    for wrong in ({"action": [0.03]}, {"nothing": [0.0]}):
        with pytest.raises(DatasetError):
            Dataset(packed, delta_timestamps=wrong)


def _first_picture(dataset: Dataset, index: int, results: Any) -> None:
    results.put(shown(dataset, index))


def test_worker_processes_open_their_own_files(packed: Path) -> None:
    with Dataset(packed) as dataset:
        assert shown(dataset, 0) == identity(0, 0, "front")
        again = copy.deepcopy(dataset)  # as pickling does, without what is open
        assert shown(again, 15) == identity(2, 2, "front")
        again.close()
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        worker = context.Process(target=_first_picture, args=(dataset, 7, results), daemon=True)
        worker.start()
        assert results.get(timeout=30) == identity(1, 2, "front")
        worker.join()
        assert shown(dataset, 1) == identity(0, 1, "front")


def test_few_files_stay_open(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_VIDEOS_KEPT", 2)
    monkeypatch.setattr(reader, "_ROWS_KEPT", 1)
    with Dataset(sample) as dataset:
        for index in (0, 15, 5, 0, 15):
            dataset[index]
            assert len(dataset._decoders) <= 2 and len(dataset._rows_kept) == 1
    assert not dataset._decoders
    dataset.close()


def test_degrees_become_radians_and_back(packed: Path, tmp_path: Path) -> None:
    """The sample's numbers taken as degrees and 0..100."""
    scale = np.array([np.pi / 180] * 5 + [0.01])
    with Dataset(packed) as raw, Dataset(packed, units=SO101_DEGREES) as dataset:
        assert np.allclose(dataset[9]["action"], raw[9]["action"] * scale)
        assert np.allclose(dataset.stats()["action"]["mean"], raw.stats()["action"]["mean"] * scale)
        assert np.array_equal(dataset.stats()["index"]["mean"], raw.stats()["index"]["mean"])

    copied = from_lerobot(packed, tmp_path / "si", SO101_DEGREES, robot_type="so101")
    assert (copied.episodes, copied.frames, copied.encoded_anew) == (3, 16, 0)
    assert check(tmp_path / "si").sound
    to_lerobot(tmp_path / "si", tmp_path / "degrees", SO101_DEGREES, robot_type="so101_follower")
    with Dataset(packed) as before, Dataset(tmp_path / "degrees") as after, Dataset(tmp_path / "si") as si:
        assert (after.info.robot_type, after.stored_units, si.stored_units) == ("so101_follower", "so101_degrees", "si")
        assert np.allclose(si.stats()["action"]["mean"], before.stats()["action"]["mean"] * scale)
        for index in range(16):
            a, b = before[index], after[index]
            assert a.keys() == b.keys()
            assert np.allclose(a["action"], b["action"], rtol=1e-5) and np.allclose(a["timestamp"], b["timestamp"])
            for camera in CAMERAS:  # copied, not encoded anew
                key = f"observation.images.{camera}"
                assert np.array_equal(a[key], b[key]) and np.array_equal(a[key], si[index][key])
    with pytest.raises(DatasetError, match="radians already"):
        Dataset(tmp_path / "si", units=SO101_DEGREES)
    with pytest.raises(DatasetError, match="not in radians"):
        to_lerobot(packed, tmp_path / "x", SO101_DEGREES, robot_type="so101")


def test_other_units_are_noticed(packed: Path, tmp_path: Path) -> None:
    root = merge_copy(packed, tmp_path)
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    ticks = pa.FixedSizeListArray.from_arrays(pa.array(np.full(16 * 6, 2048.0, dtype=np.float32)), 6)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", ticks), file)
    with Dataset(root, units=SO101_DEGREES) as dataset, pytest.raises(DatasetError, match="more than a turn"):
        dataset[0]
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"]["names"] = ["x", "y", "z", "a", "b", "c"]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="no joint vector"):
        Dataset(root, units=SO101_DEGREES)


def merge_copy(source: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(source, tmp_path / "copy"))


def test_pictures_in_the_table(sample: Path, tmp_path: Path) -> None:
    """LeRobot without videos keeps PNG bytes in a column."""
    import io

    from PIL import Image

    def png(number: int) -> dict[str, Any]:
        out = io.BytesIO()
        from dataset_samples import stamped

        Image.fromarray(stamped(number)).save(out, format="PNG")
        return {"bytes": out.getvalue(), "path": None}

    root = merge_copy(sample, tmp_path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.wrist"]["dtype"] = "image"
    (root / "meta/info.json").write_text(json.dumps(info))
    for number, length in enumerate(LENGTHS):
        file = root / f"data/chunk-000/file-00{number}.parquet"
        cells = pa.array([png(identity(number, k, "wrist")) for k in range(length)])
        pq.write_table(pq.read_table(file).append_column("observation.images.wrist", cells), file)
    with Dataset(root) as dataset:
        assert [shown(dataset, 5 + k, "wrist") for k in range(8)] == [identity(1, k, "wrist") for k in range(8)]
        assert dataset.episode(2)["observation.images.wrist"].shape == (3, 32, 64, 3)
    copied = merge([root, root], tmp_path / "videos")
    assert copied.encoded_anew == 6 and read_info(tmp_path / "videos").features["observation.images.wrist"].is_video
    with Dataset(tmp_path / "videos") as dataset:
        assert [shown(dataset, 21 + k, "wrist") for k in range(8)] == [identity(1, k, "wrist") for k in range(8)]


def test_what_is_no_dataset(tmp_path: Path, sample: Path) -> None:
    with pytest.raises(DatasetError, match="holds no dataset"):
        Dataset(tmp_path)
    root = merge_copy(sample, tmp_path)
    text = (root / "meta/info.json").read_text()
    for old, new, words in (
        ('"v3.0"', '"v2.1"', "format v2.1"),
        ('"fps": 20', '"fps": 0', "damaged"),
        ('"features"', '"sheep"', "damaged"),
        ("{", "", "cannot be read"),
        ("data/chunk-{chunk_index:03d}", "../../etc/{chunk_index}", "outside its own folder"),
        ("data/chunk-{chunk_index:03d}", "data/{chunk_index.__class__}", "may stand in braces"),
        ('"total_episodes": 3', '"total_episodes": 4', "cut short"),
    ):
        assert old in text
        (root / "meta/info.json").write_text(text.replace(old, new, 1))
        with pytest.raises(DatasetError, match=words):
            Dataset(root)
