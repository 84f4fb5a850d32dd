"""Detectors: what is learned from normal patches. One file each; `DETECTORS` names them all."""

from medanomaly.detectors.base import Detector
from medanomaly.detectors.ganomaly import GANomaly
from medanomaly.detectors.intensity import IntensityBaseline

DETECTORS = {"ganomaly": GANomaly}

__all__ = ["DETECTORS", "Detector", "GANomaly", "IntensityBaseline"]
