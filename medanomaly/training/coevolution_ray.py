"""Coevolution on Ray: each cell is an actor, and an actor that dies comes back from its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medanomaly.errors import ConfigError, MedanomalyError, TrainingError
from medanomaly.networks.adversaries import GAN
from medanomaly.training.cell import Cell, Pair
from medanomaly.training.coevolution import begin_cell, save_cell
from medanomaly.training.grid import GridSettings
from medanomaly.training.quality import Quality

LIVES = 5  # how often a cell may come back


class CellActor:
    """A cell in a process of its own. Whatever it is asked for, it can be asked for again after it died."""

    def __init__(self, threads: int, folder: Path, number: int, more: tuple[Any, ...]) -> None:
        torch.set_num_threads(threads)
        gan, settings, quality, device = more
        self.folder = folder
        self.cell: Cell = begin_cell(number, gan, settings, quality, folder, device)

    def iteration(self) -> int:
        return self.cell.iteration

    def pair_after(self, iteration: int) -> Pair:
        return self.cell.pair_after(iteration)

    def evolve(self, iteration: int, batches: list[Tensor], *neighbours: Pair) -> tuple[Pair, dict[str, Any]]:
        if self.cell.iteration < iteration:  # else it died between the checkpoint and the answer
            self.cell.evolve(iteration, batches, neighbours)
            save_cell(self.cell, self.folder)
        record = next(record for record in reversed(self.cell.history) if record["iteration"] == iteration)
        return self.cell.pair_after(iteration), record

    def state_dict(self) -> dict[str, Any]:
        return self.cell.state_dict()


def run_on_ray(
    gan: GAN,
    batches: Callable[[int, int], Iterable[Tensor]],
    iterations: int,
    settings: GridSettings,
    quality: Quality | None,
    folder: Path,
    wait: bool,
    device: torch.device | str,
    report: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Evolve all cells to the end; see :func:`medanomaly.training.coevolve`.

    This process hands out the batches. Pairs go from cell to cell through Ray's object store.

    Returns:
        The state of each cell.
    """
    ray = _ray()
    with _cluster(ray, settings.cells) as shares:
        options = {**shares, "max_restarts": LIVES, "max_task_retries": LIVES}
        if torch.device(device).type != "cuda":
            options["num_gpus"] = 0
        make = ray.remote(**options)(CellActor)
        more = ray.put((gan, settings, quality, device))
        threads = max(1, torch.get_num_threads() // settings.cells)
        cells = range(settings.cells)
        actors = [make.remote(threads, folder.absolute(), number, more) for number in cells]
        try:
            done = ray.get([actor.iteration.remote() for actor in actors])
            latest = [actor.pair_after.remote(done[number]) for number, actor in enumerate(actors)]
            running: dict[Any, tuple[int, Any]] = {}  # the record that is awaited: which cell, and its pair

            def start(number: int, iteration: int, around: list[Any]) -> None:
                # copies, as of a view its whole storage would travel
                drawn = ray.put([batch.detach().cpu().clone() for batch in batches(iteration, number)])
                evolve = actors[number].evolve.options(num_returns=2)
                pair, record = evolve.remote(iteration, drawn, *around)
                running[record] = (number, pair)

            def end_one() -> int:
                (ready,), _ = ray.wait(list(running), num_returns=1)
                number, latest[number] = running.pop(ready)
                record = ray.get(ready)
                done[number] = record["iteration"]
                report(record)
                return number

            if wait:
                for iteration in range(min(done) + 1, iterations + 1):
                    pairs = [
                        latest[cell] if done[cell] == iteration - 1 else actors[cell].pair_after.remote(iteration - 1)
                        for cell in cells
                    ]
                    for cell in cells:
                        if done[cell] < iteration:
                            start(cell, iteration, [pairs[other] for other in settings.neighbours(cell)])
                    while running:
                        end_one()
            else:
                for cell in cells:
                    if done[cell] < iterations:
                        start(cell, done[cell] + 1, [latest[other] for other in settings.neighbours(cell)])
                while running:
                    cell = end_one()
                    if done[cell] < iterations:
                        start(cell, done[cell] + 1, [latest[other] for other in settings.neighbours(cell)])
            states: list[dict[str, Any]] = ray.get([actor.state_dict.remote() for actor in actors])
            return states
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MedanomalyError):
                raise error.cause from error
            raise
        except ray.exceptions.RayActorError as error:
            raise TrainingError(
                f"a cell of the grid died more than {LIVES} times (memory?); what all have reached is in {folder}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        finally:
            for actor in actors:
                ray.kill(actor)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a training leaves the machine
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'medanomaly[ray]', or choose workers='here'.") from error
    return ray


@contextmanager
def _cluster(ray: Any, cells: int) -> Iterator[dict[str, float]]:
    """The cluster that is there, or a local one while this lasts; what share of it each cell may take."""
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        there = ray.cluster_resources()
        shares = {
            "num_cpus": min(1.0, there.get("CPU", 1.0) / cells),
            "num_gpus": min(1.0, there.get("GPU", 0) / cells),
        }
        yield {name: int(share * 1000) / 1000 for name, share in shares.items()}
    finally:
        if mine:
            ray.shutdown()
