"""f-AnoGAN: a GAN learns to draw normal patches, then an encoder to find the codes of patches; no search is needed.

Schlegl et al., Medical Image Analysis 54, 2019: a Wasserstein GAN with gradient penalty on residual networks; the
encoder (their "izi_f") learns from the difference of a patch and what is drawn for it, and of the critic's features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import first_batches
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.adversaries import GAN
from medanomaly.networks.layers import UnitRMS
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.networks.optimizers import rmsprop
from medanomaly.networks.residual_gan import init_residual, residual_generator, residual_head, residual_trunk
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of

MAX_SAMPLES = 512  # training patches that the usual strength is taken from


class FAnoGAN(Detector):
    """f-AnoGAN on patches.

    Scores (B, 1), the loss of the encoder, or (B, 1, H, W[, D]), a map, by ``score``. Ours: narrower networks, a faster
    encoder, a linear output of the generator, and codes that are divided by their root mean square before they are
    drawn: an encoder that ends in tanh reaches all that the generator knows of, which the paper's does not.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        latent_dim: length of the codes (paper: 128).
        features: channels of the first convolution; 16 in 2-D and 8 in 3-D if not given (paper: 64).
        learning_rate: of the GAN's two Adam optimisers, with betas (0, 0.9).
        encoder_learning_rate: of the encoder's corrected RMSprop (paper: 5e-5, over 50,000 steps).
        critic_steps: of the critic for each of the generator.
        feature_weight: kappa, of the features beside the voxels.
        code: "tanh" or "linear", how the encoder ends.
        score: "combined", the loss of the encoder for each patch, or "residual", the map ``mean_c |x - x_hat|``.
        relative: divide scores by the patch's mean absolute intensity (ours). Keep it off where brightness is a sign,
            as on MRI; turn it on where normal images differ in how much they show, as clothes do.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 128,
        features: int | None = None,
        learning_rate: float = 1e-4,
        encoder_learning_rate: float = 5e-4,
        critic_steps: int = 5,
        feature_weight: float = 1.0,
        code: str = "tanh",
        score: str = "combined",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("critic_steps", critic_steps)
        for name, value, known in (("code", code, ("tanh", "linear")), ("score", score, ("combined", "residual"))):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}: use one of {', '.join(known)}.")
        features = features or (16 if spatial_dims == 2 else 8)
        shape = (patch_size, spatial_dims, features)
        self.latent_dim, self.critic_steps, self.feature_weight = latent_dim, critic_steps, feature_weight
        self.learning_rate, self.encoder_learning_rate = learning_rate, encoder_learning_rate
        self.score_kind, self.relative = score, relative

        self.generator = residual_generator(in_channels, *shape, latent_dim=latent_dim).insert(0, UnitRMS())
        self.trunk = residual_trunk(in_channels, *shape, norm="layer")
        self.critic_head = residual_head(*shape, out_channels=1)
        self.encoder = nn.Sequential(
            residual_trunk(in_channels, *shape, norm="batch"), residual_head(*shape, out_channels=latent_dim)
        )
        if code == "tanh":
            self.encoder.append(nn.Tanh())
        self.apply(init_residual)
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.strength = Strength()

    def critic(self, patches: Tensor) -> Tensor:
        """How real patches look to the critic: (B, 1)."""
        values: Tensor = self.critic_head(self.trunk(patches))
        return values

    def stages(self) -> Iterator[Stage]:
        critic = [*self.trunk.parameters(), *self.critic_head.parameters()]
        rate, betas = self.learning_rate, (0.0, 0.9)
        optimizers = {
            "critic": torch.optim.Adam(critic, lr=rate, betas=betas),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=rate, betas=betas),
        }
        gan = GAN(
            self.generator,
            nn.Sequential(self.trunk, self.critic_head),
            self.latent_dim,
            "wgan_gp",
            rate,
            betas,
            self.critic_steps,
            init_residual,
        )
        yield Stage("GAN", optimizers, keep="last", gan=gan, still_to_come=1)
        yield Stage("encoder", {"encoder": rmsprop(self.encoder.parameters(), self.encoder_learning_rate)})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        return self._encoder_step(batch, stage) if "encoder" in stage.optimizers else self._gan_step(batch, stage)

    def _gan_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """One step of the critic; after every ``critic_steps`` of them, one of the generator."""
        fake = self.generator(torch.randn(len(batch), self.latent_dim, device=batch.device))
        losses = {"critic": critic_loss_wgan_gp(self.critic, batch, fake.detach())}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        self.steps.add_(1)
        if self.steps % self.critic_steps == 0:
            stage.optimizers["generator"].zero_grad()
            torch.autograd.backward(-self.critic(fake).mean(), inputs=list(self.generator.parameters()))
            stage.optimizers["generator"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _encoder_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """The GAN is as it was: in eval mode, and no gradient is taken for its weights."""
        self.generator.eval()
        loss = self._losses(batch).mean()
        stage.optimizers["encoder"].zero_grad()
        torch.autograd.backward(loss, inputs=list(self.encoder.parameters()))
        stage.optimizers["encoder"].step()
        return {"encoder": loss.detach()}

    def _losses(self, patches: Tensor) -> Tensor:
        """Mean squared difference of voxels plus kappa times that of features, for each patch: (B,)."""
        made = self.reconstruct(patches)
        losses = torch.square(patches - made).flatten(1).mean(dim=1)
        if self.feature_weight > 0:
            difference = self.trunk(patches) - self.trunk(made)
            losses = losses + self.feature_weight * torch.square(difference).mean(dim=1)
        return losses

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """The encoder's loss; none ranks the epochs of the GAN."""
        return self._losses(batch).mean()

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """How much patches usually show, for relative scores."""
        if self.relative:
            self.strength.fit(amount_of(torch.cat(first_batches(batches, MAX_SAMPLES))))

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the generator draws from the codes of patches: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.generator(self.encoder(patches))
        return reconstruction

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            scores = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        else:
            scores = self._losses(patches)[:, None]
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores[:n]
