"""Weights that are the same on every machine: waves instead of random numbers, by the order of the parameters."""

from __future__ import annotations

from math import prod

import torch


def waves(shape, number):
    """Values of mean 0 and standard deviation 1, about; another wave for each number."""
    angles = torch.arange(prod(shape), dtype=torch.float64) * (1.3 + 0.37 * (number % 17)) + number
    return (2**0.5 * torch.sin(angles)).view(shape)


@torch.no_grad()
def fill(detector):
    """Give a detector weights of a size that keeps signals alive, and what is fitted something to hold; eval mode."""
    state = detector.state_dict()
    parameters = {name for name, _ in detector.named_parameters()}
    for number, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        if value.numel() == 0:  # of any length
            state[name] = 0.3 * waves((12, *value.shape[1:]), number)
        elif name not in parameters and value.ndim > 1 and not value.any():  # a matrix that is fitted
            state[name] = value[0].numel() ** -0.5 * waves(value.shape, number)
        elif value.ndim == 0:
            state[name] = torch.tensor(3e-4)
        elif name in parameters and value.ndim == 1:
            state[name] = float(value.mean() > 0.5) + 0.1 * waves(value.shape, number)  # the scale of a norm, or a bias
        elif name in parameters:
            size = 1.0 if value.std() > 0.5 else value[0].numel() ** -0.5  # of equalised learning rate, or not
            state[name] = size * waves(value.shape, number)
    detector.load_state_dict(state)
    return detector.eval()


def patches_for(detector, n=5):
    """Patches (n, C, p, p[, p]) from 0 to 1, with a border of 0."""
    shape = (n, detector.in_channels) + (detector.patch_size,) * detector.spatial_dims
    patches = (0.5 + 0.3 * waves(shape, 5)).clamp(min=0.01).float()
    patches[:, :, :2] = 0
    return patches
