"""Skip-GANomaly: a U-Net draws a patch again; abnormal where patch and drawing differ, also in a critic's features.

Akcay et al., IJCNN 2019, arXiv 1901.08954. The discriminator gives two things: whether a patch looks real, and a
vector of features, which tells two patches apart that look alike voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four, fit_parts
from medanomaly.errors import ConfigError
from medanomaly.networks.dcgan import dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.losses import bce_towards, critic_loss_bce
from medanomaly.networks.noise import noise_of_any_grain, same_draws
from medanomaly.networks.skip_unet import SkipUNet
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength


class SkipGANomaly(Detector):
    """Skip-GANomaly on patches.

    Differences from the paper: the U-Net's last layer is linear, not tanh; noise is added to what it gets in training,
    as skips would otherwise learn to copy anything; the two parts of the score are put on one scale; and the epoch is
    chosen by the contextual loss of held-out normal patches (the authors' code chooses it by the AUROC of the test).

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        features: channels of the first convolution; 64 in 2-D and 32 in 3-D if not given.
        latent_dim: length of the discriminator's feature vector.
        noise_std: largest standard deviation of the noise in training, in units of the patches' intensities: see
            :func:`noise_of_any_grain`; 0 is the paper's.
        weights: of the adversarial, contextual and latent loss (1, 50, 1, as in the authors' code).
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999).
        score: "balanced", ``(1 - w) r + w l`` with r the mean of ``(x - x_hat)^2``, l the mean of
            ``(f(x) - f(x_hat))^2``, each divided by its median on training patches (the size of features is
            arbitrary); "sum", the same undivided, the paper's; "residual", the map ``mean_c |x - x_hat|``.
        feature_weight: the w of the score (0.1).
        relative: divide scores by the patch's mean absolute intensity (ours). Keep it off where brightness is a sign,
            as on MRI; turn it on where normal images differ in how much they show, as clothes do. What shows little
            then scores higher for that alone.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        features: int | None = None,
        latent_dim: int = 100,
        noise_std: float = 1.0,
        weights: tuple[float, float, float] = (1.0, 50.0, 1.0),
        learning_rate: float = 2e-4,
        score: str = "balanced",
        feature_weight: float = 0.1,
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if score not in ("balanced", "sum", "residual"):
            raise ConfigError(f"SkipGANomaly: score is {score!r}; use one of 'balanced', 'sum', 'residual'.")
        if not 0 <= feature_weight <= 1:
            raise ConfigError(f"feature_weight is {feature_weight}; it is a share of the score: use 0 to 1.")
        if noise_std < 0:
            raise ConfigError(f"noise_std is {noise_std}; it is a standard deviation: use 0 or more.")
        features = features or (64 if spatial_dims == 2 else 32)
        self.noise_std, self.weights, self.learning_rate = noise_std, tuple(weights), learning_rate
        self.score_kind, self.feature_weight, self.relative = score, feature_weight, relative
        shape = (patch_size, spatial_dims, features)
        self.encoder = nn.Sequential(
            dcgan_trunk(in_channels, *shape, norm="batch"), dcgan_head(*shape, out_channels=latent_dim)
        )
        self.critic_head = nn.Linear(latent_dim, 1)
        self.generator = SkipUNet(in_channels, in_channels, *shape)
        self.apply(init_dcgan)
        self.scales = nn.Buffer(torch.ones(2))  # medians of the parts of the score
        self.strength = Strength()

    def critic(self, patches: Tensor) -> Tensor:
        """Logits of how real patches look, (B, 1)."""
        logits: Tensor = self.critic_head(self.encoder(patches))
        return logits

    def stages(self) -> Iterator[Stage]:
        critic = [*self.encoder.parameters(), *self.critic_head.parameters()]
        betas = (0.5, 0.999)
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.learning_rate, betas=betas),
            "critic": torch.optim.Adam(critic, lr=self.learning_rate, betas=betas),
        }
        yield Stage("Skip-GANomaly", optimizers)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        reconstruction = self.generator(self._noisy(batch))
        losses = self._generator_losses(batch, reconstruction)
        adversarial, contextual, latent = (w * loss for w, loss in zip(self.weights, losses.values(), strict=True))
        stage.optimizers["generator"].zero_grad()
        torch.autograd.backward(adversarial + contextual + latent, inputs=list(self.generator.parameters()))
        stage.optimizers["generator"].step()

        losses["critic"] = critic_loss_bce(self.critic, batch, reconstruction.detach())
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _noisy(self, patches: Tensor) -> Tensor:
        return patches + noise_of_any_grain(patches, self.noise_std)

    def _generator_losses(self, batch: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Equations 1 to 3 of the paper, as means. The critic's own loss has no latent term (in their code it has)."""
        with torch.no_grad():
            real_features = self.encoder(batch)
        fake_features = self.encoder(reconstruction)
        return {
            "adversarial": bce_towards(self.critic_head(fake_features), 1.0),
            "contextual": F.l1_loss(reconstruction, batch),
            "latent": F.mse_loss(fake_features, real_features),
        }

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """The contextual loss, with noise as in training: the size of features changes from epoch to epoch."""
        with same_draws():
            return F.l1_loss(self.generator(self._noisy(batch)), batch)

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Medians over training patches: of the parts of the score, and of how much a patch shows."""
        fit_parts(batches, self.parts, self.scales, self.strength, least=1e-12)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the U-Net makes of patches as they are, without noise: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.generator(patches)
        return reconstruction

    def parts(self, patches: Tensor) -> Tensor:
        """The parts of the score, (B, 2): mean squared difference of voxels, and of the discriminator's features."""
        reconstruction = self.reconstruct(patches)
        voxels = torch.square(patches - reconstruction).flatten(1).mean(dim=1)
        latent = torch.square(self.encoder(patches) - self.encoder(reconstruction)).mean(dim=1)
        return torch.stack([voxels, latent], dim=1)

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            scores = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        else:
            parts = self.parts(patches)
            if self.score_kind == "balanced":
                parts = parts / self.scales
            scores = (1 - self.feature_weight) * parts[:, :1] + self.feature_weight * parts[:, 1:]
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores[:n]
