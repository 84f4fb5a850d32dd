"""The search for the codes that a network makes given samples of: gradient descent, many at once, each on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 32  # rows that a network is shown at a time


def block_of(patch_size: int, spatial_dims: int) -> int:
    """How many patches of this size to work on at a time: 32, 8 in 3-D, and 4 images of 64 voxels a side.

    A film is one patch and comes alone: its block is filled up with copies of it, and these cost as much as it does.
    """
    if spatial_dims == 3:
        return 8
    return 4 if patch_size >= 64 else BLOCK


def in_blocks(function: Callable[..., Tensor], *tensors: Tensor, block: int = BLOCK) -> Tensor:
    """``function(*tensors)`` in blocks of ``block`` rows each, the last one filled up with copies of its first row.

    A kernel that is chosen by the number of rows sums in another order, and a search makes much of a small difference.
    With blocks of one size, what comes out for a row is the same, bit for bit, whatever rows are beside it.

    Args:
        function: takes ``block`` rows of each tensor, gives as many; it must not mix rows (batch norm in eval mode).
        tensors: (N, ...) each, N at least 1.
    """
    n = len(tensors[0])
    parts = []
    for start in range(0, n, block):
        rows = _filled(torch.arange(start, min(start + block, n), device=tensors[0].device), block)
        parts.append(function(*(tensor[rows] for tensor in tensors)))
    return torch.cat(parts)[:n]


def search_codes(
    loss: Callable[[Tensor, Tensor], Tensor],
    starts: Tensor,
    steps: int = 100,
    step_size: float = 0.05,
    limit: float = 3.0,
    check_every: int = 20,
    tolerance: float = 0.01,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """The codes with the lowest loss, found by Adam (betas 0.9 and 0.999), which keeps a state for each sample.

    All starts of a sample go ``check_every`` steps; then the best of them goes on alone. A sample whose loss fell by
    less than ``tolerance`` of itself in the last ``check_every`` steps is left as it is, and the search ends when all
    are. Nothing is drawn at random: the same starts lead to the same codes.

    Args:
        loss: of codes (n, latent_dim) and the numbers (n,) of the samples that they are for: (n,), without mixing them.
        starts: (N, number of starts, latent_dim).
        steps: most steps of each sample.
        limit: no element of a code leaves [-limit, limit].
        block: codes that are worked on at a time, see :func:`in_blocks`.

    Returns:
        Codes (N, latent_dim) and their losses (N,), the lowest on the way; without gradients.
    """
    n, n_starts, _ = starts.shape
    codes = starts.detach().flatten(0, 1).clamp(-limit, limit)
    samples = torch.arange(n, device=starts.device).repeat_interleave(n_starts)
    best_codes, lowest = codes.clone(), torch.full((len(codes),), torch.inf, device=starts.device)
    moments = torch.zeros(2, *codes.shape, device=starts.device)
    going = torch.arange(len(codes), device=starts.device)
    chosen = going
    for done in range(0, steps, check_every):
        before = lowest[going]
        for part in going.split(block):
            rows = _filled(part, block)
            state = codes[rows], moments[:, rows], best_codes[rows], lowest[rows]
            for step in range(done, min(done + check_every, steps)):
                state = _step(loss, samples[rows], *state, step, step_size, limit)
            for kept, new in zip((codes, best_codes, lowest), (state[0], *state[2:]), strict=True):
                kept[part] = new[: len(part)]
            moments[:, part] = state[1][:, : len(part)]
        improved = lowest[going] < (1 - tolerance) * before
        if done == 0:  # of all starts, the best of each sample
            chosen = lowest.view(n, n_starts).argmin(dim=1) + n_starts * torch.arange(n, device=starts.device)
            going = chosen
        else:
            going = going[improved]
        if len(going) == 0:
            break
    return best_codes[chosen], lowest[chosen]


def _step(
    loss: Callable[[Tensor, Tensor], Tensor],
    samples: Tensor,
    codes: Tensor,
    moments: Tensor,
    best_codes: Tensor,
    lowest: Tensor,
    step: int,
    step_size: float,
    limit: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, Adam's moments (2, n, latent_dim), best codes and lowest losses after one more step."""
    codes = codes.detach().requires_grad_(True)
    with torch.enable_grad():
        values = loss(codes, samples)
        (gradient,) = torch.autograd.grad(values.sum(), codes)
    values, codes = values.detach().float(), codes.detach()
    better = values < lowest
    best_codes, lowest = torch.where(better[:, None], codes, best_codes), torch.where(better, values, lowest)
    mean = torch.lerp(gradient, moments[0], 0.9)
    square = torch.lerp(gradient.square(), moments[1], 0.999)
    change = mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    return (codes - step_size * change).clamp(-limit, limit), torch.stack([mean, square]), best_codes, lowest


def _filled(rows: Tensor, length: int) -> Tensor:
    """Row numbers, filled up with the first to ``length``."""
    return torch.cat([rows, rows[:1].expand(length - len(rows))])
