"""The GAN of a detector, trained by a grid in place of the detector's own steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medanomaly.errors import ConfigError
from medanomaly.networks.adversaries import GAN
from medanomaly.patches.sampling import PatchSampler
from medanomaly.terminal import say
from medanomaly.training.coevolution import coevolve
from medanomaly.training.grid import GridSettings
from medanomaly.training.quality import SlicedWasserstein


class GridStage:
    """What a trainer is told of a grid, and how it trains a stage by it.

    Args:
        grid: arguments of :class:`GridSettings`, and ``workers`` and ``wait`` of :func:`coevolve`.
        seed: of the grid, if it names none.

    Raises:
        ConfigError: for a name that neither has, or a value that cannot work.
    """

    def __init__(self, grid: Mapping[str, Any], seed: int) -> None:
        names = {field.name for field in fields(GridSettings)}
        for name in grid:
            if name not in names | {"workers", "wait"}:
                raise ConfigError(f"grid has no setting {name!r}: it has {', '.join(sorted(names))}, workers and wait.")
        self.settings = GridSettings(**{"seed": seed, **{name: grid[name] for name in grid if name in names}})
        self.where = {name: grid[name] for name in grid if name not in names}

    def run(
        self,
        gan: GAN,
        sampler: PatchSampler,
        held_out: Iterable[Tensor],
        iterations: int,
        folder: Path,
        resume: bool,
        device: torch.device | str,
        progress: bool,
    ) -> None:
        """Let the grid evolve on normal patches; ``gan``'s own networks end with the weights of the best cell.

        That is the one whose generator draws patches closest to held-out ones, by the sliced Wasserstein distance.
        """

        def batches(iteration: int, cell: int) -> Iterable[Tensor]:
            sampler.set_epoch((iteration - 1) * self.settings.cells + cell + 1)
            return sampler

        def report(record: dict[str, Any]) -> None:
            if progress:
                cell, iteration = record["cell"], record["iteration"]
                say(
                    f"iteration {iteration}/{iterations}, cell {cell}:  "
                    f"discriminator {record['discriminator_loss']:.4g}  generator {record['generator_loss']:.4g}  "
                    f"distance {record['quality']:.4g}"
                )

        real = torch.cat([batch.cpu() for batch in held_out])
        grid = coevolve(
            gan,
            batches,
            iterations,
            self.settings,
            SlicedWasserstein(real),
            folder,
            resume,
            device=device,
            report=report,
            **self.where,
        )
        best = grid.pairs[grid.best_cell()]
        gan.generator.load_state_dict(best["generator"]["network"])
        gan.discriminator.load_state_dict(best["discriminator"]["network"])
