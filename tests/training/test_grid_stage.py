"""Detectors whose GAN a grid trains: they draw with the best cell's generator; f-AnoGAN goes on with its encoder."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import AnoGAN, FAnoGAN
from medanomaly.errors import ConfigError
from medanomaly.training import load_checkpoint
from medanomaly.training.cell import Cell
from tests.training.small_trainings import sampler, unequal

GRID = {"rows": 1, "columns": 2, "quality_samples": 16}


def f_anogan():
    torch.manual_seed(7)
    return FAnoGAN(features=4, latent_dim=8, critic_steps=1)


def test_the_encoder_learns_to_use_the_best_cells_generator(trainer):
    run = trainer(max_epochs=2, detector=f_anogan(), grid=GRID)
    run.run()
    cells = [load_checkpoint(run.ckpt_dir / "grid" / f"cell{number:03d}.pt") for number in range(2)]
    best = min(cells, key=lambda cell: cell["history"][-1]["quality"])["pair"]
    other = max(cells, key=lambda cell: cell["history"][-1]["quality"])["pair"]
    model = load_checkpoint(run.model_file)

    def part(state, name):
        return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}

    drawn = part(model, "generator.")
    assert unequal(drawn, best["generator"]["network"]) == [] and unequal(drawn, other["generator"]["network"]) != []
    assert unequal(part(model, "trunk."), part(best["discriminator"]["network"], "0.")) == []
    assert unequal(part(model, "critic_head."), part(best["discriminator"]["network"], "1.")) == []
    fresh = f_anogan()
    assert not torch.equal(model["encoder.0.0.weight"], fresh.encoder[0][0].weight)  # it has learned
    assert run.state.epoch == 4 and all(len(cell["history"]) == 2 for cell in cells)


def test_anogan_searches_in_what_the_best_cell_draws(trainer):
    torch.manual_seed(7)
    detector = AnoGAN(features=4, latent_dim=8, bank_size=32, search_steps=2, restarts=1)
    run = trainer(max_epochs=2, detector=detector, grid=GRID)
    run.run()
    cells = [load_checkpoint(run.ckpt_dir / "grid" / f"cell{number:03d}.pt") for number in range(2)]
    best = min(cells, key=lambda cell: cell["history"][-1]["quality"])["pair"]["generator"]["network"]
    model = load_checkpoint(run.model_file)
    weights = [name for name in best if name.endswith("weight")]
    assert weights and all(torch.equal(model[f"average.{name}"], best[name]) for name in weights)


def test_a_grid_of_one_sees_the_patches_that_the_detectors_own_steps_see(trainer):
    run = trainer(max_epochs=2, detector=f_anogan(), grid={"rows": 1, "columns": 1, "quality_samples": 16})
    seen = []
    evolve = run.grid.run

    def watch(gan, patches, *rest):
        class Watched:
            def set_epoch(self, epoch):
                patches.set_epoch(epoch)

            def __iter__(self):
                for batch in patches:
                    seen.append(batch.clone())
                    yield batch

        evolve(gan, Watched(), *rest)

    run.grid.run = watch
    run.run()
    expected = []
    for epoch in (1, 2):
        given = sampler()
        given.set_epoch(epoch)
        expected += list(given)
    assert len(seen) == len(expected) and all(map(torch.equal, seen, expected))


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_killed_in_the_grid_or_after_it_ends_the_same(trainer, monkeypatch, stop):
    whole = trainer("whole", max_epochs=2, detector=f_anogan(), grid=GRID)
    whole.run()
    cut = trainer("cut", max_epochs=2, detector=f_anogan(), grid=GRID)
    calls, evolve = [], Cell.evolve

    def pull(self, *arguments):
        calls.append(self.number)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return evolve(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Cell, "evolve", pull)
        if stop < 5:
            with pytest.raises(KeyboardInterrupt):
                cut.run()
        else:
            patch.setattr(type(cut), "_finish", lambda self: None)  # after the last epoch, before the model
            cut.run()
    again = trainer("cut", max_epochs=2, detector=f_anogan(), grid=GRID, resume=True)
    again.run()
    assert unequal(load_checkpoint(again.model_file), load_checkpoint(whole.model_file)) == []


def test_a_grid_needs_a_gan_and_settings_that_exist(trainer):
    with pytest.raises(ConfigError, match="GANomaly does not begin with a GAN that a grid could train"):
        trainer(grid=GRID).run()
    with pytest.raises(ConfigError, match="grid has no setting 'lines': it has columns, "):
        trainer(detector=f_anogan(), grid={"lines": 2})
