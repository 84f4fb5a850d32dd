"""SO-GAAL: a generator makes potential outliers, and the discriminator that learns to tell them is the detector.

Single-Objective Generative Adversarial Active Learning, Liu et al., IEEE TKDE 2019, arXiv 1809.10816. At first the
outliers are noise all over the space; the generator draws them closer to the data until it stops, and from then on
the discriminator alone learns, against the outliers of a generator that no longer changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import check_count
from medanomaly.networks.gaal import outlier_generator, tell_apart, vector_discriminator
from medanomaly.networks.losses import bce_towards
from medanomaly.networks.stages import Stage
from medanomaly.networks.vectors import Vectors


class SOGAAL(Detector):
    """SO-GAAL on patches that are averaged down to vectors; scores 1 - D(x), (B, 1), from 0 to 1.

    The paper takes tables of numbers scaled to 0 to 1, and reports on the data that it learned from; patches, and
    normal ones alone to learn from, are ours. Its rates decay by a millionth a step, which is left out.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        numbers: most numbers of a vector; see :class:`Vectors`.
        hidden: units of the discriminator's hidden layer; the paper takes the root of the number of training vectors,
            which is 113 for the 12,800 of an epoch. Wide ones swing less from seed to seed.
        stop_epochs: epochs in which both learn; those of the trainer are then the discriminator's alone. The paper has
            20 to 200, and twice as many after them.
        learning_rate: of the discriminator's SGD, momentum 0.9.
        generator_rate: of the generator's, momentum 0.9. The paper has 1e-4, with which it hardly leaves the noise that
            it starts from.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        numbers: int = 256,
        hidden: int = 256,
        stop_epochs: int = 20,
        learning_rate: float = 0.01,
        generator_rate: float = 1e-3,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        for name, value in (("numbers", numbers), ("hidden", hidden), ("stop_epochs", stop_epochs)):
            check_count(name, value)
        self.stop_epochs, self.learning_rate, self.generator_rate = stop_epochs, learning_rate, generator_rate
        self.vectors = Vectors(in_channels, patch_size, spatial_dims, numbers)
        self.generator = outlier_generator(self.vectors.size)
        self.discriminator = vector_discriminator(self.vectors.size, hidden)

    def stages(self) -> Iterator[Stage]:
        generator = torch.optim.SGD(self.generator.parameters(), lr=self.generator_rate, momentum=0.9)
        optimizers = {"generator": generator, "discriminator": self._discriminator_optimizer()}
        name = "generator and discriminator"
        yield Stage(name, optimizers, keep="last", max_epochs=self.stop_epochs, still_to_come=1)
        yield Stage("discriminator alone", {"discriminator": self._discriminator_optimizer()}, keep="last")

    def _discriminator_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.discriminator.parameters(), lr=self.learning_rate, momentum=0.9)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        real = self.vectors(batch)
        made = self.generator(torch.rand_like(real))
        losses = {
            "discriminator": tell_apart(self.discriminator, stage.optimizers["discriminator"], real, made.detach())
        }
        if "generator" in stage.optimizers:
            loss = bce_towards(self.discriminator(self.generator(torch.rand_like(real))), 1.0)
            stage.optimizers["generator"].zero_grad()
            torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
            stage.optimizers["generator"].step()
            losses["generator"] = loss.detach()
        return losses

    def score(self, patches: Tensor) -> Tensor:
        logits = self.discriminator(self.vectors(at_least_four(patches)))[: patches.shape[0]]
        return torch.sigmoid(-logits)  # 1 - D(x), but not rounded where D is almost 1, as it is of most normal patches
