"""The training loop of every detector, and its checkpoints."""

from medanomaly.training.checkpoints import load_checkpoint, load_detector
from medanomaly.training.trainer import DetectorTrainer

__all__ = ["DetectorTrainer", "load_checkpoint", "load_detector"]
