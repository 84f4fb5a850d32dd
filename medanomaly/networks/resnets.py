"""MONAI's ResNets in the forms that torchvision's ImageNet weights (2-D) and MedicalNet's (3-D) are of."""

from __future__ import annotations

from typing import Any

from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck


class WideBottleneck(ResNetBottleneck):
    """A bottleneck that is twice as wide inside (Zagoruyko & Komodakis 2016), which MONAI does not have."""

    def __init__(self, in_planes: int, planes: int, spatial_dims: int = 3, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(in_planes, planes, spatial_dims, stride, **kwargs)
        conv, inside = Conv[Conv.CONV, spatial_dims], 2 * planes
        norm = kwargs.get("norm", "batch")
        self.conv1 = conv(in_planes, inside, kernel_size=1, bias=False)
        self.bn1 = get_norm_layer(norm, spatial_dims, inside)
        self.conv2 = conv(inside, inside, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = get_norm_layer(norm, spatial_dims, inside)
        self.conv3 = conv(inside, planes * self.expansion, kernel_size=1, bias=False)


RESNETS: dict[str, tuple[type[ResNetBlock | ResNetBottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (ResNetBlock, (1, 1, 1, 1)),
    "resnet18": (ResNetBlock, (2, 2, 2, 2)),
    "resnet34": (ResNetBlock, (3, 4, 6, 3)),
    "resnet50": (ResNetBottleneck, (3, 4, 6, 3)),
    "wide_resnet50_2": (WideBottleneck, (3, 4, 6, 3)),
}


def has_padded_shortcuts(name: str, spatial_dims: int) -> bool:
    """Whether shortcuts pad with zeros, as MedicalNet's of these two; MONAI's layer for it has no TorchScript."""
    return spatial_dims == 3 and name in ("resnet18", "resnet34")


def resnet_widths(name: str) -> tuple[int, ...]:
    """Channels of ``layer1`` to ``layer4``."""
    return tuple(64 * 2**number * RESNETS[name][0].expansion for number in range(4))


def resnet(name: str, spatial_dims: int, deepest: int) -> ResNet:
    """A ResNet with random weights, in 2-D for three colours, in 3-D for one channel.

    Args:
        name: a key of ``RESNETS``.
        spatial_dims: 2 or 3.
        deepest: the last of ``layer1`` to ``layer4`` that is wanted; those after it are stunted.
    """
    block, blocks = RESNETS[name]
    planes = [64 * 2**number if number < deepest else 1 for number in range(4)]
    return ResNet(
        block,
        [n if number < deepest else 1 for number, n in enumerate(blocks)],
        planes,
        spatial_dims,
        n_input_channels=3 if spatial_dims == 2 else 1,
        conv1_t_stride=2,
        shortcut_type="A" if has_padded_shortcuts(name, spatial_dims) else "B",
        feed_forward=False,
        bias_downsample=False,
    )
