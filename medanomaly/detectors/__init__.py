"""Detectors: what is learned from normal patches. One file each; `DETECTORS` names them all."""

from medanomaly.detectors.base import Detector
from medanomaly.detectors.ganomaly import GANomaly
from medanomaly.detectors.intensity import IntensityBaseline
from medanomaly.detectors.one_class_svm import OneClassSVM
from medanomaly.detectors.progressive_ganomaly import ProgressiveGANomaly

DETECTORS = {"ganomaly": GANomaly, "one_class_svm": OneClassSVM, "progressive_ganomaly": ProgressiveGANomaly}

__all__ = ["DETECTORS", "Detector", "GANomaly", "IntensityBaseline", "OneClassSVM", "ProgressiveGANomaly"]
