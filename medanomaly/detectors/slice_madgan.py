"""MADGAN by slice prediction: three neighbouring slices foretell the next three; abnormal is what they do not.

Han et al., BMC Bioinformatics 22:31, 2021 (arXiv 2007.13559): a U-Net makes the next three slices, an L1 loss and a
critic (WGAN-GP) teach it, on healthy scans alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError
from medanomaly.networks.attention import SelfAttention, UpWithAttention
from medanomaly.networks.dcgan import dcgan_head, dcgan_trunk, init_he
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.networks.stages import Stage
from medanomaly.networks.unet import unet


class SliceMADGAN(Detector):
    """Slice prediction on patches of neighbouring slices; scores (B, 1, H, W), those of the middle slice, or (B, 1).

    A patch has ``slices`` neighbouring slices as channels (:class:`PatchSpec` with the same ``slices``): all channels
    of the lowest slice, then all of the next, and so on; the middle one is scored. Six slices, as the paper takes them,
    have no middle one. So there are seven: those numbered 0, 1, 2 foretell 3, 4, 5, of which 3, the middle one, is
    scored, and 1, 2, 3 foretell 4, 5, 6. As in the paper, N slices give N - 5 such pairs of triplets, and it learns
    from all of a patch. With nine or eleven slices, the middle one is foretold twice or three times, as the first, the
    second and the third after those that are seen, and the predictions are averaged.

    Other differences from the paper: patches, a narrower U-Net, and a score a voxel. Slices beyond the border of a
    volume are zeros, so the first three slices of a scan are foretold from nothing: cut scans so that they show air.

    Args:
        in_channels: image channels times ``slices``.
        patch_size: 16, 32 or 64; the paper's depth of U-Net is meant for 64 and more.
        spatial_dims: 2; that slices are channels is this detector's third dimension.
        slices: neighbouring slices in a patch, an odd number from 7 on.
        features: channels of the U-Net at full size, a multiple of 8 (paper: 64); the critic's first convolution has
            four times as many.
        attention: self-attention layers, 0, 3 (the two lowest levels of the U-Net) or 7 (all but the highest), as many
            as in the paper; where they stand is ours.
        l1_weight: of the mean absolute error in the loss of the U-Net, beside the critic's verdict with 1.
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999).
        score: "residual", the map of absolute errors of the middle slice, averaged over its channels; "squared", the
            paper's: the mean squared error of all that the patch's slices foretell.
    """

    def __init__(
        self,
        in_channels: int = 7,
        patch_size: int = 64,
        spatial_dims: int = 2,
        slices: int = 7,
        features: int = 16,
        attention: int = 0,
        l1_weight: float = 100.0,
        learning_rate: float = 2e-4,
        score: str = "residual",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if spatial_dims != 2:
            raise ConfigError("SliceMADGAN: spatial_dims is 3, but it takes slices as channels: set it to 2.")
        if slices < 7 or slices % 2 == 0:
            raise ConfigError(f"SliceMADGAN: slices is {slices}; it must be an odd number from 7 on.")
        if in_channels % slices:
            raise ConfigError(
                f"SliceMADGAN: in_channels is {in_channels}, but must be image channels times slices, "
                f"a multiple of {slices}."
            )
        if attention not in (0, 3, 7):
            raise ConfigError(f"SliceMADGAN: attention is {attention}; use one of 0, 3, 7.")
        if score not in ("residual", "squared"):
            raise ConfigError(f"SliceMADGAN: score is {score!r}; use one of 'residual', 'squared'.")
        self.slices, self.image_channels = slices, in_channels // slices
        self.l1_weight, self.learning_rate, self.score_kind = l1_weight, learning_rate, score
        self.triplet = 3 * self.image_channels
        middle = slices // 2
        self.starts = [start for start in range(slices - 5) if start + 3 <= middle <= start + 5]
        self.middle = middle * self.image_channels

        self.generator = unet(self.triplet, self.triplet, patch_size, spatial_dims, features)
        if attention:
            for level in (3, 4) if attention == 3 else (1, 2, 3, 4):
                down, width = f"down_{level}", features * 2 ** (level - 1)
                setattr(self.generator, down, getattr(self.generator, down).append(SelfAttention(width, spatial_dims)))
            for level in (4,) if attention == 3 else (2, 3, 4):
                up, width = f"upcat_{level}", features * 2 ** (level - 2)
                setattr(self.generator, up, UpWithAttention(getattr(self.generator, up), width, spatial_dims))
        shape = (patch_size, spatial_dims, 4 * features)
        trunk = dcgan_trunk(2 * self.triplet, *shape, norm=None)
        self.critic = nn.Sequential(trunk, dcgan_head(*shape, out_channels=1)).apply(init_he)

    def stages(self) -> Iterator[Stage]:
        rate, betas = self.learning_rate, (0.5, 0.999)
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=rate, betas=betas),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=rate, betas=betas),
        }
        yield Stage("slice prediction", optimizers)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        seen, coming = triplets(batch, self.image_channels)
        foretold = self.generator(seen)
        # the critic sees all six slices, so that it can tell whether the three go on from those before them
        real, made = torch.cat([seen, coming], dim=1), torch.cat([seen, foretold], dim=1)
        losses = {"critic": critic_loss_wgan_gp(self.critic, real, made.detach())}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()

        losses |= self.generator_losses(made, coming)
        stage.optimizers["generator"].zero_grad()
        loss = losses["adversarial"] + self.l1_weight * losses["L1"]
        torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
        stage.optimizers["generator"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def generator_losses(self, made: Tensor, coming: Tensor) -> dict[str, Tensor]:
        """What the critic says of six slices ``made`` (B, 6 C, H, W), and the error of the last three of them."""
        foretold = made[:, self.triplet :]
        return {"adversarial": -self.critic(made).mean(), "L1": F.l1_loss(foretold.float(), coming)}

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """Mean absolute error of what is foretold."""
        seen, coming = triplets(batch, self.image_channels)
        return F.l1_loss(self.generator(seen), coming)

    def predicted(self, patches: Tensor) -> Tensor:
        """The middle slice as those before it foretell it: (B, C, H, W); if several triplets do, the mean of them."""
        sum_of_all = torch.zeros_like(patches[:, : self.image_channels])
        for start in self.starts:
            first = start * self.image_channels
            place = self.middle - first - self.triplet
            foretold = self.generator(patches[:, first : first + self.triplet])
            sum_of_all = sum_of_all + foretold[:, place : place + self.image_channels]
        return sum_of_all / len(self.starts)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The patches with their middle slice as it is foretold: (B, slices * C, H, W), like ``patches``."""
        before, after = patches[:, : self.middle], patches[:, self.middle + self.image_channels :]
        return torch.cat([before, self.predicted(patches), after], dim=1)

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            middle = patches[:, self.middle : self.middle + self.image_channels]
            return torch.abs(middle - self.predicted(patches)).mean(dim=1, keepdim=True)[:n]
        seen, coming = triplets(patches, self.image_channels)
        squared = torch.square(self.generator(seen) - coming)
        return squared.reshape(patches.shape[0], -1).mean(dim=1, keepdim=True)[:n]


def triplets(slices: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Each three neighbouring slices with the three that follow them, of N slices N - 5 pairs.

    Args:
        slices: (B, N * channels, H, W), all channels of a slice together.
        channels: of one slice.

    Returns:
        The first and the second three: (B * (N - 5), 3 * channels, H, W) each, those of one patch side by side.
    """
    n = slices.shape[1] // channels
    six = [slices[:, start * channels : (start + 6) * channels] for start in range(n - 5)]
    pairs = torch.stack(six, dim=1).flatten(0, 1)
    return pairs[:, : 3 * channels], pairs[:, 3 * channels :]
