from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_samples import (
    CAMERAS,
    FEATURES,
    identity,
    instant_disk,  # noqa: F401
    make,
    number_in,
    open_writer,
    pictures,
    record,
    row,
)
from hypothesis import given
from hypothesis import strategies as st

from policies.dataset.checks import check, repair
from policies.dataset.copying import merge, salvage
from policies.dataset.layout import DatasetError
from policies.dataset.reader import Dataset
from policies.dataset.statistics import ChannelHistogram, aggregate, column_stats

DATA = "data/chunk-000/file-001.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-001.mp4"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sample") / "d", (4, 6, 3))


@pytest.fixture
def root(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "d"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scramble(file: Path) -> None:
    """Damage the pictures themselves; the container stays whole."""
    data = bytearray(file.read_bytes())
    start = data.index(b"mdat") + 700
    data[start : start + 600] = bytes(np.random.default_rng(0).integers(0, 256, 600, dtype=np.uint8))
    file.write_bytes(data)


def change(column: str, to: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        table = pq.read_table(file)
        number = table.schema.get_field_index(column)
        values = to(np.array(table[column].to_pylist(), dtype=table.schema.field(column).type.to_pandas_dtype()))
        pq.write_table(table.set_column(number, column, pa.array(values)), file)

    return apply


def nan(file: Path) -> None:
    table = pq.read_table(file)
    values = np.zeros((6, 6), dtype=np.float32)
    values[2, 2] = np.nan
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
    pq.write_table(table.set_column(0, "action", array), file)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (DATA, cut, "cannot be read"),
        (DATA, Path.unlink, "is missing"),
        (DATA, nan, "action holds values that are not finite"),
        (DATA, change("index", lambda v: v + 1), "the column index does not count"),
        (DATA, change("timestamp", lambda v: v * 2), "not 1/20 s apart"),
        (DATA, change("episode_index", lambda v: v * 0), "holds 0 of them"),
        (VIDEO, cut, "rows have no picture in file-001.mp4"),
        (VIDEO, Path.unlink, "is missing"),
        (VIDEO, scramble, "is damaged"),
        (VIDEO, lambda f: f.write_bytes(f.with_name("file-002.mp4").read_bytes()), "3 of 6 rows have no picture"),
    ],
)
def test_damage_is_named_and_the_rest_is_saved(
    root: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], words: str
) -> None:
    damage(root / name)
    report = check(root)
    assert not report.sound and all(problem.startswith("episode 1: ") for problem in report.problems)
    assert words in report.problems[0]
    if damage is cut:
        with Dataset(root) as dataset, pytest.raises(DatasetError, match="file-001.*embodied data check"):
            dataset.episode(1)
    with Dataset(root) as dataset:  # what is whole can be read all the same
        assert number_in(dataset[10]["observation.images.front"]) == identity(2, 0, "front")
    if name == VIDEO or damage in (cut, Path.unlink):
        copied = salvage(root, tmp_path / "sound")
        assert (copied.episodes, copied.frames) == (2, 7) and copied.left_out[0].startswith("episode 1: ")
        assert check(tmp_path / "sound").sound
        with Dataset(tmp_path / "sound") as dataset:
            assert number_in(dataset[4]["observation.images.wrist"]) == identity(2, 0, "wrist")
            assert [episode.success for episode in dataset.episodes] == [True, True]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 0.9, 0.995])
def test_a_video_cut_anywhere_is_noticed(root: Path, share: float) -> None:
    file = root / VIDEO
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert not check(root, decode=False).sound


