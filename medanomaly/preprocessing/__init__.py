"""From files to volumes that detectors can compare: region, orientation, spacing, normalisation, and back."""

from medanomaly.preprocessing.bias_correction import CorrectBiasd
from medanomaly.preprocessing.cache import CachedCompose, user_cache
from medanomaly.preprocessing.chains import bone_ct, brain_mri, head_ct, radiograph
from medanomaly.preprocessing.deepbet_mask import deepbet_mask
from medanomaly.preprocessing.extracted_already import extracted_brain
from medanomaly.preprocessing.inverse import LABEL_ON_SCAN, FillOutsided, MaskOutsided, heatmap_to_scan
from medanomaly.preprocessing.label_map import LabelMapd, heatmap_to_labels
from medanomaly.preprocessing.mask_check import brain_mask_problems
from medanomaly.preprocessing.normalisation import NormalisePercentiles, NormalisePercentilesd, WindowHounsfieldd
from medanomaly.preprocessing.region_mask import RegionMaskd

__all__ = [
    "LABEL_ON_SCAN",
    "CachedCompose",
    "CorrectBiasd",
    "FillOutsided",
    "LabelMapd",
    "MaskOutsided",
    "NormalisePercentiles",
    "NormalisePercentilesd",
    "RegionMaskd",
    "WindowHounsfieldd",
    "bone_ct",
    "brain_mask_problems",
    "brain_mri",
    "deepbet_mask",
    "extracted_brain",
    "head_ct",
    "heatmap_to_labels",
    "heatmap_to_scan",
    "radiograph",
    "user_cache",
]
