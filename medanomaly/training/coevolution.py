"""Coevolution: a grid of GANs that exchange networks with their neighbours, as a trainer for any GAN.

Lipizzaner (Schmiedlechner et al. 2018, arXiv 1811.12843; for chest films Flores et al. 2022) with Mustangs' choice of
losses (Toutouh et al., GECCO 2019). Each cell holds a generator and a discriminator. In an iteration it pulls the pairs
of its neighbours, measures all against all, lets the winners of tournaments learn against random opponents, while their
learning rates mutate, takes the best of them as its own pair, and evolves the weights of a mixture of generators.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError, InputError, check_count
from medanomaly.networks.adversaries import GAN
from medanomaly.training.cell import Cell, Pair, members_of
from medanomaly.training.checkpoints import load_checkpoint, save_whole
from medanomaly.training.grid import GridSettings
from medanomaly.training.quality import Quality

Batches = Callable[[int, int], Iterable[Tensor]]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Grid:
    """What a coevolution ends with.

    Attributes:
        pairs: of each cell, the states of its generator and discriminator.
        weights: of each cell, those of the mixture of its generator and its neighbours'.
        history: of each cell, a record for each iteration.
    """

    gan: GAN
    settings: GridSettings
    pairs: list[Pair]
    weights: list[Tensor]
    history: list[list[dict[str, Any]]]

    def best_cell(self) -> int:
        """The cell whose generator is the closest to real samples; without a quality, the one of the best fitness."""
        return self._best("quality" if "quality" in self.history[0][-1] else "generator_fitness")

    def best_mixture(self) -> int:
        """The cell whose mixture is the closest to real samples; without a quality, :meth:`best_cell`."""
        return self._best("mixture_quality" if "quality" in self.history[0][-1] else "generator_fitness")

    def _best(self, name: str) -> int:
        return min(range(self.settings.cells), key=lambda cell: float(self.history[cell][-1][name]))

    def generator(self, cell: int) -> nn.Module:
        """The generator of a cell, in eval mode, on the CPU."""
        return self._network("generator", cell)

    def discriminator(self, cell: int) -> nn.Module:
        """The discriminator of a cell, in eval mode, on the CPU."""
        return self._network("discriminator", cell)

    def _network(self, kind: str, cell: int) -> nn.Module:
        network: nn.Module = copy.deepcopy(getattr(self.gan, kind)).cpu()
        network.load_state_dict(self.pairs[cell][kind]["network"])
        return network.eval()

    @torch.no_grad()
    def sample(self, n: int, cell: int | None = None, seed: int = 0) -> Tensor:
        """``n`` samples of the mixture of a cell, the best if none is named: (n, ...), on the CPU."""
        cell = self.best_mixture() if cell is None else cell
        drawing = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, self.gan.latent_dim, generator=drawing)
        places = torch.rand(n, generator=drawing, dtype=torch.float64)
        who = members_of(places, self.weights[cell])
        samples: Tensor | None = None
        for member, source in enumerate((cell, *self.settings.neighbours(cell))):
            drawn = who == member
            if drawn.any():
                made = self.generator(source)(noise[drawn])
                samples = made.new_empty((n, *made.shape[1:])) if samples is None else samples
                samples[drawn] = made
        assert samples is not None
        return samples


def coevolve(
    gan: GAN,
    batches: Batches,
    iterations: int,
    settings: GridSettings = GridSettings(),
    quality: Quality | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    workers: Literal["here", "ray"] = "here",
    wait: bool = True,
    device: torch.device | str = "cpu",
    report: Report | None = None,
) -> Grid:
    """Train a GAN by coevolution.

    With ``wait``, a cell begins an iteration when all have ended the one before, so the result depends on the seed
    alone: the same here and on Ray, whole or resumed (on the CPU; same machine, same number of threads).

    Args:
        gan: its networks are templates: cells draw weights of their own, and the given ones do not change.
        batches: called with the iteration, from 1, and the cell; gives the batches (B, ...) that the cell learns from,
            which must depend on these two alone.
        iterations: of each cell.
        settings: of the grid and of its evolution.
        quality: of made samples (n, ...), lower is better, such as :class:`SlicedWasserstein`; without one, mixtures
            stay uniform.
        folder: where each cell keeps a checkpoint, written whole after each of its iterations; Ray needs one.
        resume: go on from these checkpoints.
        workers: "here", cell after cell in this process, or "ray", each cell an actor of its own, on the cluster
            that ``ray.init`` finds or starts. An actor that dies comes back from its checkpoint, so ``folder`` must be
            one that all machines of the cluster share.
        wait: on Ray, False lets each cell go on with what its neighbours have reached: faster where they differ in
            speed, and not the same twice.
        device: where cells learn; on Ray, "cuda" gives each cell its share of the GPUs.
        report: called with the record of a cell after each of its iterations.

    Raises:
        ConfigError: for settings that cannot work, or Ray without a folder.
        InputError: if ``folder`` holds another coevolution, or one at all and ``resume`` is False.
        TrainingError: if a loss is not finite, or a cell keeps dying.
    """
    check_count("iterations", iterations)
    if workers not in ("here", "ray"):
        raise ConfigError(f"workers is {workers!r}: use here or ray.")
    place = None if folder is None else Path(folder)
    if place is not None:
        check_folder(place, gan, settings, resume)
    report = report or _say_nothing
    if workers == "ray":
        from medanomaly.training.coevolution_ray import run_on_ray

        if place is None:
            raise ConfigError("coevolution on Ray needs a folder, from which cells that die come back.")
        cells = run_on_ray(gan, batches, iterations, settings, quality, place, wait, device, report)
    else:
        cells = _run_here(gan, batches, iterations, settings, quality, place, device, report)
    pairs, weights, history = ([cell[name] for cell in cells] for name in ("pair", "weights", "history"))
    return Grid(gan, settings, pairs, weights, history)


def _run_here(
    gan: GAN,
    batches: Batches,
    iterations: int,
    settings: GridSettings,
    quality: Quality | None,
    folder: Path | None,
    device: torch.device | str,
    report: Report,
) -> list[dict[str, Any]]:
    cells = [begin_cell(number, gan, settings, quality, folder, device) for number in range(settings.cells)]
    for iteration in range(1 + min(cell.iteration for cell in cells), iterations + 1):
        for cell in cells:
            if cell.iteration < iteration:
                around = [cells[other].pair_after(iteration - 1) for other in settings.neighbours(cell.number)]
                record = cell.evolve(iteration, batches(iteration, cell.number), around)
                save_cell(cell, folder)
                report(record)
    return [cell.state_dict() for cell in cells]


def begin_cell(
    number: int,
    gan: GAN,
    settings: GridSettings,
    quality: Quality | None,
    folder: Path | None,
    device: torch.device | str,
) -> Cell:
    """A new cell, or, if ``folder`` holds its checkpoint, the cell as it was then."""
    cell = Cell(number, gan, settings, quality, device)
    if folder is not None and _file(folder, number).exists():
        cell.load_state_dict(load_checkpoint(_file(folder, number)))
    return cell


def save_cell(cell: Cell, folder: Path | None) -> None:
    """Write the checkpoint of a cell into ``folder``, whole or not at all."""
    if folder is not None:
        save_whole(cell.state_dict(), _file(folder, cell.number))


def check_folder(folder: Path, gan: GAN, settings: GridSettings, resume: bool) -> None:
    """Note in ``folder`` what coevolves there; refuse one in which something else does."""
    note: dict[str, Any] = {name: getattr(gan, name) for name in ("loss", "learning_rate", "betas", "critic_steps")}
    note["settings"] = asdict(settings)
    file = folder / "grid.pt"
    if file.exists():
        if not resume:
            raise InputError(f"{folder} holds a coevolution already: set resume to go on with it, or choose another.")
        found = load_checkpoint(file)
        changed = [name for name in note["settings"] if found["settings"].get(name) != note["settings"][name]]
        changed += [name for name in note if name != "settings" and found[name] != note[name]]
        if changed:
            raise InputError(
                f"{folder} holds a coevolution with other settings ({', '.join(changed)}): go on with the same, or "
                "choose another folder."
            )
    else:
        save_whole(note, file)


def _file(folder: Path, number: int) -> Path:
    return folder / f"cell{number:03d}.pt"


def _say_nothing(record: dict[str, Any]) -> None:
    pass
