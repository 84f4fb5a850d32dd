"""ALOCC: a refiner cleans patches, a classifier says how real they look; abnormal is what does not look real refined.

Adversarially Learned One-Class Classifier (Sabokrou et al., CVPR 2018, arXiv 1802.09088). The refiner learns to take
noise out of normal patches so well that the classifier takes them for real. It cannot refine what it has not learned:
it distorts it, and so makes it easier to reject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from monai.networks.layers.factories import Act, Conv, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError
from medanomaly.networks.dcgan import dcgan_widths, init_dcgan, init_he
from medanomaly.networks.layers import FlattenChannelsLast
from medanomaly.networks.losses import bce_towards, critic_loss_bce
from medanomaly.networks.noise import noise_of_any_grain, same_draws
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of


class ALOCC(Detector):
    """ALOCC on patches.

    Differences from the paper: what scores by default is the refiner. The classifier learns to tell real from refined
    normal patches, by their sharpness; what was never refined well or badly may look as real to it as anything. Its
    noise, of which the paper says only that it is Gaussian, is coarse, too: white noise teaches little of what lesions
    look like. The classifier has no batch norm, whose statistics in training, of real and of refined patches apart, are
    others than at test. Adam instead of RMSprop, one step of each side (the authors' code: two of the refiner), and the
    error is against the patch without noise (the code: against the noisy one).

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        features: channels of the first convolution; 64 in 2-D and 32 in 3-D if not given.
        noise_std: largest standard deviation of the noise, in units of the patches' intensities: see
            :func:`noise_of_any_grain`.
        reconstruction_weight: of the squared error, summed over the voxels of a patch, beside the adversarial loss
            (0.4).
        learning_rate: of the refiner's Adam.
        critic_rate: of the classifier's, which must not run ahead.
        score: "residual", the map ``mean_c |x - R(x)|``; "refined", ``1 - D(R(x))``, the paper's; "plain",
            ``1 - D(x)``.
        relative: divide residuals by the patch's mean absolute intensity (ours). Keep it off where brightness is a
            sign, as on MRI; turn it on where normal images differ in how much they show, as clothes do. What shows
            little then scores higher for that alone.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        features: int | None = None,
        noise_std: float = 1.0,
        reconstruction_weight: float = 0.4,
        learning_rate: float = 1e-3,
        critic_rate: float = 3e-4,
        score: str = "residual",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if score not in ("refined", "plain", "residual"):
            raise ConfigError(f"ALOCC: score is {score!r}; use one of 'refined', 'plain', 'residual'.")
        if noise_std < 0:
            raise ConfigError(f"noise_std is {noise_std}; it is a standard deviation: use 0 or more.")
        if relative and score != "residual":
            raise ConfigError(f"relative divides residuals, but score is {score!r}: use score = 'residual'.")
        features = features or (64 if spatial_dims == 2 else 32)
        self.noise_std, self.reconstruction_weight = noise_std, reconstruction_weight
        self.score_kind, self.relative = score, relative
        self.learning_rate, self.critic_rate = learning_rate, critic_rate
        widths = dcgan_widths(patch_size, features)
        self.refiner = nn.Sequential(
            _down(in_channels, spatial_dims, widths, norm="batch"),
            _up(in_channels, spatial_dims, widths),
        )
        self.critic = nn.Sequential(
            _down(in_channels, spatial_dims, widths, norm=None),
            FlattenChannelsLast(),
            nn.Linear(widths[-1] * 4**spatial_dims, 1),
        )
        self.refiner.apply(init_dcgan)
        self.critic.apply(init_he)
        self.strength = Strength()

    def stages(self) -> Iterator[Stage]:
        betas = (0.5, 0.999)
        optimizers = {
            "refiner": torch.optim.Adam(self.refiner.parameters(), lr=self.learning_rate, betas=betas),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=self.critic_rate, betas=betas),
        }
        yield Stage("ALOCC", optimizers)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        refined = self.refiner(self._noisy(batch))
        losses = {
            "adversarial": bce_towards(self.critic(refined), 1.0),
            "reconstruction": torch.square(refined - batch).flatten(1).sum(dim=1).mean(),
        }
        stage.optimizers["refiner"].zero_grad()
        total = losses["adversarial"] + self.reconstruction_weight * losses["reconstruction"]
        torch.autograd.backward(total, inputs=list(self.refiner.parameters()))
        stage.optimizers["refiner"].step()

        losses["critic"] = critic_loss_bce(self.critic, batch, refined.detach())
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _noisy(self, patches: Tensor) -> Tensor:
        return patches + noise_of_any_grain(patches, self.noise_std)

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """Mean squared error of the refiner, against the patches without noise: training stops when it is flat."""
        with same_draws():
            return F.mse_loss(self.refiner(self._noisy(batch)), batch)

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """How much a patch usually shows."""
        self.strength.fit(torch.cat([amount_of(batch) for batch in batches]))

    def reconstruct(self, patches: Tensor) -> Tensor:
        """Patches (B, C, H, W[, D]) refined, as they are, without noise; of that shape."""
        refined: Tensor = self.refiner(patches)
        return refined

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind != "residual":
            logits = self.critic(patches if self.score_kind == "plain" else self.reconstruct(patches))
            return torch.sigmoid(-logits)[:n]  # 1 - D, which keeps its digits where D is near 1
        residual = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        if self.relative:
            residual = self.strength.divide(residual, patches)
        return residual[:n]


def _down(in_channels: int, spatial_dims: int, widths: list[int], norm: str | None) -> nn.Sequential:
    """(B, C, s, s[, s]) to (B, widths[-1], 4, 4[, 4]) by 5^2 or 3^3 convolutions of stride 2."""
    conv, kernel_size = Conv[Conv.CONV, spatial_dims], 5 if spatial_dims == 2 else 3
    layers: list[nn.Module] = []
    channels = in_channels
    for width in widths:
        layers.append(conv(channels, width, kernel_size, stride=2, padding=kernel_size // 2, bias=norm is None))
        if norm is not None:
            layers.append(Norm[norm, spatial_dims](width))
        layers.append(Act[Act.LEAKYRELU](0.2))
        channels = width
    return nn.Sequential(*layers)


def _up(out_channels: int, spatial_dims: int, widths: list[int]) -> nn.Sequential:
    """(B, widths[-1], 4, 4[, 4]) to (B, out_channels, s, s[, s]), linear at the end."""
    conv, kernel_size = Conv[Conv.CONVTRANS, spatial_dims], 5 if spatial_dims == 2 else 3
    layers: list[nn.Module] = []
    for level in range(len(widths) - 1, -1, -1):
        width = widths[level - 1] if level > 0 else out_channels
        layers.append(
            conv(
                widths[level], width, kernel_size, stride=2, padding=kernel_size // 2, output_padding=1, bias=level == 0
            )
        )
        if level > 0:
            layers += [Norm[Norm.BATCH, spatial_dims](width), Act[Act.RELU]()]
    return nn.Sequential(*layers)
