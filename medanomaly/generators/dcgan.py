"""DCGAN (Radford et al., ICLR 2016): strided convolutions against each other, with cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from medanomaly.generators.base import FilmGenerator
from medanomaly.networks.adversaries import GAN
from medanomaly.networks.averages import settle
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.losses import bce_towards, critic_loss_bce
from medanomaly.networks.stages import Stage


class DCGAN(FilmGenerator):
    """A plain GAN. Inside it works on images in [-1, 1] and ends in tanh, as in the paper.

    What goes into the discriminator and comes out of the generator are films as they are, in [0, 1]: whoever trains the
    two in place of these steps, as a grid does, need not know.

    Args:
        size: 16, 32 or 64 pixels a side.
        features: channels of the first convolution (paper: 64).
        latent_dim: length of the noise.
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999).
    """

    def __init__(self, size: int = 64, features: int = 32, latent_dim: int = 100, learning_rate: float = 2e-4) -> None:
        super().__init__()
        self.latent_dim, self.learning_rate = latent_dim, learning_rate
        self.generator = dcgan_decoder(1, size, 2, features, latent_dim).extend([nn.Tanh(), Scale(0.5, 0.5)])
        self.discriminator = nn.Sequential(
            Scale(2.0, -1.0),
            dcgan_trunk(1, size, 2, features, norm="batch"),
            dcgan_head(size, 2, features, out_channels=1),
        )
        self.apply(init_dcgan)

    def stages(self) -> Iterator[Stage]:
        betas = (0.5, 0.999)
        optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr=self.learning_rate, betas=betas)
            for name in ("discriminator", "generator")
        }
        networks = self.generator, self.discriminator
        gan = GAN(*networks, self.latent_dim, "bce", self.learning_rate, betas, initialise=init_dcgan)
        yield Stage("GAN", optimizers, keep="last", gan=gan)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator against it."""
        made = self.generator(self._noise(len(batch)))
        losses = {"discriminator": critic_loss_bce(self.discriminator, batch, made.detach())}
        stage.optimizers["discriminator"].zero_grad()
        torch.autograd.backward(losses["discriminator"])
        stage.optimizers["discriminator"].step()
        losses["generator"] = bce_towards(self.discriminator(made), 1.0)
        stage.optimizers["generator"].zero_grad()
        torch.autograd.backward(losses["generator"], inputs=list(self.generator.parameters()))
        stage.optimizers["generator"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """The running statistics of the generator's batch norms, over noise: it draws one image as it draws many."""
        settle(self.generator, [self._noise(64) for _ in range(20)])

    def sample(self, n: int) -> Tensor:
        images: Tensor = self.generator(self._noise(n))
        return images

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.latent_dim, device=next(self.parameters()).device)


class Scale(nn.Module):
    """``factor * x + shift``."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.shift
