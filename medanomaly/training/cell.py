"""One cell of a grid of GANs: a generator and a discriminator, and an iteration of their evolution.

The choices of evolution (tournaments, opponents, mutations) have a generator of their own, so that what is left without
them, a grid of one cell with mutation off, draws the same noise as a GAN that is trained alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.errors import InputError, TrainingError
from medanomaly.networks.adversaries import GAN, LOSSES, MUSTANGS
from medanomaly.training.grid import GridSettings
from medanomaly.training.quality import Quality

Pair = dict[str, Any]  # "generator" and "discriminator" of a cell, each a state of an Individual, on the CPU


class Individual:
    """A network that takes its optimiser, with its learning rate, wherever it goes."""

    def __init__(self, gan: GAN, network: nn.Module, device: torch.device | str, state: Any = None) -> None:
        self.gan, self.device = gan, device
        self.network = network.to(device)
        self.optimizer = gan.optimizer(self.network)
        self.loss = "bce" if gan.loss == "mustangs" else gan.loss
        self.fitness = 0.0  # mean loss against all opponents: lower is better
        if state is not None:
            self.network.load_state_dict(state["network"])
            # a copy, or both would move the same averages
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def mutate_rate(self, settings: GridSettings, choices: torch.Generator) -> None:
        """With a probability, add a little to the learning rate; it never falls below 0."""
        chance, normal = torch.rand((), generator=choices), torch.randn((), generator=choices)
        if chance < settings.rate_probability:
            first = self.gan.learning_rate
            change = settings.rate_scale * first * (float(normal) - 0.1)
            self.optimizer.param_groups[0]["lr"] = max(0.0, self.rate + change)

    def clone(self) -> Individual:
        return Individual(self.gan, copy.deepcopy(self.network), self.device, self._state())

    def state(self) -> dict[str, Any]:
        """Copies of weights and optimiser on the CPU."""
        copied: dict[str, Any] = _to_cpu(self._state())
        return copied

    def _state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}


class Cell:
    """A cell: what it made of its own pair and those of its neighbours so far.

    Attributes:
        pair: generator and discriminator after ``iteration``; ``before`` those one iteration earlier, which neighbours
            that are one behind ask for.
        weights: of the mixture of its own generator and its neighbours', in the order of
            :meth:`GridSettings.neighbours`; at least 0, with sum 1.
        history: a record for each iteration.
    """

    def __init__(
        self, number: int, gan: GAN, settings: GridSettings, quality: Quality | None, device: torch.device | str = "cpu"
    ) -> None:
        self.number, self.gan, self.settings, self.quality, self.device = number, gan, settings, quality, device
        self.iteration = 0
        torch.manual_seed(settings.seed_of(0, number))
        networks = gan.new()
        generator, discriminator = (Individual(gan, network, device).state() for network in networks)
        self.pair: Pair = {"generator": generator, "discriminator": discriminator}
        self.before = self.pair
        members = 1 + len(settings.neighbours(number))
        self.weights = torch.full((members,), 1 / members, dtype=torch.float64)
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """All that the cell goes on from."""
        names = ("iteration", "pair", "before", "weights", "history")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def pair_after(self, iteration: int) -> Pair:
        """Its pair as it was after ``iteration``, if that was its last or the one before, and otherwise its latest."""
        return self.before if iteration == self.iteration - 1 else self.pair

    def evolve(self, iteration: int, batches: Iterable[Tensor], neighbours: Sequence[Pair]) -> dict[str, Any]:
        """Learn from the batches (B, ...) of an iteration, among the pairs of the neighbours.

        Returns:
            The record of the iteration: mean losses, fitnesses, learning rates, weights, and, where a quality is
            measured, those of the cell's own generator and of its mixture.

        Raises:
            InputError: if there is no batch.
            TrainingError: if a loss is not finite.
        """
        torch.manual_seed(self.settings.seed_of(iteration, self.number))
        choices = torch.Generator().manual_seed(self.settings.seed_of(iteration, self.number) + 5_003)
        generators, discriminators = (
            [self._individual(kind, pair[kind]) for pair in (self.pair, *neighbours)]
            for kind in ("generator", "discriminator")
        )
        batches = iter(batches)
        first = next(batches, None)
        if first is None:
            raise InputError(f"there is no batch for iteration {iteration} of cell {self.number}: give at least one.")
        first = first.to(self.device)
        if neighbours:  # of one there is no choice
            self._judge(generators, discriminators, generators, discriminators, first)
        chosen = [self._tournaments(group, choices) for group in (generators, discriminators)]
        losses = self._learn(chosen[0], chosen[1], chain([first], batches), choices)
        self._judge(chosen[0], chosen[1], generators, discriminators, first)
        best = [min(group, key=lambda individual: individual.fitness) for group in chosen]
        self.before, self.pair = self.pair, {"generator": best[0].state(), "discriminator": best[1].state()}
        self.iteration = iteration
        record: dict[str, Any] = {"cell": self.number, "iteration": iteration, **losses}
        for name, individual in zip(("generator", "discriminator"), best, strict=True):
            record |= {f"{name}_fitness": individual.fitness, f"{name}_rate": individual.rate}
        record |= self._evolve_mixture([best[0], *generators[1:]], choices)
        self.history.append(record)
        return record

    def _individual(self, kind: str, state: Any) -> Individual:
        return Individual(self.gan, copy.deepcopy(getattr(self.gan, kind)), self.device, state)

    def _judge(
        self,
        generators: list[Individual],
        discriminators: list[Individual],
        generators_around: list[Individual],
        discriminators_around: list[Individual],
        real: Tensor,
    ) -> None:
        """Set the fitness of each: its mean loss against all opponents around, on the same noise, in eval mode.

        Losses of several kinds cannot be compared: with Mustangs' choice, all are judged by "bce".
        """
        loss = LOSSES["bce" if self.gan.loss == "mustangs" else self.gan.loss]
        noise = self.gan.noise(len(real), self.device)
        for individual in (*generators, *discriminators, *generators_around, *discriminators_around):
            individual.network.eval()
        with torch.no_grad():
            samples = {id(one): one.network(noise) for one in (*generators, *generators_around)}
            for one in generators:
                values = [loss.generator(other.network(samples[id(one)])) for other in discriminators_around]
                one.fitness = float(torch.stack(values).mean())
        for one in discriminators:  # with gradients, which a penalty asks for
            values = [loss.discriminator(one.network, real, samples[id(other)]) for other in generators_around]
            one.fitness = float(torch.stack(values).detach().mean())

    def _tournaments(self, group: list[Individual], choices: torch.Generator) -> list[Individual]:
        """Copies of the winners of ``selected`` tournaments; one that wins twice is there twice."""
        size, winners = min(self.settings.tournament, len(group)), []
        for _ in range(self.settings.selected):
            drawn = torch.randperm(len(group), generator=choices)[:size].tolist()
            winners.append(min((group[number] for number in drawn), key=lambda one: one.fitness).clone())
        if self.gan.loss == "mustangs":
            for winner in winners:
                winner.loss = MUSTANGS[int(torch.randint(len(MUSTANGS), (), generator=choices))]
        return winners

    def _learn(
        self,
        generators: list[Individual],
        discriminators: list[Individual],
        batches: Iterable[Tensor],
        choices: torch.Generator,
    ) -> dict[str, float]:
        """On each batch, a step of each discriminator and then of each generator against a random opponent."""

        def opponent(group: list[Individual]) -> nn.Module:
            return group[int(torch.randint(len(group), (), generator=choices))].network

        for one in (*generators, *discriminators):
            one.network.train()
        sums, counts = {"discriminator": 0.0, "generator": 0.0}, {"discriminator": 0, "generator": 0}

        def step(kind: str, one: Individual, loss: Tensor) -> None:
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the {kind} loss of cell {self.number} became {float(loss.detach())}: lower the learning rate."
                )
            one.optimizer.zero_grad()
            torch.autograd.backward(loss, inputs=list(one.network.parameters()))
            one.mutate_rate(self.settings, choices)
            one.optimizer.step()
            sums[kind] += float(loss.detach())
            counts[kind] += 1

        for number, batch in enumerate(batches):
            real = batch.to(self.device)
            if number % (self.settings.skip + 1) == 0:
                for one in discriminators:
                    with torch.no_grad():
                        fake = opponent(generators)(self.gan.noise(len(real), self.device))
                    step("discriminator", one, LOSSES[one.loss].discriminator(one.network, real, fake))
            if (number + 1) % self.gan.critic_steps == 0:
                for one in generators:
                    values = opponent(discriminators)(one.network(self.gan.noise(len(real), self.device)))
                    step("generator", one, LOSSES[one.loss].generator(values))
        return {f"{kind}_loss": sums[kind] / counts[kind] if counts[kind] else float("nan") for kind in sums}

    @torch.no_grad()
    def _evolve_mixture(self, members: list[Individual], choices: torch.Generator) -> dict[str, Any]:
        """Try other weights, and keep those with which the mixture's samples are closer to real ones.

        All weights are tried on the same noise; only which member draws a sample depends on them.
        """
        if self.quality is None:
            return {"weights": self.weights.tolist()}
        n = self.settings.quality_samples
        noise = self.gan.noise(n, self.device)
        made = torch.stack([member.network.eval()(noise) for member in members])
        places = torch.rand(n, generator=choices, dtype=torch.float64)

        def quality_of(weights: Tensor) -> float:
            assert self.quality is not None
            return float(self.quality(made[members_of(places, weights), torch.arange(n)]))

        reached = quality_of(self.weights)
        for _ in range(self.settings.mixture_trials if len(members) > 1 else 0):
            tried = mutated(self.weights, self.settings.mixture_scale, choices)
            if (there := quality_of(tried)) < reached:
                self.weights, reached = tried, there
        return {
            "weights": self.weights.tolist(),
            "quality": float(self.quality(made[0])),
            "mixture_quality": reached,
        }


def mutated(weights: Tensor, scale: float, choices: torch.Generator) -> Tensor:
    """Weights (n,) with normal noise added, none below 0, of sum 1; as they were, if none is left above 0."""
    changed = (weights + scale * torch.randn(len(weights), generator=choices, dtype=weights.dtype)).clamp(min=0)
    total = changed.sum()
    return changed / total if total > 0 else weights


def members_of(places: Tensor, weights: Tensor) -> Tensor:
    """Which member of a mixture draws each sample: places (n,) in [0, 1) among weights (m,) of sum 1 to (n,) numbers.

    >>> members_of(torch.tensor([0.0, 0.2, 0.3, 0.9]), torch.tensor([0.25, 0.0, 0.75]))
    tensor([0, 0, 2, 2])
    """
    ends = weights.cumsum(0)
    return torch.searchsorted(ends, places, right=True).clamp(max=int(weights.nonzero().max()))


def _to_cpu(value: Any) -> Any:
    """A copy, of whatever is made of dictionaries, lists and tensors, that no later step changes."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list) else value
