"""A progressively grown GAN (Karras et al., ICLR 2018, arXiv 1710.10196), from 8 pixels a side to the whole image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log2

import torch
from torch import Tensor

from medanomaly.errors import ConfigError
from medanomaly.generators.base import FilmGenerator
from medanomaly.networks.averages import average_of, follow, warming_up
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.networks.progan import CriticHead, Generator, Trunk, pool, upsample
from medanomaly.networks.stages import Stage


class ProGAN(FilmGenerator):
    """Wasserstein GAN with gradient penalty whose networks double their size stage by stage.

    Images are drawn by a running average of the generator's weights. It works on images in [-1, 1], without tanh. New
    layers fade in with a weight that rises from 0 to 1; a stage's epochs are counted from then on.

    Args:
        size: 8, 16, 32 or 64 pixels a side.
        features: channels of the layers with 4, 8, 16, ... pixels a side (paper: 512 up to 32 pixels, 256 at 64).
        latent_dim: length of the noise.
        learning_rate: of both Adam optimisers, with betas (0, 0.99).
        fade_images: images shown until new layers count in full (paper: 800,000).
        decay: of the running average.
    """

    def __init__(
        self,
        size: int = 64,
        features: Sequence[int] = (128, 128, 64, 32, 16),
        latent_dim: int = 128,
        learning_rate: float = 1e-3,
        fade_images: int = 10_000,
        decay: float = 0.999,
    ) -> None:
        super().__init__()
        if size not in (8, 16, 32, 64):
            raise ConfigError(f"size is {size}, but this network grows to 8, 16, 32 or 64 pixels a side.")
        sizes = int(log2(size)) - 1
        if len(features) < sizes or fade_images < 1:
            raise ConfigError(
                f"features={features} must be {sizes} numbers, for 4 to {size} pixels, and fade_images at least 1."
            )
        widths = list(features[:sizes])
        self.latent_dim, self.learning_rate, self.fade_images, self.decay = (
            latent_dim,
            learning_rate,
            fade_images,
            decay,
        )
        self.stage, self.last_stage, self.images_shown, self.steps = 0, sizes - 2, 0, 0
        self.generator = Generator(1, widths, 2, latent_dim, pixel_norm=True)
        self.trunk, self.head = Trunk(1, widths, 2), CriticHead(widths[0], 2)
        self.average = average_of(self.generator)

    def get_extra_state(self) -> Tensor:
        """Where a training stands, saved with the weights: stage, images shown in it, steps in all."""
        return torch.tensor([self.stage, self.images_shown, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        self.stage, self.images_shown, self.steps = (int(value) for value in state)

    def alpha(self) -> float:
        """The weight of the newest layers."""
        return 1.0 if self.stage == 0 else min(1.0, self.images_shown / self.fade_images)

    def is_settled(self) -> bool:
        return self.alpha() == 1.0

    def critic(self, images: Tensor) -> Tensor:
        values: Tensor = self.head(self.trunk(images, self.stage, self.alpha()))
        return values

    def stages(self) -> Iterator[Stage]:
        critic = [*self.trunk.parameters(), *self.head.parameters()]
        for stage in range(self.last_stage + 1):
            self.stage, self.images_shown = stage, 0
            optimizers: dict[str, torch.optim.Optimizer] = {
                "critic": torch.optim.Adam(critic, lr=self.learning_rate, betas=(0.0, 0.99)),
                "generator": torch.optim.Adam(self.generator.parameters(), lr=self.learning_rate, betas=(0.0, 0.99)),
            }
            name, left = f"{8 * 2**stage} pixels a side", self.last_stage - stage
            yield Stage(name, optimizers, keep="last", settled=self.is_settled, still_to_come=left)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """One step of the critic, then one of the generator, at the size of the stage."""
        real, alpha = self._at_stage(2 * batch - 1), self.alpha()
        made = self.generator(self._noise(len(batch)), self.stage, alpha)
        losses = {"critic": critic_loss_wgan_gp(self.critic, real, made.detach(), drift=1e-3)}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        losses["generator"] = -self.critic(made).mean()
        stage.optimizers["generator"].zero_grad()
        grown = list(self.generator.parameters())
        gradients = torch.autograd.grad(losses["generator"], grown, allow_unused=True)  # layers yet to grow have none
        for parameter, gradient in zip(grown, gradients, strict=True):
            parameter.grad = gradient
        stage.optimizers["generator"].step()
        self.images_shown, self.steps = self.images_shown + len(batch), self.steps + 1
        follow(self.average, self.generator, warming_up(self.decay, self.steps))
        return {name: loss.detach() for name, loss in losses.items()}

    def sample(self, n: int) -> Tensor:
        images: Tensor = self.average(self._noise(n), self.stage, self.alpha())
        for _ in range(self.last_stage - self.stage):
            images = upsample(images)
        return (images + 1) / 2

    def _at_stage(self, images: Tensor) -> Tensor:
        """Images pooled to the side of the stage; in a fade, blended with themselves at half that side."""
        for _ in range(self.last_stage - self.stage):
            images = pool(images)
        alpha = self.alpha()
        return images if alpha == 1 else (1 - alpha) * upsample(pool(images)) + alpha * images

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.latent_dim, device=next(self.parameters()).device)
