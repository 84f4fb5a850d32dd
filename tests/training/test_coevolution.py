"""Coevolution in one process: neighbourhoods, its parts, a lone GAN as its special case, and going on after a kill."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medanomaly.errors import ConfigError, InputError, TrainingError
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.training import GridSettings, coevolve
from medanomaly.training.cell import Cell, Individual, members_of, mutated
from tests.training.small_grids import assert_same, batches, evolve, gan


@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(3, 3, 4), (2, 2, 2), (1, 1, 0), (1, 2, 1), (2, 3, 3), (4, 5, 4)]
)
def test_acceptance_a_neighbours_lie_around_a_cell_on_a_torus(rows, columns, count):
    grid = GridSettings(rows, columns)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        near = {
            other
            for other in range(rows * columns)
            for dr, dc in [(0, 1), (1, 0)]
            if (abs(other // columns - row) in (dr, (rows - dr) if dr else 0))
            and (abs(other % columns - column) in (dc, (columns - dc) if dc else 0))
        } - {cell}
        assert len(grid.neighbours(cell)) == count
        assert set(grid.neighbours(cell)) == near


@pytest.mark.parametrize("scale", [0.01, 5.0])
def test_acceptance_b_weights_of_a_mixture_stay_weights(scale):
    choices, weights = torch.Generator().manual_seed(0), torch.full((5,), 0.2, dtype=torch.float64)
    for _ in range(200):
        weights = mutated(weights, scale, choices)
        assert (weights >= 0).all() and float(weights.sum()) == pytest.approx(1)
        assert weights.gt(0)[members_of(torch.rand(100, dtype=torch.float64), weights)].all()


def test_acceptance_b_of_grids_and_they_are_kept_only_if_samples_come_closer():
    grid = evolve(6, settings={"mixture_scale": 0.5, "mixture_trials": 4})
    moved = 0
    for records, weights in zip(grid.history, grid.weights, strict=True):
        assert records[-1]["weights"] == weights.tolist() and len(weights) == 3
        for record in records:
            assert min(record["weights"]) >= 0 and sum(record["weights"]) == pytest.approx(1)
            moved += record["weights"] != [1 / 3] * 3
    assert moved

    cell = Cell(0, gan(), GridSettings(2, 1, mixture_scale=0.5, mixture_trials=30), None)
    near, far = (Individual(cell.gan, nn.Linear(4, 2), "cpu") for _ in range(2))
    nn.init.constant_(near.network.bias, 0.0)
    nn.init.constant_(far.network.bias, 100.0)
    cell.quality = lambda samples: float(samples.abs().mean())
    record = cell._evolve_mixture([near, far], torch.Generator().manual_seed(0))
    assert record["weights"][0] > 0.9 and record["mixture_quality"] < 15
    cell.quality = lambda samples: 1.0  # nothing is better
    before = cell.weights
    cell._evolve_mixture([near, far], torch.Generator().manual_seed(0))
    assert torch.equal(cell.weights, before)


def plain_loop(iterations, loss, critic_steps=1, skip=0):
    """A GAN alone, by hand."""
    settings, made = GridSettings(1, 1), gan()
    torch.manual_seed(settings.seed_of(0, 0))
    G = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    D = nn.Sequential(nn.Linear(2, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
    assert str(G) == str(made.generator) and str(D) == str(made.discriminator)
    step_g, step_d = (torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.999)) for network in (G, D))
    losses = []
    for iteration in range(1, iterations + 1):
        torch.manual_seed(settings.seed_of(iteration, 0))
        for number, real in enumerate(batches(iteration, 0)):
            if number % (skip + 1) == 0:
                fake = G(torch.randn(16, 4)).detach()
                if loss == "bce":
                    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
                    entropies = [F.binary_cross_entropy_with_logits(D(x), y) for x, y in ((real, ones), (fake, zeros))]
                    error = 0.5 * sum(entropies)
                else:
                    error = critic_loss_wgan_gp(D, real, fake)
                step_d.zero_grad()
                error.backward()
                step_d.step()
                losses.append(float(error))
            if (number + 1) % critic_steps == 0:
                values = D(G(torch.randn(16, 4)))
                error = (
                    F.binary_cross_entropy_with_logits(values, torch.ones(16, 1)) if loss == "bce" else -values.mean()
                )
                step_g.zero_grad()
                error.backward()
                step_g.step()
    return G, D, losses


@pytest.mark.parametrize(
    ("loss", "critic_steps", "skip"), [("bce", 1, 0), ("bce", 1, 1), ("wgan_gp", 2, 0)], ids=["plain", "skip", "critic"]
)
def test_acceptance_c_a_grid_of_one_is_a_gan_alone_bit_for_bit(loss, critic_steps, skip):
    G, D, losses = plain_loop(3, loss, critic_steps, skip)
    settings = {"rate_probability": 0.0, "skip": skip}
    grid = evolve(3, 1, 1, gan(loss, critic_steps=critic_steps), settings)
    for made, by_hand in ((grid.generator(0), G), (grid.discriminator(0), D)):
        assert all(map(torch.equal, made.state_dict().values(), by_hand.state_dict().values()))
    last = losses[-len(losses) // 3 :]
    assert grid.history[0][-1]["discriminator_loss"] == pytest.approx(sum(last) / len(last))
    mutating = evolve(3, 1, 1, gan(loss, critic_steps=critic_steps), {"skip": skip, "rate_scale": 0.1})
    assert not torch.equal(mutating.generator(0)[0].weight, G[0].weight)


def test_rates_mutate_with_their_probability_and_never_fall_below_0():
    choices, network = torch.Generator().manual_seed(0), nn.Linear(2, 2)
    one, rates = Individual(gan(), network, "cpu"), []
    for _ in range(2000):
        rates.append(one.rate)
        one.optimizer.param_groups[0]["lr"] = 1e-2
        one.mutate_rate(GridSettings(rate_scale=0.5), choices)
    changes = torch.tensor(rates[1:]) - 1e-2
    changed = changes[changes != 0]
    assert 0.45 < len(changed) / len(changes) < 0.55
    assert float(changed.mean()) == pytest.approx(-0.5 * 1e-3, abs=4e-4)
    assert float(changed.std()) == pytest.approx(0.5 * 1e-2, rel=0.1)
    for _ in range(50):
        one.mutate_rate(GridSettings(rate_scale=100.0), choices)
        assert one.rate >= 0


def test_an_individual_takes_its_optimiser_along_and_shares_nothing():
    one = Individual(gan(), nn.Linear(2, 2), "cpu")
    one.network(torch.ones(1, 2)).sum().backward()
    one.optimizer.param_groups[0]["lr"] = 0.125
    one.optimizer.step()
    kept, twin = one.state(), one.clone()
    assert twin.rate == 0.125
    one.network(torch.ones(1, 2)).sum().backward()
    one.optimizer.step()
    for state in (kept, twin.state()):
        assert float(state["optimizer"]["state"][0]["step"]) == 1
        assert not torch.equal(state["network"]["weight"], one.network.weight)
        moment = one.optimizer.state[one.network.weight]["exp_avg"]
        assert not torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)


def test_fitness_is_the_mean_loss_against_all_opponents_and_the_fittest_wins():
    cell = Cell(0, gan(), GridSettings(3, 3, tournament=5, selected=3), None)
    torch.manual_seed(5)
    pairs = [cell.gan.new() for _ in range(5)]
    generators, discriminators = ([Individual(cell.gan, pair[kind], "cpu") for pair in pairs] for kind in (0, 1))
    real = batches(1, 0)[0]
    torch.manual_seed(6)
    cell._judge(generators, discriminators, generators, discriminators, real)
    torch.manual_seed(6)
    noise = torch.randn(16, 4)
    for one in generators:
        made = one.network.eval()(noise)
        expected = [-torch.sigmoid(other.network(made)).log().mean() for other in discriminators]
        assert one.fitness == pytest.approx(float(sum(expected)) / 5, rel=1e-5)
    for one in discriminators:
        true = torch.sigmoid(one.network(real)).log().mean()
        expected = [-(true + (1 - torch.sigmoid(one.network(g.network(noise)))).log().mean()) / 2 for g in generators]
        assert one.fitness == pytest.approx(float(sum(expected)) / 5, rel=1e-5)
    fittest = min(generators, key=lambda one: one.fitness)
    for winner in cell._tournaments(generators, torch.Generator().manual_seed(0)):  # of all five
        assert winner is not fittest and torch.equal(winner.network[0].weight, fittest.network[0].weight)


def test_a_cell_takes_the_best_of_those_that_learned():
    cell, seen = Cell(0, gan(), GridSettings(1, 2, selected=3), None), []
    judge = cell._judge

    def watch(generators, *others):
        judge(generators, *others)
        seen.append([(one.fitness, one.state()["network"]) for one in generators])

    cell._judge = watch
    record = cell.evolve(1, batches(1, 0), [Cell(1, gan(), cell.settings, None).pair])
    before, after = seen
    assert len(before) == 2 and len(after) == 3
    fitness, best = min(after, key=lambda item: item[0])
    assert record["generator_fitness"] == fitness
    assert all(map(torch.equal, cell.pair["generator"]["network"].values(), best.values()))


def test_cells_differ_and_learn_from_their_neighbours():
    grid, alone = evolve(2), evolve(2, 1, 1)
    first = [pair["generator"]["network"]["0.weight"] for pair in grid.pairs]
    assert not torch.equal(first[0], first[1])
    assert grid.history[0] != alone.history[0]
    assert grid.best_cell() == min(range(4), key=lambda cell: grid.history[cell][-1]["quality"])
    for network in (grid.generator(1), grid.discriminator(1)):
        assert not network.training


def test_the_samples_of_a_mixture_come_from_its_members_in_their_shares():
    grid = evolve(1)
    for member, pair in enumerate(grid.pairs):
        weights = pair["generator"]["network"]
        weights["3.weight"], weights["3.bias"] = torch.zeros(2, 12), torch.full((2,), float(member))
    grid.weights[3] = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)  # of itself, 1 and 2
    samples = grid.sample(1000, cell=3)
    assert samples.shape == (1000, 2) and set(samples.flatten().tolist()) == {3.0, 1.0}
    assert 0.45 < float((samples == 3).float().mean()) < 0.55
    assert torch.equal(samples, grid.sample(1000, cell=3)) and not torch.equal(samples, grid.sample(1000, 3, seed=1))


def test_mustangs_draw_a_loss_for_each_network_that_learns():
    cell = Cell(0, gan("mustangs"), GridSettings(selected=60), None)
    individuals = [Individual(cell.gan, copy.deepcopy(cell.gan.generator), "cpu")]
    drawn = [one.loss for one in cell._tournaments(individuals, torch.Generator().manual_seed(0))]
    assert set(drawn) == {"minimax", "mse", "bce"} and min(map(drawn.count, set(drawn))) > 8
    assert_same(evolve(2, network=gan("mustangs")), evolve(2, network=gan("mustangs")))
    assert evolve(2, network=gan("mustangs")).history != evolve(2).history


@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_a_grid_killed_at_any_cell_goes_on_exactly(tmp_path, stop):
    whole = evolve(3, folder=tmp_path / "whole")
    seen = []

    def pull(record):
        seen.append(record)
        if len(seen) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(3, folder=tmp_path / "cut", report=pull)
    assert_same(evolve(3, folder=tmp_path / "cut", resume=True, report=seen.append), whole)
    assert len(seen) == 12  # nothing is done twice
    assert_same(evolve(3, folder=tmp_path / "cut", resume=True), whole)  # nor what is done already


def test_a_folder_is_of_one_coevolution(tmp_path):
    evolve(1, folder=tmp_path)
    with pytest.raises(InputError, match="holds a coevolution already: set resume"):
        evolve(2, folder=tmp_path)
    with pytest.raises(InputError, match=r"with other settings \(rows, loss\)"):
        evolve(2, 3, network=gan("mse"), folder=tmp_path, resume=True)
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_work_is_refused(tmp_path):
    for name, value in [("rows", 0), ("selected", 0), ("skip", -1), ("rate_probability", 2.0), ("rate_scale", -1.0)]:
        with pytest.raises(ConfigError, match=name):
            GridSettings(**{name: value})
    with pytest.raises(ConfigError, match="workers is 'cluster': use here or ray"):
        evolve(workers="cluster")
    with pytest.raises(InputError, match="no batch for iteration 1 of cell 0"):
        coevolve(gan(), lambda iteration, cell: [], 1)
    nan = [torch.full((8, 2), math.nan)]
    with pytest.raises(TrainingError, match="discriminator loss of cell 0 became nan"):
        coevolve(gan(), lambda iteration, cell: nan, 1)
