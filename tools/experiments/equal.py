# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The speed-up at equal accuracy: how much less it costs to be as good."""
from dataclasses import dataclass
from math import inf
from typing import Optional, Tuple

import numpy as np

DRAWS = 10_000
_SEED = 0


@dataclass
class SpeedUp:
    """How many times less than a reference costs what is as accurate.

    A value is 0 where nothing that was tried is as accurate, and infinite
    where the cheapest that was tried is at least as accurate: nothing is said
    of budgets beyond those.

    Args:
        value (float): Of the means over seeds.
        interval (tuple[float, float] | None): 95 % of draws of seeds lie in
            it; None of a single seed.
        least (float): The dearest that was tried costs so many times less.
        most (float): The cheapest that was tried costs so many times less.
    """

    value: float
    interval: Optional[Tuple[float, float]]
    least: float
    most: float

    def text(self, value: float, digits: int = 2) -> str:
        """One of the values, in words where it lies beyond what was tried."""
        if value == inf:
            return f'at least {self.most:.{digits}f}'
        return f'{value:.{digits}f}' if value else f'below {self.least:.{digits}f}'

    def __str__(self) -> str:
        text = self.text(self.value)
        if self.interval is None or self.value in (0, inf) and set(self.interval) == {self.value}:
            return text
        return f'{text} [{", ".join(map(self.text, self.interval))}]'


def speed_up_at(level: np.ndarray, level_costs: np.ndarray, scores: np.ndarray,
                costs: np.ndarray) -> SpeedUp:
    """Read off what it costs to reach a level.

    Mean accuracy is interpolated linearly over the logarithm of mean cost,
    between neighbouring budgets. Where it comes down through the level more
    than once, the cheapest crossing counts. The interval is a bootstrap: seeds
    are drawn with replacement, the same ones for all arms.

    Args:
        level (ndarray): Accuracies to reach, of shape (seeds,).
        level_costs (ndarray): What they cost, of shape (seeds,).
        scores (ndarray): Accuracies of shape (budgets, seeds), of these seeds.
        costs (ndarray): What they cost, of shape (budgets, seeds).

    Returns:
        SpeedUp: At this level.
    """
    order = np.argsort(costs.mean(-1))  # the cheapest first
    scores, costs = scores[order], costs[order]

    def read(seeds: np.ndarray) -> np.ndarray:
        """Of seeds of shape (draws, seeds)."""
        reached = _reach(
            level[seeds].mean(-1), scores[:, seeds].mean(-1), costs[:, seeds].mean(-1))
        with np.errstate(divide='ignore'):
            return level_costs[seeds].mean(-1) / reached

    count = len(level)
    value = float(read(np.arange(count)[None])[0])
    interval = None
    if count > 1:
        draws = np.random.default_rng(_SEED).integers(count, size=(DRAWS, count))
        # Without interpolation, since some may be infinite.
        drawn, out = np.sort(read(draws)), DRAWS * 25 // 1000
        interval = float(drawn[out]), float(drawn[-1 - out])
    most, least = level_costs.mean() / costs.mean(-1)[[0, -1]]
    return SpeedUp(value, interval, float(least), float(most))


def _reach(level: np.ndarray, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The least costs that reach a level: 0 for less than was tried, infinite for more.

    Args:
        level (ndarray): Of shape (draws,).
        scores (ndarray): Of shape (budgets, draws), the cheapest budget first.
        costs (ndarray): Of shape (budgets, draws).

    Returns:
        ndarray: Costs of shape (draws,).
    """
    found = np.where(scores[0] >= level, 0., inf)
    for i in range(1, len(scores)):
        here = np.isinf(found) & (scores[i] >= level)  # and what is cheaper is below it
        (low, low_cost), (high, high_cost) = (
            (scores[j][here], np.log(costs[j][here])) for j in (i - 1, i))
        part = (level[here] - low) / (high - low)
        found[here] = np.exp(low_cost + part * (high_cost - low_cost))
    return found
