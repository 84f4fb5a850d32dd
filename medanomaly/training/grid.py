"""The grid on which GANs coevolve: its settings, its neighbourhoods, and where the randomness of a cell comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medanomaly.errors import ConfigError, check_count


@dataclass(frozen=True)
class GridSettings:
    """How a grid of GANs evolves. What is not said otherwise is as in Lipizzaner's code (ALFA group, MIT).

    Args:
        rows, columns: cells of the grid, whose borders are joined: a torus.
        selected: generators, and discriminators, that win tournaments in a cell and learn in an iteration. A grid costs
            as much as ``rows * columns * selected`` GANs.
        tournament: how many compete for each of these places.
        skip: after each batch on which discriminators learn, that many on which they do not.
        rate_probability: that a learning rate is mutated before a step.
        rate_scale: times N(-r / 10, r), with r the rate that the GAN began with, is what is added then.
        mixture_scale: standard deviation of what is added to the weights of a mixture.
        mixture_trials: mutations of the mixture that are tried in each iteration.
        quality_samples: made to measure a quality.
        seed: of weights, noise and choices.

    Raises:
        ConfigError: for numbers that cannot work.
    """

    rows: int = 2
    columns: int = 2
    selected: int = 1
    tournament: int = 2
    skip: int = 0
    rate_probability: float = 0.5
    rate_scale: float = 1e-4
    mixture_scale: float = 0.01
    mixture_trials: int = 1
    quality_samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "selected", "tournament", "mixture_trials"):
            check_count(f"{name} of the grid", getattr(self, name))
        if self.quality_samples < 2:
            raise ConfigError(f"quality_samples is {self.quality_samples}, but at least two samples are needed.")
        if isinstance(self.skip, bool) or not isinstance(self.skip, int) or self.skip < 0:
            raise ConfigError(f"skip is {self.skip!r}, but a whole number of at least 0 is needed.")
        if not 0 <= self.rate_probability <= 1:
            raise ConfigError(f"rate_probability is {self.rate_probability}, but must lie between 0 and 1.")
        for name in ("rate_scale", "mixture_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 0.")

    @property
    def cells(self) -> int:
        """How many there are; they are numbered row by row."""
        return self.rows * self.columns

    def neighbours(self, cell: int) -> list[int]:
        """The cells north, south, east and west of ``cell`` across the joined borders, each once, without itself.

        >>> GridSettings(3, 3).neighbours(0)
        [6, 3, 1, 2]
        >>> GridSettings(2, 2).neighbours(0)
        [2, 1]
        >>> GridSettings(1, 1).neighbours(0)
        []
        """
        row, column = divmod(cell, self.columns)
        around = [(row - 1, column), (row + 1, column), (row, column + 1), (row, column - 1)]
        numbers = [(r % self.rows) * self.columns + c % self.columns for r, c in around]
        return [number for number in dict.fromkeys(numbers) if number != cell]

    def seed_of(self, iteration: int, cell: int) -> int:
        """What torch's global generator is seeded with in a cell: iteration 0 draws the weights, 1 learns first."""
        return (self.seed * 1_000_003 + iteration) * 10_007 + cell
