"""How an episode gets into a dataset whole or not at all, whatever happens in between.

    .staging/open-000012/           everything is written here, each file synced to the disk
            |  rename               <- the commit: before it the episode never was, after it the episode is safe
    .staging/commit-000012/
            |  rename, file by file, the index (meta/info.json) last
    data/..., videos/..., meta/...

The second half only moves files, so it can be done again from wherever it was interrupted: ``finish`` does, and every
writer calls it before its first episode. A reader never needs it: until ``info.json`` is moved it sees the old dataset.

What this does not protect against: a disk that says it has written what it has not, and two machines that write to one
network folder (the lock is this machine's).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from policies.dataset.layout import INFO, DatasetError

STAGING = ".staging"
_SLASH = "%"  # no feature may have it in its name
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_text(data: Any) -> str:
    """JSON as LeRobot writes it. Raises ``ValueError`` for numbers that JSON does not know."""
    return json.dumps(data, indent=4, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, data: Any) -> None:
    """Write and sync; the file appears under its name only when it is whole."""
    _make_folder(path.parent)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(to_text(data))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Stage:
    """The open episode's folder. Files lie in it side by side, named after the place they shall take in the dataset."""

    def __init__(self, dataset: Path, episode: int) -> None:
        self.dataset = dataset
        self.root = dataset / STAGING / f"open-{episode:06d}"
        self._committed = dataset / STAGING / f"commit-{episode:06d}"
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)

    def path(self, target: Path) -> Path:
        """Where to write the file that shall become ``target`` of the dataset."""
        return self.root / str(target.relative_to(self.dataset)).replace("/", _SLASH)

    def commit(self) -> None:
        """Sync everything, make it count, and put it in place."""
        for file in self.root.iterdir():
            sync(file)
            # Made now, so that nothing has to be made after the commit.
            _make_folder(_target(self.dataset, file).parent)
        sync(self.root)
        os.replace(self.root, self._committed)
        sync(self._committed.parent)
        try:
            _move_in(self.dataset, self._committed)
        except OSError as error:
            raise DatasetError(
                f"the episode is written but could not be put in place ({error.strerror or error}); it is not lost: "
                f"`embodied data repair {self.dataset}` finishes it"
            ) from error

    def drop(self) -> None:
        """Forget the open episode."""
        shutil.rmtree(self.root, ignore_errors=True)


def finish(dataset: Path) -> tuple[int, int]:
    """Put committed episodes in place and drop open ones, as after a crash: (how many finished, how many dropped).

    Only for the holder of the dataset's lock.
    """
    finished = dropped = 0
    staging = dataset / STAGING
    for stage in sorted(staging.iterdir()) if staging.is_dir() else []:
        if stage.name.startswith("commit-"):
            _move_in(dataset, stage)
            finished += 1
        elif stage.name.startswith("open-"):
            shutil.rmtree(stage)
            dropped += 1
    return finished, dropped


def unfinished(dataset: Path) -> tuple[int, int]:
    """What ``finish`` would do, without doing it: (episodes to put in place, open ones to drop)."""
    staging = dataset / STAGING
    names = [entry.name for entry in staging.iterdir()] if staging.is_dir() else []
    return sum(n.startswith("commit-") for n in names), sum(n.startswith("open-") for n in names)


def _target(dataset: Path, file: Path) -> Path:
    return dataset / file.name.replace(_SLASH, "/")


def _rank(file: Path) -> int:
    """Order of moving: nothing may be named before it is there."""
    order = ("data", "meta%stats", "meta%episodes", "meta%info")
    return next((number for number, start in enumerate(order, 1) if file.name.startswith(start)), 0)


def _move_in(dataset: Path, committed: Path) -> None:
    files = sorted(committed.iterdir(), key=lambda file: (_rank(file), file.name))
    touched: set[Path] = set()
    for file in files:
        target = _target(dataset, file)
        if target == dataset / INFO:  # what the index names must be on the disk before the index is
            for folder in touched:
                sync(folder)
        _make_folder(target.parent)
        os.replace(file, target)
        touched.add(target.parent)
    sync((dataset / INFO).parent)
    committed.rmdir()


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


class Lock:
    """One writer per dataset. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, dataset: Path) -> None:
        """Raises ``DatasetError`` when someone else writes."""
        (dataset / STAGING).mkdir(parents=True, exist_ok=True)
        self._file: IO[str] | None = (dataset / STAGING / "lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DatasetError(
                f"another process is writing to {dataset}; end it first, or record to a new folder"
            ) from error

    def release(self) -> None:
        """Safe to call twice."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None


def write_failed(error: OSError, dataset: Path, doing: str) -> DatasetError:
    """The error to raise when the disk refused to take something."""
    if error.errno in _FULL:
        return DatasetError(
            f"the disk is full: {doing} needs more than the {free_mb(dataset):.0f} MB left at {dataset}. "
            "The open episode was dropped, all earlier ones are safe; free some space and record it again"
        )
    return DatasetError(f"{doing} failed at {dataset}: {error.strerror or error}; all earlier episodes are safe")


def free_mb(folder: Path) -> float:
    """Space left on the folder's disk."""
    return shutil.disk_usage(folder).free / 1e6
