"""What a detector costs: the time of its training and of scoring, and how many numbers it has learned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.data import written_whole

NAMES = ("training (s)", "ms an image", "parameters")


def clock() -> float:
    """Seconds, to take differences of: of the process's own computing (CPU s), as what else runs would count otherwise.

    Where there is a GPU, those of the wall, as the process waits for it.
    """
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class TimedInferer:
    """An inferer that counts what it scores.

    Args:
        inferer: called as ``inferer(volume, network, mask=region)``.

    Attributes:
        seconds: spent in scoring so far, without reading and preparing.
        volumes: scored so far.
    """

    def __init__(self, inferer: Callable[..., Tensor]) -> None:
        self.inferer, self.seconds, self.volumes = inferer, 0.0, 0

    def __call__(self, volume: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        start = clock()
        scores = self.inferer(volume, *args, **kwargs)
        self.seconds += clock() - start
        self.volumes += len(volume)
        return scores


@contextmanager
def timed(file: Path) -> Iterator[None]:
    """Adds the seconds spent inside to those in ``file``, so that those before an interruption count, too."""
    before, start = seconds_in(file), clock()
    try:
        yield
    finally:
        with written_whole(file) as temporary:
            temporary.write_text(json.dumps({"seconds": before + clock() - start}), encoding="utf-8")


def seconds_in(file: Path) -> float:
    """What :func:`timed` left in ``file``; 0 if there is none."""
    return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.exists() else 0.0


def parameters_of(network: Any) -> int:
    """Numbers that a detector has learned or fitted: parameters and buffers of floating point; 0 of a baseline."""
    if not isinstance(network, nn.Module):
        return 0
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def mean_costs(results: Sequence[Mapping[str, Any]], images: int | None = None) -> dict[str, float]:
    """Columns of a table: mean costs of results; none where one was made before costs were measured.

    Args:
        results: of one detector, one a seed.
        images: how many were scored; as many as there were volumes, if not given.
    """
    costs: list[Mapping[str, float]] = [result["costs"] for result in results if "costs" in result]
    if len(costs) < len(results):
        return {}
    per_image = [1000 * cost["scoring_seconds"] / max(images or cost["volumes"], 1) for cost in costs]
    training, parameters = ([cost[key] for cost in costs] for key in ("training_seconds", "parameters"))
    return dict(zip(NAMES, (fmean(training), fmean(per_image), fmean(parameters)), strict=True))
