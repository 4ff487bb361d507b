"""The open episode of a dataset: its rows are checked here, one by one, before anything of them is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.dataset.commit import Stage, write_failed
from policies.dataset.layout import IMAGES, DatasetError
from policies.dataset.tables import Columns
from policies.dataset.video import VideoEncoder

if TYPE_CHECKING:
    from policies.dataset.writer import DatasetWriter

Picture = NDArray[np.uint8]
#: 1 succeeded, 0 failed, -1 nobody judged.
UNJUDGED = -1
SUCCESS = "success"
REPEATED = "repeated."
_STAMP = "time.monotonic"


class EpisodeWriter:
    """The open episode. Its rows are in memory and its pictures in open video files until ``save``."""

    def __init__(self, writer: DatasetWriter, task: str, stage: Stage) -> None:
        """Use ``DatasetWriter.begin``."""
        self.task = task
        self._writer = writer
        self._stage = stage
        self._rows: list[dict[str, Any]] = []
        self._tasks: list[str] = []
        self._last: dict[str, Picture] = {}
        self._encoders: dict[str, VideoEncoder] = {}
        self._filled = {
            key for key in writer.features if key == SUCCESS or key.startswith(REPEATED)
        }  # filled in here, so not asked for in ``add``
        for key in writer.info.video_keys:
            height, width, _ = writer.info.features[key].shape
            path = writer.video_path(stage, key)
            self._encoders[key] = VideoEncoder(path, (height, width), writer.info.fps, writer.options.encoding)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def waited_s(self) -> float:
        """How long ``add`` had to wait for the encoders in all."""
        return sum(encoder.waited_s for encoder in self._encoders.values())

    def add(
        self, values: Mapping[str, Any], frames: Mapping[str, Picture] | None = None, *, task: str | None = None
    ) -> None:
        """Add one row: the value of each feature, and each camera's picture by the camera's name.

        Raises ``DatasetError`` and leaves the row out when something is missing, of the wrong shape, or not finite.
        """
        if self._writer.current is not self:
            raise DatasetError("this episode is closed; begin another")
        number = len(self._rows)
        row = self._checked(values, number)
        pictures, repeated = self._pictures(frames or {}, number)
        for key in self._filled:
            if key.startswith(REPEATED):
                row[key] = np.bool_(IMAGES + key.removeprefix(REPEATED) in repeated)
        try:
            for key, encoder in self._encoders.items():
                encoder.add(pictures[key])
        except OSError as error:
            self.discard()
            raise write_failed(
                error, self._writer.root, f"recording episode {self._writer.info.total_episodes}"
            ) from error
        except BaseException:
            self.discard()
            raise
        self._last.update(pictures)
        self._rows.append(row)
        self._tasks.append(self.task if task is None else task)

    def save(self, success: bool | None = None) -> int:
        """Close the episode and make it part of the dataset; returns its number. None: nobody judged."""
        if self._writer.current is not self:
            raise DatasetError("this episode is closed; begin another")
        if not self._rows:
            self.discard()
            raise DatasetError("an episode without a single row is not saved")
        writer, judged = self._writer, UNJUDGED if success is None else int(success)
        number = writer.info.total_episodes
        try:
            stats = {key: encoder.close() for key, encoder in self._encoders.items()}
            columns = self._columns(judged)
            return writer.commit(self._stage, columns, self._tasks, stats, _outcome(columns, judged))
        except OSError as error:
            raise write_failed(error, writer.root, f"saving episode {number}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget the episode; safe to call twice."""
        if self._writer.current is self:
            self._writer.current = None
        for encoder in self._encoders.values():
            encoder.abort()
        self._encoders = {}
        self._stage.drop()

    def _checked(self, values: Mapping[str, Any], number: int) -> dict[str, Any]:
        features = {k: f for k, f in self._writer.features.items() if not f.is_picture and k not in self._filled}
        if values.keys() != features.keys():
            missing, unknown = sorted(features.keys() - values.keys()), sorted(values.keys() - features.keys())
            raise DatasetError(
                f"row {number} lacks {missing or 'nothing'} and holds {unknown or 'nothing'} that it should not"
            )
        row: dict[str, Any] = {}
        for key, feature in features.items():
            if feature.dtype == "string":
                row[key] = str(values[key])
                continue
            wanted = () if feature.shape == (1,) else feature.shape
            try:
                value = np.asarray(values[key], dtype=feature.dtype)
            except (TypeError, ValueError) as error:
                raise DatasetError(f"row {number}: {key} cannot be a {feature.dtype}: {error}") from error
            if value.shape != wanted:
                raise DatasetError(f"row {number}: {key} has the shape {value.shape}, not {wanted}")
            if not np.all(np.isfinite(value)):
                raise DatasetError(
                    f"row {number}: {key} is not finite ({np.round(value, 3).tolist()}); the row was left out, and the "
                    "episode can be saved up to here"
                )
            row[key] = value
        return row

    def _pictures(self, frames: Mapping[str, Picture], number: int) -> tuple[dict[str, Picture], set[str]]:
        cameras = {key: key.removeprefix(IMAGES) for key in self._encoders}
        unknown = sorted(frames.keys() - set(cameras.values()))
        if unknown:
            raise DatasetError(f"row {number}: there is no camera {unknown[0]!r} in this dataset")
        pictures: dict[str, Picture] = {}
        repeated: set[str] = set()
        for key, camera in cameras.items():
            if camera not in frames:
                if self._writer.options.missing == "error" or key not in self._last:
                    raise DatasetError(
                        f"row {number}: the picture of camera {camera!r} is missing; the row was left out, and the episode can "
                        "be saved up to here. missing='repeat' shows the one before again and marks it"
                    )
                pictures[key] = self._last[key]
                repeated.add(key)
                continue
            picture, shape = np.asarray(frames[camera]), self._writer.info.features[key].shape
            if picture.shape != shape or picture.dtype != np.uint8:
                raise DatasetError(
                    f"row {number}: camera {camera!r} gave {picture.dtype}{list(picture.shape)}, not uint8{list(shape)}"
                )
            pictures[key] = picture
        return pictures, repeated

    def _columns(self, judged: int) -> Columns:
        columns: Columns = {}
        for key, feature in self._writer.features.items():
            if feature.is_picture:
                continue
            if key == SUCCESS:
                columns[key] = np.full(len(self._rows), judged, dtype=feature.dtype)
                continue
            dtype = object if feature.dtype == "string" else feature.dtype
            columns[key] = np.array([row[key] for row in self._rows], dtype=dtype)
        return columns


def _outcome(columns: Columns, judged: int) -> dict[str, Any]:
    """What else an episode's row says: how it ended, and the rate at which it was truly recorded."""
    return {"success": judged, "measured_fps": measured_fps(columns)}


def measured_fps(columns: Columns) -> float:
    """Rows per second by the robot's own clock; 0 where that cannot be told."""
    stamps = columns.get(_STAMP)
    if stamps is None or len(stamps) < 2 or not stamps[-1] > stamps[0]:
        return 0.0
    return float((len(stamps) - 1) / (stamps[-1] - stamps[0]))
