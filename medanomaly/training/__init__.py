"""The training loop of everything that learns in stages, and its checkpoints."""

from medanomaly.training.checkpoints import load_checkpoint, load_detector
from medanomaly.training.epoch_choice import PseudoAUC, debiased_auc, epoch_choice, pseudo_auc
from medanomaly.training.protocol import Trainable
from medanomaly.training.streams import StreamSampler
from medanomaly.training.trainer import DetectorTrainer

__all__ = [
    "DetectorTrainer",
    "PseudoAUC",
    "StreamSampler",
    "Trainable",
    "debiased_auc",
    "epoch_choice",
    "load_checkpoint",
    "load_detector",
    "pseudo_auc",
]
