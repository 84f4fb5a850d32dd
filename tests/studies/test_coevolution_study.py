"""The study of eight Gaussians: what counts as covered, its rows in short, and what it found."""

from __future__ import annotations

import pytest
import torch

from studies import coevolution


def test_real_samples_cover_all_modes_and_those_of_one_cover_one() -> None:
    real = coevolution.draw(4000, 0)
    modes, share = coevolution.covered(real)
    assert modes == 8 and share == pytest.approx(0.989, abs=0.006)  # within three deviations, in two dimensions
    assert coevolution.covered(real[real[:, 0] > 0.9])[0] == 1
    assert coevolution.covered(torch.zeros(100, 2)) == (0, 0.0)
    few = torch.cat([coevolution.centres()[:1].expand(991, 2), coevolution.centres()[1:2].expand(9, 2)])
    assert coevolution.covered(few)[0] == 1  # less than 1 %


def test_the_rows_of_the_study_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coevolution, "BATCHES", 2)
    rows = coevolution.rows_of(0, 1, mixture_trials=2)
    assert len(rows) == 6 and rows == coevolution.rows_of(0, 1, mixture_trials=2)
    assert all(0 <= modes <= 8 and 0 <= share <= 1 for modes, share in rows.values())


@pytest.mark.slow
def test_a_grid_covers_more_modes_than_a_gan_of_as_many_steps_as_a_cell() -> None:
    grid = coevolution.run(100, 20, 2, mixture_trials=20, mixture_scale=0.1)
    alone = coevolution.run(100, 20, 1, exchange=False)
    modes = coevolution.covered(grid.sample(4000))[0]
    assert modes >= 6 and modes > coevolution.covered(coevolution.made_by(alone, [0]))[0]
