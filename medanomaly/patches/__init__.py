"""Where patches lie, which are drawn for training, and how their scores become a heatmap."""

from medanomaly.patches.grid import PatchGrid
from medanomaly.patches.inferer import PatchScoreInferer
from medanomaly.patches.sampling import PatchSampler

__all__ = ["PatchGrid", "PatchSampler", "PatchScoreInferer"]
