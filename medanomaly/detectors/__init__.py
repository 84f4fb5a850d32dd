"""Detectors: what is learned from normal patches. One file each; `DETECTORS` names them all."""

from medanomaly.detectors.autoencoder import Autoencoder
from medanomaly.detectors.base import Detector
from medanomaly.detectors.denoising_autoencoder import DenoisingAutoencoder
from medanomaly.detectors.foreign_patch_interpolation import ForeignPatchInterpolation
from medanomaly.detectors.fusion import Fusion
from medanomaly.detectors.ganomaly import GANomaly
from medanomaly.detectors.intensity import IntensityBaseline, intensity_baselines
from medanomaly.detectors.one_class_svm import OneClassSVM
from medanomaly.detectors.progressive_ganomaly import ProgressiveGANomaly
from medanomaly.detectors.synthetic_anomalies import SyntheticAnomalies

DETECTORS = {
    "autoencoder": Autoencoder,
    "denoising_autoencoder": DenoisingAutoencoder,
    "foreign_patch_interpolation": ForeignPatchInterpolation,
    "fusion": Fusion,
    "ganomaly": GANomaly,
    "one_class_svm": OneClassSVM,
    "progressive_ganomaly": ProgressiveGANomaly,
    "synthetic_anomalies": SyntheticAnomalies,
}

__all__ = [
    "DETECTORS",
    "Autoencoder",
    "DenoisingAutoencoder",
    "Detector",
    "ForeignPatchInterpolation",
    "Fusion",
    "GANomaly",
    "IntensityBaseline",
    "OneClassSVM",
    "ProgressiveGANomaly",
    "SyntheticAnomalies",
    "intensity_baselines",
]
