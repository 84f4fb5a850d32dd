"""What every section shares: the settings of the run, and the one way in which things are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import Peaks


@dataclass(frozen=True)
class Run:
    """Settings of one run of the benchmarks."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    data_root: Path = Path("data")
    peaks: Peaks = field(default_factory=Peaks)

    def rounds(self, full: int) -> int:
        """How often each way is timed."""
        return 2 if self.quick else full


def say(message: str) -> None:
    """A line of progress."""
    print(message, flush=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(way: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call."""
    synchronize(device)
    start = time.perf_counter()
    way()
    synchronize(device)
    return time.perf_counter() - start


def interleaved(
    ways: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device | None = None, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each way in each round, round-robin, so that what else the machine does hits all ways alike."""
    device = device or torch.device("cpu")
    if warm_up:
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, device))
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each way, in the order of the ways."""
    return {name: median(values) for name, values in seconds.items()}


def spread(values: list[float]) -> float:
    """How far apart the slowest and the fastest round lie, as a share of the median."""
    return (max(values) - min(values)) / median(values)
