"""From files to volumes that detectors can compare: region, orientation, spacing, normalisation, and back."""

from medanomaly.preprocessing.cache import CachedCompose, user_cache
from medanomaly.preprocessing.chains import brain_mri, radiograph
from medanomaly.preprocessing.inverse import LABEL_ON_SCAN, FillOutsided, MaskOutsided, heatmap_to_scan
from medanomaly.preprocessing.normalisation import NormalisePercentiles, NormalisePercentilesd
from medanomaly.preprocessing.region_mask import RegionMaskd

__all__ = [
    "LABEL_ON_SCAN",
    "CachedCompose",
    "FillOutsided",
    "MaskOutsided",
    "NormalisePercentiles",
    "NormalisePercentilesd",
    "RegionMaskd",
    "brain_mri",
    "heatmap_to_scan",
    "radiograph",
    "user_cache",
]