@pytest.mark.parametrize("name", [DATA, VIDEO])
def test_a_single_flipped_bit_is_noticed(root: Path, name: str) -> None:
    """A decoder shows a wrong picture without a word; the checksum tells."""
    data = bytearray((root / name).read_bytes())
    data[len(data) // 2 if name == VIDEO else 60] ^= 1
    (root / name).write_bytes(data)
    assert not check(root, decode=False).sound


def test_without_checksums_only_decoding_sees_damaged_pictures(root: Path) -> None:
    file = root / "meta/episodes/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns([name for name in table.column_names if name.endswith("crc32")]), file)
    scramble(root / VIDEO)
    assert check(root, decode=False).sound and "is damaged" in check(root).problems[0]


def test_a_false_rate_is_remarked(tmp_path: Path) -> None:
    with open_writer(tmp_path / "d") as out:
        episode = out.begin("slow motion")
        for frame in range(10):
            episode.add({**row(0, frame), "time.monotonic": frame / 14.0}, pictures(0, frame))
        episode.save()
    report = check(tmp_path / "d")
    assert report.sound and "recorded at 14.0 frames per second by the robot's clock, not at 20" in report.remarks[0]


def test_repair_counts_again(root: Path) -> None:
    """An index that knows less or more than is there, as other writers leave it."""
    info = json.loads((root / "meta/info.json").read_text())
    for episodes, frames in ((2, 10), (5, 30)):
        (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": episodes, "total_frames": frames}))
        (root / "meta/stats.json").write_text("{}")
        assert not check(root).sound
        done = repair(root)
        assert done.counted_again and done.episodes == 3
        assert check(root).sound
        with Dataset(root) as dataset:
            assert int(dataset.stats()["action"]["count"][0]) == 13
    assert not repair(root).counted_again
    with open_writer(root) as out:
        with pytest.raises(DatasetError, match="another process"):
            repair(root)
        assert record(out, 2) == 3


def test_merge(root: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", (2, 5))
    copied = merge([root, other], tmp_path / "both")
    assert (copied.episodes, copied.frames, copied.encoded_anew) == (5, 20, 0)
    assert check(tmp_path / "both").sound
    with Dataset(tmp_path / "both") as dataset, Dataset(other) as source:
        assert dataset.tasks == ["task 0", "task 1"] and dataset[-1]["task"] == "task 1"
        for frame in range(7):
            assert np.array_equal(dataset[13 + frame]["action"], source[frame]["action"])
            for camera in CAMERAS:
                key = f"observation.images.{camera}"
                assert np.array_equal(dataset[13 + frame][key], source[frame][key])
        assert int(dataset.stats()["observation.images.front"]["count"][0]) == 20
    with pytest.raises(DatasetError, match="holds a dataset already"):
        merge([root, other], tmp_path / "both")
    with pytest.raises(DatasetError, match="at least two"):
        merge([root], tmp_path / "one")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"fps": 30}, "frames per second 20 and 30"),
        ({"robot_type": "koch"}, "robot 'so101' and 'koch'"),
        ({"units": "so101_degrees"}, "units 'si' and 'so101_degrees'"),
        ({"features": {key: f for key, f in FEATURES.items() if "wrist" not in key}}, "wrist is missing in one"),
    ],
)
def test_unlike_datasets_do_not_mix(root: Path, tmp_path: Path, kind: dict[str, object], words: str) -> None:
    open_writer(tmp_path / "other", **kind).close()
    with pytest.raises(DatasetError, match=words):
        merge([root, tmp_path / "other"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), min_size=1, max_size=5))
def test_statistics_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    every = np.concatenate(parts)
    together = aggregate([{"x": column_stats(np.array(part))} for part in parts])["x"]
    assert int(together["count"][0]) == len(every)
    for name, value in (("min", every.min()), ("max", every.max()), ("mean", every.mean()), ("std", every.std())):
        assert together[name][0] == pytest.approx(value, abs=1e-6)


def test_statistics_of_pictures_are_exact(rng: np.random.Generator) -> None:
    shown = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) // (1 + k) for k in range(3)]
    histogram = ChannelHistogram()
    for picture in shown:
        histogram.add(picture)
    stats, values = histogram.stats(), np.concatenate([p.reshape(-1, 3) for p in shown]) / 255.0
    assert stats["mean"].shape == (3, 1, 1) and stats["count"].tolist() == [3]
    for name, value in (
        ("mean", values.mean(0)),
        ("std", values.std(0)),
        ("min", values.min(0)),
        ("max", values.max(0)),
    ):
        assert np.allclose(stats[name].ravel(), value)
    assert np.allclose(stats["q90"].ravel(), np.quantile(values, 0.9, axis=0, method="inverted_cdf"))
