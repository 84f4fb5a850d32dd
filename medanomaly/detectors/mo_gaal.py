"""MO-GAAL: SO-GAAL with several generators, each of which makes outliers at a distance of its own from the data.

Multiple-Objective Generative Adversarial Active Learning, Liu et al., IEEE TKDE 2019, arXiv 1809.10816. A single
generator soon makes outliers in one place alone; here generator i aims at what the discriminator says of the share i/k
of the real data that looks least real, so that the generators stay apart, and surround the data together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import check_count
from medanomaly.networks.gaal import outlier_generator, tell_apart, vector_discriminator
from medanomaly.networks.losses import bce_towards
from medanomaly.networks.stages import Stage
from medanomaly.networks.vectors import Vectors


class MOGAAL(Detector):
    """MO-GAAL on patches that are averaged down to vectors; scores 1 - D(x), (B, 1), from 0 to 1.

    What is ours is what is ours in :class:`SOGAAL`, and :func:`shares`. As in the authors' code, a generator learns
    from as many vectors as a batch has, and not from its share alone.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        generators: how many generators, k. With one, its target is the least real of the real data, not 1: it is not
            SO-GAAL.
        numbers: most numbers of a vector; see :class:`Vectors`.
        hidden: units of the discriminator's hidden layer; the paper takes the root of the number of training vectors,
            which is 113 for the 12,800 of an epoch. Wide ones swing less from seed to seed.
        stop_epochs: epochs in which all learn; those of the trainer are then the discriminator's alone. The paper has
            20 to 300, and twice as many after them.
        learning_rate: of the discriminator's SGD, momentum 0.9.
        generator_rate: of the generators', momentum 0.9; the paper has 1e-4.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        generators: int = 10,
        numbers: int = 256,
        hidden: int = 256,
        stop_epochs: int = 20,
        learning_rate: float = 0.01,
        generator_rate: float = 1e-3,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        for name, value in (
            ("generators", generators),
            ("numbers", numbers),
            ("hidden", hidden),
            ("stop_epochs", stop_epochs),
        ):
            check_count(name, value)
        self.stop_epochs, self.learning_rate, self.generator_rate = stop_epochs, learning_rate, generator_rate
        self.vectors = Vectors(in_channels, patch_size, spatial_dims, numbers)
        self.generators = nn.ModuleList(outlier_generator(self.vectors.size) for _ in range(generators))
        self.discriminator = vector_discriminator(self.vectors.size, hidden)

    def stages(self) -> Iterator[Stage]:
        generators = torch.optim.SGD(self.generators.parameters(), lr=self.generator_rate, momentum=0.9)
        optimizers = {"generators": generators, "discriminator": self._discriminator_optimizer()}
        name = "generators and discriminator"
        yield Stage(name, optimizers, keep="last", max_epochs=self.stop_epochs, still_to_come=1)
        yield Stage("discriminator alone", {"discriminator": self._discriminator_optimizer()}, keep="last")

    def _discriminator_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.discriminator.parameters(), lr=self.learning_rate, momentum=0.9)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        real = self.vectors(batch)
        noise = torch.rand_like(real).split(shares(len(real), len(self.generators)))
        made = torch.cat([generator(part) for generator, part in zip(self.generators, noise, strict=True)])
        losses = {
            "discriminator": tell_apart(self.discriminator, stage.optimizers["discriminator"], real, made.detach())
        }
        if "generators" in stage.optimizers:
            loss = torch.stack(
                [
                    bce_towards(self.discriminator(generator(torch.rand_like(real))), target)
                    for generator, target in zip(self.generators, self.targets(real), strict=True)
                ]
            )
            stage.optimizers["generators"].zero_grad()
            torch.autograd.backward(loss.sum(), inputs=list(self.generators.parameters()))
            stage.optimizers["generators"].step()
            losses["generators"] = loss.detach().mean()
        return losses

    @torch.no_grad()
    def targets(self, real: Tensor) -> list[float]:
        """What each generator wants D to say of its outliers: the quantiles 0, 1/k, ..., (k - 1)/k of D(real).

        ``real`` are vectors (B, size).
        """
        k = len(self.generators)
        looks_real = torch.sigmoid(self.discriminator(real).float())[:, 0]
        targets: list[float] = torch.quantile(looks_real, torch.arange(k, device=real.device) / k).tolist()
        return targets

    def score(self, patches: Tensor) -> Tensor:
        logits = self.discriminator(self.vectors(at_least_four(patches)))[: patches.shape[0]]
        return torch.sigmoid(-logits)  # 1 - D(x), but not rounded where D is almost 1, as it is of most normal patches


def shares(n: int, k: int) -> list[int]:
    """How many of ``n`` outliers each of ``k`` generators makes: as k, k - 1, ..., 1, as near as whole numbers come.

    The paper rounds all down and gives the last one what is left, which turns its ratio round where ``n`` is small.

    >>> shares(550, 10)
    [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]
    >>> shares(16, 3)
    [8, 5, 3]
    """
    block = k * (k + 1) // 2
    ends = [0] + [round(n * sum(k - j for j in range(i + 1)) / block) for i in range(k)]
    return [end - start for start, end in pairwise(ends)]
