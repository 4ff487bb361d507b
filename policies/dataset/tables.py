"""The parquet tables of a dataset: rows of frames, rows of episodes, the list of tasks. Arrow in, numpy out, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.dataset.layout import DatasetError, Feature
from policies.dataset.statistics import Stats

#: One value per row: arrays (T, *shape), or objects where rows are words or stored pictures.
Columns = dict[str, NDArray[Any]]
_ARROW = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
_FAILURES = (pa.ArrowException, OSError, KeyError, ValueError, TypeError)


def write_rows(path: Path, features: Mapping[str, Feature], columns: Columns) -> None:
    """Write one episode's rows; the videos' features have no column. One row group, as LeRobot's writer makes per episode."""
    arrays, fields = [], []
    described: dict[str, Any] = {}
    for key, feature in features.items():
        if feature.is_video:
            continue
        values = columns[key]
        value: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if feature.shape == (1,):
            array = pa.array(
                values.reshape(len(values)).tolist() if feature.dtype == "string" else values, _ARROW[feature.dtype]
            )
        else:
            flat = pa.array(np.ascontiguousarray(values).ravel(), _ARROW[feature.dtype])
            array = pa.FixedSizeListArray.from_arrays(flat, feature.shape[0])
            value = {"feature": value, "length": feature.shape[0], "_type": "List"}
        described[key] = value
        arrays.append(array)
        fields.append(pa.field(key, array.type))
    # What the `datasets` library, which LeRobot reads with, knows types from.
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    pq.write_table(
        table,
        path,
        compression="snappy",
        use_dictionary=True,
        row_group_size=max(1, len(table)),
        write_page_checksum=True,
    )


def read_rows(path: Path, features: Mapping[str, Feature], episode: int) -> Columns:
    """The rows of one episode in the order of their frames. Raises ``DatasetError`` when the file cannot be read."""
    names = [key for key, feature in features.items() if not feature.is_video]
    try:
        # LeRobot makes a row group per episode, so only those of this episode are read.
        table = pq.read_table(
            path,
            columns=names,
            filters=[("episode_index", "=", episode)],
            partitioning=None,
            page_checksum_verification=True,
        )
        absent = [name for name in names if name not in table.column_names]
        if absent:
            raise DatasetError(f"{path} lacks the columns {', '.join(absent)}; `embodied data check` says more")
        return {name: _to_numpy(table[name], features[name]) for name in names}
    except _FAILURES as error:
        raise unreadable(path, error) from error


def _to_numpy(column: pa.ChunkedArray, feature: Feature) -> NDArray[Any]:
    if column.null_count:
        raise DatasetError(f"a column holds {column.null_count} empty rows; `embodied data check` says more")
    if not feature.is_number:
        words: NDArray[Any] = np.empty(len(column), dtype=object)
        words[:] = column.to_pylist()
        return words
    array = column.combine_chunks()
    rows = len(array)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_nested(array.type):
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    return values if feature.shape == (1,) else values.reshape(rows, *feature.shape)


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """``meta/tasks.parquet``, a pandas table with the words as its index; row k is task k."""
    words = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {
        "name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None,
    }  # fmt: skip
    unnamed = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [unnamed],
        "columns": [number, words],
        "pandas_version": "2.2.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)})
    pq.write_table(
        pa.table([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())], schema=schema), path
    )


def read_tasks(path: Path) -> list[str]:
    """The words of task 0, 1, ... Raises ``DatasetError``."""
    if not path.exists():
        return []
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        numbers = table["task_index"].to_pylist()
        (words,) = (name for name in table.column_names if name != "task_index")
        tasks = dict(zip(numbers, table[words].to_pylist(), strict=True))
        return [str(tasks[number]) for number in range(len(tasks))]
    except _FAILURES as error:
        raise unreadable(path, error) from error


def write_episode(path: Path, row: Mapping[str, Any], stats: Mapping[str, Stats]) -> None:
    """``meta/episodes/...``: one episode's row, with its statistics in columns ``stats/FEATURE/NAME``."""
    names, arrays = [], []
    for key, value in row.items():
        names.append(key)
        arrays.append(pa.array([value], pa.list_(pa.string()) if key == "tasks" else _plain(value)))
    for feature, part in stats.items():
        for name, values in part.items():
            kind = pa.int64() if np.issubdtype(values.dtype, np.integer) else pa.float64()
            for _ in range(values.ndim):
                kind = pa.list_(kind)
            names.append(f"stats/{feature}/{name}")
            arrays.append(pa.array([values.tolist()], kind))
    # A hundred columns of one value each: dictionaries and column statistics would be most of the file.
    table = pa.Table.from_arrays(arrays, names=names)
    pq.write_table(table, path, compression="snappy", use_dictionary=False, write_statistics=False, store_schema=False)


def _plain(value: Any) -> pa.DataType:
    return pa.int64() if isinstance(value, int) else pa.float64()


def read_episodes(folder: Path, *, stats: bool = False) -> list[dict[str, Any]]:
    """The rows of all files in the folder, in the order of the episodes; with or without the statistics."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/*.parquet")):
        try:
            with pq.ParquetFile(path) as file:
                names = [name for name in file.schema_arrow.names if stats or not name.startswith("stats/")]
                rows += file.read(columns=names).to_pylist()
        except _FAILURES as error:
            raise unreadable(path, error) from error
    try:
        return sorted(rows, key=lambda row: int(row["episode_index"]))
    except _FAILURES as error:
        raise unreadable(folder, error) from error


def row_stats(row: Mapping[str, Any]) -> dict[str, Stats]:
    """The statistics in a row of ``read_episodes(..., stats=True)``."""
    found: dict[str, Stats] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            _, feature, name = column.split("/")
            found.setdefault(feature, {})[name] = np.array(value)
    return found


def unreadable(path: Path, error: BaseException) -> DatasetError:
    """The error to raise for a damaged table."""
    if isinstance(error, DatasetError):
        return error
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"{path} is missing; run `embodied data check` to see which episodes are whole")
    reason = " ".join(str(error).split())[:200]
    return DatasetError(f"{path} cannot be read ({reason}); run `embodied data check` to see which episodes are whole")
