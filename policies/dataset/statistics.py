"""Statistics of features, as LeRobot's normalisation expects them: min, max, mean, std, count, q01, q10, q50, q90, q99.

Of one episode they are exact. Over episodes, min, max, mean, std and count stay exact; a quantile becomes the mean of the
episodes' quantiles weighted by length (LeRobot 0.4.4 does the same), which is no true quantile of the whole.
Pictures are counted in 0..1 per channel, over all frames, every n-th pixel: shape (3, 1, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.dataset.layout import Feature

Stats = dict[str, NDArray[np.generic]]
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
#: Pictures larger than this on both sides are thinned out to about half of it before counting.
_LARGE = 150


def column_stats(values: NDArray[np.generic]) -> Stats:
    """Of the rows (T,) or (T, D) of one feature; each entry has the shape (D,)."""
    rows = values.reshape(len(values), -1)
    numbers = rows.astype(np.float64)
    stats: Stats = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
        "count": np.array([len(rows)], dtype=np.int64),
    }
    quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=0)
    return {**stats, **dict(zip(QUANTILES, quantiles, strict=True))}


def has_stats(key: str, feature: Feature) -> bool:
    """Strings and flags have none, nor have clocks, whose zero means nothing."""
    return (feature.is_number and feature.dtype != "bool" and not key.startswith("time.")) or feature.is_picture


class ChannelHistogram:
    """Counts pixel values, so that the statistics of any number of pictures are exact and cost no memory."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._pictures = 0

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Count one picture (H, W, 3)."""
        step = max(1, min(rgb.shape[0], rgb.shape[1]) // _LARGE)
        for channel in range(3):
            thinned = np.ascontiguousarray(rgb[::step, ::step, channel])
            self._counts[channel] += np.bincount(thinned.ravel(), minlength=256)
        self._pictures += 1

    def stats(self) -> Stats:
        """Each of shape (3, 1, 1), values in 0..1; at least one picture must have been counted."""
        levels = np.arange(256) / 255.0
        share = self._counts / self._counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        seen = self._counts > 0
        found = {
            "min": levels[seen.argmax(axis=1)],
            "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
        }
        cumulative = share.cumsum(axis=1)
        for name, quantile in QUANTILES.items():
            found[name] = levels[(cumulative >= quantile - 1e-12).argmax(axis=1)]
        stats: Stats = {name: value.reshape(3, 1, 1) for name, value in found.items()}
        return {**stats, "count": np.array([self._pictures], dtype=np.int64)}


def aggregate(parts: Sequence[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Statistics of several episodes, or of several sets of episodes, taken together."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: _together([part[key] for part in parts if key in part]) for key in keys}


def _together(parts: Sequence[Stats]) -> Stats:
    if len(parts) == 1:
        return parts[0]
    mean = np.stack([part["mean"].astype(np.float64) for part in parts])
    weight = np.array([float(part["count"][0]) for part in parts]).reshape(-1, *[1] * (mean.ndim - 1))
    weight = weight / weight.sum()
    total_mean = (weight * mean).sum(axis=0)
    variance = np.stack([part["std"].astype(np.float64) ** 2 for part in parts]) + (mean - total_mean) ** 2
    stats: Stats = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": total_mean,
        "std": np.sqrt((weight * variance).sum(axis=0)),
        "count": np.sum([part["count"] for part in parts], axis=0),
    }
    for name in QUANTILES:
        if all(name in part for part in parts):
            stats[name] = (weight * np.stack([part[name] for part in parts])).sum(axis=0)
    return stats


def to_json(stats: Mapping[str, Stats]) -> dict[str, dict[str, object]]:
    """For ``meta/stats.json``."""
    return {key: {name: value.tolist() for name, value in part.items()} for key, part in stats.items()}


def from_json(data: Mapping[str, Mapping[str, object]]) -> dict[str, Stats]:
    """Inverse of ``to_json``."""
    return {key: {name: np.array(value) for name, value in part.items()} for key, part in data.items()}
