"""The networks that are timed, and how many operations a patch asks of them by definition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.detectors import GANomaly

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)


def made_detector(patch_size: int, spatial_dims: int = 2, seed: int = 0) -> GANomaly:
    """GANomaly A (width 64 in 2-D, 32 in 3-D) with random weights that keep the signal's size, in eval mode.

    DCGAN's own weights, N(0, 0.02), shrink the signal of an untrained network to nothing: every score would be 0, and
    any two ways of computing it would agree.
    """
    torch.manual_seed(seed)
    detector = GANomaly(1, patch_size, spatial_dims)
    for module in detector.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, TRANSPOSED):
            taps = module.in_channels * 2**spatial_dims  # that meet in an output voxel: (kernel 4 / stride 2)^d
            nn.init.normal_(module.weight, std=(2 / taps) ** 0.5)
    return detector.eval()


def plain_ganomaly(patch_size: int, spatial_dims: int = 2, seed: int = 0) -> GANomaly:
    """GANomaly A with every layer as DCGAN writes it: what the eager fp32 step is timed on.

    The package computes three of the layers in an equivalent form that is faster.
    """
    torch.manual_seed(seed)
    detector = GANomaly(1, patch_size, spatial_dims)
    features, latent_dim = (64 if spatial_dims == 2 else 32), 100
    conv, transposed = CONVOLUTIONS[spatial_dims - 2], TRANSPOSED[spatial_dims - 2]
    norm = nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d
    widths = [features]
    while patch_size // 2 ** len(widths) > 4:
        widths.append(2 * widths[-1])

    def trunk() -> nn.Sequential:
        layers: list[nn.Module] = [conv(1, features, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(widths):
            layers += [conv(before, after, 4, 2, 1, bias=False), norm(after), nn.LeakyReLU(0.2, inplace=True)]
        return nn.Sequential(*layers)

    def head(out_channels: int) -> nn.Sequential:
        return nn.Sequential(conv(widths[-1], out_channels, 4, bias=False), nn.Flatten())

    def decoder() -> nn.Sequential:
        layers: list[nn.Module] = [
            nn.Unflatten(1, (latent_dim, *(1,) * spatial_dims)),
            transposed(latent_dim, widths[-1], 4, bias=False),
        ]
        for before, after in pairwise(widths[::-1]):
            layers += [norm(before), nn.ReLU(inplace=True), transposed(before, after, 4, 2, 1, bias=False)]
        return nn.Sequential(*layers, norm(features), nn.ReLU(inplace=True), transposed(features, 1, 4, 2, 1))

    detector.trunk, detector.critic_head = trunk(), head(1)
    detector.encoder, detector.reencoder = (nn.Sequential(trunk(), head(latent_dim)) for _ in range(2))
    detector.decoder = decoder()
    return detector


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a :func:`plain_ganomaly` the weights of the package's (their layers have the same order)."""
    with torch.no_grad():
        for ours, plain in zip(_weighted(source), _weighted(target), strict=True):
            for name, value in ours.state_dict().items():
                if isinstance(ours, nn.Linear) and not isinstance(plain, nn.Linear):
                    channels, *cube = plain.weight.shape[1:]  # type: ignore[union-attr,misc]
                    value = value.t() if isinstance(plain, TRANSPOSED) else value  # (out, in) to (in, out)
                    value = value.reshape(-1, *cube, channels).movedim(-1, 1)  # its features have the channels last
                plain.state_dict()[name].copy_(value)


def _weighted(network: nn.Module) -> list[nn.Module]:
    parts = [getattr(network, name) for name in ("trunk", "critic_head", "encoder", "reencoder", "decoder")]
    return [module for part in parts for module in part.modules() if module._parameters]


def operations_per_patch(network: GANomaly) -> float:
    """Operations (2 a multiply-add) to score one patch, from the definition of its layers.

    However a layer is computed, its floor is that of the sums that define it: 2 x output voxels x in x out x kernel
    for a convolution, 2 x input voxels x in x out x kernel for a transposed one, 2 x in x out for a linear layer.
    """
    total = 0

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        places = 1 if isinstance(module, nn.Linear) else (output if isinstance(module, CONVOLUTIONS) else inputs[0])
        voxels = places if isinstance(places, int) else places[0, 0].numel()
        total += 2 * voxels * module.weight.numel()

    kinds = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, kinds)]
    device = next(network.parameters()).device
    with torch.inference_mode():
        network(torch.zeros((1, network.in_channels, *(network.patch_size,) * network.spatial_dims), device=device))
    for hook in hooks:
        hook.remove()
    return float(total)
