"""How volumes, patches and weights lie in memory: on a CPU, half of the speed."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn


def plain(volume: Tensor) -> Tensor:
    """A MetaTensor as a plain tensor: its bookkeeping would cost more than the work in the patch loop."""
    return volume.as_tensor() if hasattr(volume, "as_tensor") else volume


def regions_of(volumes: Tensor, mask: Tensor | None) -> Tensor:
    """What is inside, as booleans (B, 1, H, W, D): above 0 in ``mask``, or, without one, not 0 in some channel."""
    return (plain(volumes) != 0).any(dim=1, keepdim=True) if mask is None else plain(mask) > 0


def for_network(patches: Tensor, spatial_dims: int) -> Tensor:
    """Gathered windows (B, C, w0, w1, w2) as a network takes them: cubes as they are, stacks of slices as channels.

    In 2-D, w0 is the number of slices, and the result is (B, w0 * C, w1, w2), slice by slice: all channels of the first
    slice, then all of the next. Those of the middle slice, which is the one that is scored, stand in the middle: from
    ``(w0 // 2) * C`` to ``(w0 // 2 + 1) * C``.
    """
    return patches if spatial_dims == 3 else patches.transpose(1, 2).flatten(1, 2)


def channels_last(patches: Tensor) -> Tensor:
    """Patches (B, C, H, W[, D]) in the memory layout in which CPU and GPU convolutions are fastest."""
    layout = torch.channels_last if patches.ndim == 4 else torch.channels_last_3d
    strides = torch.empty(patches.shape, device="meta", memory_format=layout).stride()
    # with a single channel both layouts have the same order, and without these strides torch would take the slow one
    return patches.contiguous(memory_format=layout).as_strided(patches.shape, strides)


def device_of(network: nn.Module, otherwise: Tensor) -> torch.device:
    """Where the weights of ``network`` lie, be they parameters or, of what is only fitted, buffers alone.

    That of ``otherwise`` if it has none.
    """
    return next(chain(network.parameters(), network.buffers()), otherwise).device


def prepare_network(network: nn.Module) -> None:
    """Lay the convolution weights of ``network`` out as :func:`channels_last` lays out patches; values stay.

    And let the process keep memory that it frees: the activations of each batch would otherwise be given back to the
    system and asked for again, page by page, which takes a third of the time. glibc does so for blocks that are larger
    than any which it has yet seen freed, up to 32 MB, so it is shown one.
    """
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            parameter.data = channels_last(parameter.data)
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # freed at once, and never written to
