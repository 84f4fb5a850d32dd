"""Detectors for tests alone, one for each thing that the contract allows and no detector of the package needs yet."""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional as F

from medanomaly.detectors import Detector, Stage
from medanomaly.detectors.scores import at_least_four
from medanomaly.networks.any_length import AnyLength
from tests.detectors.catalogue import Entry, Learner


class Searching(Detector):
    """The distance to the nearest point of a linear model of normal patches, found by gradient descent on its code."""

    searches, exportable = True, False

    def __init__(self, in_channels=1, patch_size=16, spatial_dims=2, components=8):
        super().__init__(in_channels, patch_size, spatial_dims)
        n = in_channels * patch_size**spatial_dims
        self.mean, self.axes = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(components, n))

    @torch.no_grad()
    def fit_statistics(self, batches):
        patches = torch.cat(list(batches)).flatten(1)
        self.mean.copy_(patches.mean(dim=0))
        self.axes.copy_(torch.linalg.svd(patches - self.mean, full_matrices=False).Vh[: len(self.axes)])

    def score(self, patches):
        x = at_least_four(patches).flatten(1)
        z = torch.zeros(len(x), len(self.axes), requires_grad=True)
        for _ in range(10):
            distance = (x - self.mean - z @ self.axes).square().sum()
            z = (z - 0.4 * torch.autograd.grad(distance, z)[0]).detach().requires_grad_()
        return (x - self.mean - z @ self.axes).square().mean(dim=1, keepdim=True)[: len(patches)]


class TwoStreams(Detector):
    """Tells what is normal from the mixture of normal and abnormal patches; no one says which are which."""

    streams = ("training", "mixed")

    def __init__(self, in_channels=1, patch_size=16, spatial_dims=2):
        super().__init__(in_channels, patch_size, spatial_dims)
        conv = Conv[Conv.CONV, spatial_dims]
        self.filters, self.weigh = conv(in_channels, 16, kernel_size=5), nn.Linear(16, 1)

    def stages(self):
        yield Stage("classifier", {"all": torch.optim.Adam(self.parameters(), lr=3e-3)}, keep="last")

    def training_step(self, batch, stage):
        loss = F.softplus(self.score(batch["training"])).mean() + F.softplus(-self.score(batch["mixed"])).mean()
        stage.optimizers["all"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["all"].step()
        return {"classification": loss.detach()}

    def score(self, patches):
        features = F.leaky_relu(self.filters(at_least_four(patches)), 0.2).flatten(2).mean(dim=2)
        return self.weigh(features)[: patches.shape[0]]


class Bank(AnyLength, Detector):
    """The distance to the nearest of the normal patches that differ from all kept before them."""

    any_length: ClassVar = ("kept",)
    keeps_patches = True

    def __init__(self, in_channels=1, patch_size=16, spatial_dims=2, apart=1.0):
        super().__init__(in_channels, patch_size, spatial_dims)
        self.apart = apart
        self.kept = nn.Buffer(torch.zeros(0, in_channels * patch_size**spatial_dims))

    @torch.no_grad()
    def fit_statistics(self, batches):
        kept = []
        for patch in torch.cat(list(batches)).flatten(1):
            if not kept or torch.stack(kept).sub(patch).norm(dim=1).min() > self.apart:
                kept.append(patch)
        self.hold("kept", torch.stack(kept))

    def score(self, patches):
        nearest = torch.cdist(patches.flatten(1).double(), self.kept.double()).min(dim=1, keepdim=True)
        return nearest.values.float()


class MiddleSlice(Detector):
    """Takes neighbouring slices as channels; scores the voxels of the middle one: the residual of a linear model."""

    def __init__(self, in_channels=3, patch_size=16, spatial_dims=2, components=8):
        super().__init__(in_channels, patch_size, spatial_dims)
        self.middle = in_channels // 2
        n = patch_size**spatial_dims
        self.mean, self.axes = nn.Buffer(torch.zeros(n)), nn.Buffer(torch.zeros(components, n))

    @torch.no_grad()
    def fit_statistics(self, batches):
        slices = torch.cat(list(batches))[:, self.middle].flatten(1)
        self.mean.copy_(slices.mean(dim=0))
        self.axes.copy_(torch.linalg.svd(slices - self.mean, full_matrices=False).Vh[: len(self.axes)])

    def score(self, patches):
        patches, n = at_least_four(patches)[:, self.middle : self.middle + 1], patches.shape[0]
        x = patches.flatten(1) - self.mean
        return (x - x @ self.axes.t() @ self.axes).abs().view(patches.shape)[:n]


FITTED = {"random": False, "fitted": True}
TOYS = {
    Searching: Entry("searching", ({},), (Learner({}, 1, 2, 0), Learner({}, 3, 2, 0)), **FITTED),
    TwoStreams: Entry("two_streams", ({},), (Learner({}, 1, 2, 150), Learner({}, 3, 2, 150))),
    Bank: Entry("bank", ({},), (Learner({}, 1, 2, 0), Learner({}, 1, 3, 0)), **FITTED),
    MiddleSlice: Entry("middle_slice", ({},), (Learner({}, 3, 2, 0),), kinds=((2, 3), (2, 5)), **FITTED),
}
