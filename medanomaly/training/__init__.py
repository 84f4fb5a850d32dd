"""The training loop of everything that learns in stages, its checkpoints, and coevolution of GANs on a grid."""

from medanomaly.networks.adversaries import GAN
from medanomaly.training.checkpoints import load_checkpoint, load_detector
from medanomaly.training.coevolution import Grid, coevolve
from medanomaly.training.epoch_choice import PseudoAUC, debiased_auc, epoch_choice, pseudo_auc
from medanomaly.training.grid import GridSettings
from medanomaly.training.protocol import Trainable
from medanomaly.training.quality import FrechetDistance, SlicedWasserstein
from medanomaly.training.streams import StreamSampler
from medanomaly.training.trainer import DetectorTrainer

__all__ = [
    "GAN",
    "DetectorTrainer",
    "FrechetDistance",
    "Grid",
    "GridSettings",
    "PseudoAUC",
    "SlicedWasserstein",
    "StreamSampler",
    "Trainable",
    "coevolve",
    "debiased_auc",
    "epoch_choice",
    "load_checkpoint",
    "load_detector",
    "pseudo_auc",
]
