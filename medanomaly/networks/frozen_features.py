"""Features of a network that is trained already and stays as it is, at several scales: of PaDiM and PatchCore."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.errors import ConfigError
from medanomaly.networks.foreign_weights import find_weights, fitted_weights, read_weights
from medanomaly.networks.resnets import RESNETS, has_padded_shortcuts, resnet, resnet_widths
from medanomaly.networks.unet import unet

BACKBONES = (*RESNETS, "unet")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of red, green and blue
# of a normal distribution whose 5th and 95th percentiles are 0 and 1, as those of prepared scans: MedicalNet's input
# has mean 0 and standard deviation 1
PREPARED = ((0.5,), (0.304,))


class FrozenFeatures(nn.Module):
    """Patches (B, C, H, W[, D]) to features (B, ``channels``, ``side``, ``side``[, ``side``]).

    The maps of several layers, each averaged over ``pool`` positions a side, brought to the size of the first of them
    linearly, and joined. The backbone is a ResNet, which sees the channels of a patch one by one (in 2-D as grey
    pictures of three colours, normalised as ImageNet's; in 3-D normalised as MedicalNet's), or the encoder of a
    U-Net of this package, which sees patches as it did in its training.

    It is in eval mode and without gradients, always. Its weights are random until :meth:`take`, or until a state
    dictionary is loaded, which holds them whole.

    Args:
        in_channels, patch_size, spatial_dims: of the patches.
        backbone: one of ``BACKBONES``.
        layers: which maps, 1 to 4: of a ResNet, ``layer1`` (a quarter of the patch's side) to ``layer4``; of a U-Net,
            after the first halving to after the fourth.
        features: of a U-Net: its channels at full size.
        pool: positions a side that each feature is the mean of, an odd number.

    Raises:
        ConfigError: if there is no such backbone or layer, or a U-Net cannot be made for such patches.
    """

    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        spatial_dims: int,
        backbone: str = "resnet18",
        layers: Sequence[int] = (1, 2, 3),
        features: int = 16,
        pool: int = 1,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ConfigError(f"backbone is {backbone!r}: use one of {', '.join(BACKBONES)}.")
        if not layers or sorted(set(layers)) != list(layers) or not set(layers) <= {1, 2, 3, 4}:
            raise ConfigError(f"layers is {list(layers)}: name some of 1, 2, 3 and 4, each once, in rising order.")
        self.exportable = not has_padded_shortcuts(backbone, spatial_dims)
        self.name, self.spatial_dims, self.one_by_one = backbone, spatial_dims, backbone != "unet"
        if backbone == "unet":
            whole: nn.Module = unet(in_channels, 1, patch_size, spatial_dims, features)
            names, level, halvings = ["conv_0"], "down_{}", 0
            widths: tuple[int, ...] = (features, 2 * features, 4 * features, 8 * features)
        else:
            whole = resnet(backbone, spatial_dims, max(layers))
            names, level, halvings = ["conv1", "bn1", "act", "maxpool"], "layer{}", 1
            widths = resnet_widths(backbone)
        names += [level.format(number) for number in range(1, max(layers) + 1)]
        self.backbone = nn.Sequential(OrderedDict((name, getattr(whole, name)) for name in names))
        self.taken = [names.index(level.format(number)) for number in layers]
        self.channels = sum(widths[number - 1] for number in layers) * (in_channels if self.one_by_one else 1)
        self.side = -(-patch_size // 2 ** (layers[0] + halvings))
        self.positions = int(self.side**spatial_dims)
        self.pool, self.padding = Pool[Pool.AVG, spatial_dims](pool, stride=1), [pool // 2] * 2 * spatial_dims
        self.linear = "bilinear" if spatial_dims == 2 else "trilinear"
        mean, std = IMAGENET if spatial_dims == 2 else PREPARED
        shape = (1, len(mean)) + (1,) * spatial_dims
        self.mean = nn.Buffer(torch.tensor(mean).view(shape), persistent=False)
        self.std = nn.Buffer(torch.tensor(std).view(shape), persistent=False)
        self.untrained = nn.Buffer(torch.ones((), dtype=torch.bool))
        self.requires_grad_(False)
        self.eval()

    def check(self, source: str | None) -> str | Path | None:
        """Where the weights that :meth:`take` would load are; None if they stay random. It raises what that would."""
        if source is None:
            raise ConfigError(
                f"the backbone {self.name} has no weights: set backbone_weights to a file of weights, to the folder of "
                "a model that was trained here (with backbone=unet), to imagenet or medicalnet (downloaded), or to "
                "random, to see that all works."
            )
        return None if source == "random" else find_weights(source, self.name, self.spatial_dims)

    def take(self, source: str | None) -> None:
        """Load weights, or leave the random ones where that is asked for.

        Args:
            source: "random"; "imagenet" (2-D) or "medicalnet" (3-D), which are downloaded; a file of weights, of
                torchvision or of MedicalNet; or of a U-Net, the folder of a trained model, or its ``model.pt``.

        Raises:
            ConfigError: if there is none, or the name does not go with the backbone.
            InputError: if a file is missing, cannot be read or downloaded, or does not fit.
        """
        place = self.check(source)
        if place is None:
            warnings.warn(
                f"the backbone {self.name} has random weights: that shows that all works, not what can be found",
                stacklevel=3,
            )
            return
        otherwise = f"{place} does not fit the backbone {self.name} in {self.spatial_dims}-D"
        self.backbone.load_state_dict(fitted_weights(read_weights(place), self.backbone, otherwise))
        self.untrained.fill_(False)

    def cautions(self) -> list[str]:
        """That the weights are random, if they are; for the card of a model."""
        told = f"The backbone {self.name} has random weights: the model shows that all works, not what can be found."
        return [told] if self.untrained else []

    def train(self, mode: bool = True) -> FrozenFeatures:
        """It stays in eval mode, whatever is asked."""
        return super().train(False)

    def forward(self, patches: Tensor) -> Tensor:
        x, n = patches, patches.shape[0]
        if self.one_by_one:
            x = (x.flatten(0, 1)[:, None] - self.mean) / self.std  # grey in all colours
        maps: list[Tensor] = []
        for number, module in enumerate(self.backbone):
            x = module(x)
            if number in self.taken:
                maps.append(self._averaged(x).float())
        size = maps[0].shape[2:]
        joined = torch.cat(
            [maps[0]] + [F.interpolate(m, size=size, mode=self.linear, align_corners=False) for m in maps[1:]], dim=1
        )
        of_patches: Tensor = joined.unflatten(0, [n, -1]).flatten(1, 2)
        return of_patches

    def _averaged(self, x: Tensor) -> Tensor:
        """The mean of the positions around each, of those there are; a pool's own padding is not for small maps."""
        inside = torch.ones_like(x[:1, :1])
        averaged: Tensor = self.pool(F.pad(x, self.padding)) / self.pool(F.pad(inside, self.padding))
        return averaged


class ScoreMap(nn.Module):
    """Scores of positions (B, 1, s, s[, s]) as a map (B, 1, H, W[, D]): enlarged linearly, smoothed by a Gaussian.

    Both are linear along each axis, so they are one product with a matrix (in double precision, which autocast leaves
    alone).

    Args:
        side: s.
        patch_size: length of a side of the map.
        sigma: of the Gaussian, in voxels; 0 leaves it out. At the border, the last voxel goes on.
    """

    def __init__(self, side: int, patch_size: int, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ConfigError(f"smoothing is {sigma}; it is a standard deviation in voxels: use 0 or more.")
        rows = torch.eye(side, dtype=torch.float64)[:, None]  # what becomes of a 1 in each position
        rows = F.interpolate(rows, size=patch_size, mode="linear", align_corners=False)
        reach = int(4 * sigma + 0.5)
        if reach > 0:
            kernel = torch.exp(-0.5 * torch.square(torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma))
            rows = F.conv1d(F.pad(rows, [reach, reach], mode="replicate"), (kernel / kernel.sum())[None, None])
        self.rows = nn.Buffer(rows[:, 0], persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores.double()
        for axis in range(2, scores.ndim):
            scores = torch.matmul(scores.transpose(axis, -1), self.rows).transpose(axis, -1)
        return scores.float().contiguous()
