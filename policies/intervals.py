"""How sure a success rate is: the interval that every evaluation here reports."""

from __future__ import annotations

import math

#: Two-sided 95 % quantile of the standard normal distribution.
Z_95 = 1.959963984540054


def wilson(successes: int, episodes: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval (E. B. Wilson, 1927) of a binomial proportion; (0, 1) without episodes."""
    if episodes == 0:
        return 0.0, 1.0
    p = successes / episodes
    scale = 1.0 + z * z / episodes
    centre = (p + z * z / (2.0 * episodes)) / scale
    half = z * math.sqrt(p * (1.0 - p) / episodes + z * z / (4.0 * episodes * episodes)) / scale
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == episodes else centre + half)
