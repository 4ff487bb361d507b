"""Shows an episode in Rerun's viewer: pictures, joints as wanted, sent and measured, goal points, on one time axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from policies.dataset.layout import DatasetError
from policies.dataset.reader import Dataset

#: Vectors that get a plot each, one line per entry.
_PLOTS = {"observation.state": "joints/measured", "action": "joints/sent", "requested_action": "joints/requested"}


def show(dataset: Dataset, number: int, save: Path | None = None) -> int:
    """Open the viewer with one episode, or write an ``.rrd`` file that the viewer opens; returns the frames shown.

    Raises ``DatasetError`` when Rerun is not installed.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise DatasetError("viewing needs Rerun: pip install 'embodied[view]' (or pip install rerun-sdk)") from error

    rows = dataset.episode(number, cameras=())
    stream = rr.RecordingStream("embodied", recording_id=f"{dataset.root.resolve().name}-{number}")
    if save is None:
        stream.spawn()
    else:
        try:
            save.parent.mkdir(parents=True, exist_ok=True)
            save.open("wb").close()
        except OSError as error:
            raise DatasetError(f"cannot write {save}: {error.strerror or error}; choose another file") from error
        stream.save(str(save))
    _name_lines(rr, stream, dataset, rows)
    cameras = {name: dataset.pictures(number, name) for name in dataset.camera_names}
    said = None
    count = len(rows["frame_index"])
    for frame in range(count):
        stream.set_time("frame", sequence=frame)
        stream.set_time("time", duration=float(rows["timestamp"][frame]))
        for name, pictures in cameras.items():
            stream.log(f"camera/{name}", rr.Image(next(pictures)).compress(jpeg_quality=85))
        for key, path in _PLOTS.items():
            if key in rows:
                stream.log(path, rr.Scalars(rows[key][frame]))
        skill = str(rows["skill"][frame]) if "skill" in rows else ""
        words = f"{rows['task'][frame]}: {skill}" if skill else rows["task"][frame]
        if words != said:
            stream.log("words", rr.TextLog(words))
            said = words
        if skill and "goal.point" in rows:
            points = np.stack([rows["goal.point"][frame], rows["goal.to"][frame]])
            stream.log("goal", rr.Points3D(points, labels=[skill, "to"], radii=0.01))
    stream.flush()
    stream.disconnect()
    return count


def _name_lines(rr: Any, stream: Any, dataset: Dataset, rows: dict[str, Any]) -> None:
    for key, path in _PLOTS.items():
        names = dataset.features[key].names if key in rows else None
        if isinstance(names, list):
            stream.log(path, rr.SeriesLines(names=[str(name) for name in names]), static=True)
