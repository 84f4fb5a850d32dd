"""Where patches lie, which are drawn for training, how their scores become a heatmap, and what may follow."""

from medanomaly.patches.grid import PatchGrid
from medanomaly.patches.inferer import PatchScoreInferer
from medanomaly.patches.other_side import RelativeToOtherSide
from medanomaly.patches.places import RelativeToPlace, fit_places
from medanomaly.patches.postprocessing import EdgeWeight, Median, MinimumComponent, Postprocessed
from medanomaly.patches.sampling import PatchSampler
from medanomaly.patches.spec import PatchSpec

__all__ = [
    "EdgeWeight",
    "Median",
    "MinimumComponent",
    "PatchGrid",
    "PatchSampler",
    "PatchScoreInferer",
    "PatchSpec",
    "Postprocessed",
    "RelativeToOtherSide",
    "RelativeToPlace",
    "fit_places",
]
