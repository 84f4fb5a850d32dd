"""What the costs of a detector are made of."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medanomaly.workflows.costs import NAMES, TimedInferer, clock, mean_costs, parameters_of, seconds_in, timed


def compute(seconds: float) -> None:
    """Keep a core busy; sleeping is no work that would count."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_waits_does_not_count_on_a_cpu() -> None:
    start = clock()
    time.sleep(0.2)
    assert clock() - start < 0.15 or torch.cuda.is_available()


def test_an_inferer_counts_volumes_and_seconds_and_changes_nothing() -> None:
    def slow(volume: Tensor, network: Any, mask: Tensor) -> Tensor:
        compute(0.02)
        return volume * mask

    inferer = TimedInferer(slow)
    volume = torch.rand(2, 1, 4, 4, 4)
    for _ in range(3):
        assert torch.equal(inferer(volume, None, mask=torch.ones(1)), volume)
    assert inferer.volumes == 6 and 0.06 <= inferer.seconds < 6


def test_seconds_go_on_after_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "new" / "seconds.json"
    assert seconds_in(file) == 0
    with pytest.raises(KeyboardInterrupt), timed(file):
        compute(0.02)
        raise KeyboardInterrupt
    first = seconds_in(file)
    with timed(file):
        compute(0.02)
    assert 0.02 <= first < seconds_in(file) - 0.02 + 1e-6


def test_parameters_are_what_was_learned_or_fitted() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))  # 16 + 8, two running statistics of 4, one counter
    assert parameters_of(network) == 32
    assert parameters_of(None) == 0


def test_columns_are_means_over_seeds_and_missing_for_results_of_before() -> None:
    costs = {"training_seconds": 10.0, "scoring_seconds": 2.0, "volumes": 4, "parameters": 7}
    results = [{"costs": costs}, {"costs": {**costs, "training_seconds": 20.0, "scoring_seconds": 4.0}}]
    assert mean_costs(results) == dict(zip(NAMES, (15.0, 750.0, 7.0), strict=True))
    assert mean_costs(results, images=1000)["ms an image"] == pytest.approx(3.0)
    assert mean_costs([*results, {}]) == {}
