"""What a GAN is to whoever trains it: two networks, a noise, a loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.losses import bce_towards, critic_loss_bce, critic_loss_wgan_gp


@dataclass(frozen=True)
class AdversarialLoss:
    """What each side minimises.

    Args:
        generator: of the values (B, 1) that the discriminator gives to made samples.
        discriminator: of the discriminator itself, real samples and made ones.
    """

    generator: Callable[[Tensor], Tensor]
    discriminator: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


def _generator_bce(logits: Tensor) -> Tensor:
    return bce_towards(logits, 1.0)


def _generator_minimax(logits: Tensor) -> Tensor:
    return -bce_towards(logits, 0.0)


def _generator_mse(logits: Tensor) -> Tensor:
    return torch.square(torch.sigmoid(logits) - 1).mean()


def _discriminator_mse(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    real_error = torch.square(torch.sigmoid(discriminator(real)) - 1).mean()
    return 0.5 * (real_error + torch.square(torch.sigmoid(discriminator(fake))).mean())


def _generator_wasserstein(values: Tensor) -> Tensor:
    return -values.mean()


LOSSES = {
    "bce": AdversarialLoss(_generator_bce, critic_loss_bce),
    "minimax": AdversarialLoss(_generator_minimax, critic_loss_bce),
    "mse": AdversarialLoss(_generator_mse, _discriminator_mse),
    "wgan_gp": AdversarialLoss(_generator_wasserstein, critic_loss_wgan_gp),
}
# Mustangs (Toutouh et al., GECCO 2019) call them BCE, MSE and heuristic; of one discriminator, all on sigmoid(logits).
MUSTANGS = ("minimax", "mse", "bce")


@dataclass(frozen=True)
class GAN:
    """Two networks that learn against each other, and all that a trainer asks of them.

    Args:
        generator: standard normal noise (B, latent_dim) to samples (B, ...).
        discriminator: samples (B, ...) to logits, or values of a critic, (B, 1).
        latent_dim: length of the noise.
        loss: "bce" (the generator wants its samples to be taken for real), "minimax" (the game as Goodfellow et al.
            2014 wrote it down), "mse" (least squares), "wgan_gp" (Gulrajani et al. 2017), or "mustangs": each network
            draws one of the first three whenever it is chosen to learn.
        learning_rate, betas: of the Adam optimisers of both.
        critic_steps: of the discriminator for each of the generator.
        initialise: draws the weights anew, for ``nn.Module.apply``, where the layers' own ``reset_parameters`` is not
            what is wanted or does not exist.

    Raises:
        ConfigError: for a loss that is not known, or numbers that cannot work.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_dim: int
    loss: str = "bce"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    critic_steps: int = 1
    initialise: Callable[[nn.Module], None] | None = None

    def __post_init__(self) -> None:
        check_count("latent_dim", self.latent_dim)
        check_count("critic_steps", self.critic_steps)
        known = (*LOSSES, "mustangs")
        if self.loss not in known:
            raise ConfigError(f"loss is {self.loss!r}: use one of {', '.join(known)}.")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}, but must be above 0.")

    def new(self) -> tuple[nn.Module, nn.Module]:
        """A generator and a discriminator like these, with weights drawn anew from torch's global generator.

        Raises:
            ConfigError: if some weights were not drawn, as nothing says how.
        """
        return self._fresh(self.generator), self._fresh(self.discriminator)

    def _fresh(self, network: nn.Module) -> nn.Module:
        made = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(math.nan)
        for module in made.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        if self.initialise is not None:
            made.apply(self.initialise)
        forgotten = [name for name, parameter in made.named_parameters() if parameter.isnan().any()]
        if forgotten:
            raise ConfigError(
                f"nothing draws the weights {', '.join(forgotten[:3])} of {type(network).__name__}, so all cells would "
                "begin with the same: give GAN an `initialise` that does."
            )
        return made

    def noise(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal noise (n, latent_dim)."""
        return torch.randn(n, self.latent_dim, device=device)

    def optimizer(self, network: nn.Module) -> torch.optim.Adam:
        """A new optimiser of all weights of ``network``."""
        return torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=self.betas)
