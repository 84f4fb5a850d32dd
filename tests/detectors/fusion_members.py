"""Fusions for tests: small members of the package, and members for tests alone, of which one knows every score."""

from __future__ import annotations

import torch

from medanomaly.detectors import Detector, Fusion, Stage, detector_class

DENOISING = {"detector": "denoising_autoencoder", "features": 8}
SYNTHETIC = {"detector": "synthetic_anomalies", "features": 8}
GANOMALY = {"detector": "ganomaly", "features": 4, "latent_dim": 8}
SVM = {"detector": "one_class_svm"}


class Level(Detector):
    """Scores the mean of the channels of a voxel; learns nothing."""

    signed = True

    def score(self, patches):
        level = patches.mean(dim=1, keepdim=True)
        return -level if self.sign == "dark" else level


class PatchLevel(Level):
    """Scores the mean square of a patch, and cannot tell the sign."""

    signed = False

    def score(self, patches):
        return torch.square(patches).flatten(1).mean(dim=1, keepdim=True)


class TwoStreams(Level):
    """Keeps what its steps are given."""

    streams = ("training", "mixed")

    def stages(self):
        self.seen = []
        yield Stage("first", {})
        yield Stage("second", {}, keep="last", max_epochs=3)

    def training_step(self, batch, stage):
        self.seen.append((stage.name, batch))
        return {"none": torch.zeros(())}


class Scheduled(Level):
    """Has one stage of seven epochs."""

    def stages(self):
        yield Stage("only", {}, max_epochs=7)


def kind(name):
    """The class of a member, of those above or of the package."""
    made = {"level": Level, "patch_level": PatchLevel, "two_streams": TwoStreams, "scheduled": Scheduled}
    return made.get(name) or detector_class(name)


def make(*members, seed=0, **arguments):
    torch.manual_seed(seed)
    return Fusion(**{"patch_size": 16, "members": members, **arguments}).eval()


def noise(n=20, channels=1, size=16, spatial_dims=2, seed=0):
    """Patches whose first rows lie outside the brain."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.empty((n, channels) + (size,) * spatial_dims).exponential_(generator=generator)
    patches[:, :, :4] = 0
    return patches
