"""Measure what a heatmap is worth, inside the brain, and say what its scores mean against normal cases."""

from medanomaly.evaluation.bootstrap import bootstrap_over_cases
from medanomaly.evaluation.calibration import Calibration
from medanomaly.evaluation.case_metrics import case_metrics, case_score
from medanomaly.evaluation.cohort import evaluate_cohort
from medanomaly.evaluation.heatmaps import HeatmapFolder, HeatmapOnTheSpot, heatmap_sources
from medanomaly.evaluation.normals import calibrate, calibrate_model, calibration_file, load_calibrations
from medanomaly.evaluation.voxel_metrics import InBrainVoxelMetric, dice_at, in_brain, roc_curve, voxel_metrics

__all__ = [
    "Calibration",
    "HeatmapFolder",
    "HeatmapOnTheSpot",
    "InBrainVoxelMetric",
    "bootstrap_over_cases",
    "calibrate",
    "calibrate_model",
    "calibration_file",
    "case_metrics",
    "case_score",
    "dice_at",
    "evaluate_cohort",
    "heatmap_sources",
    "in_brain",
    "load_calibrations",
    "roc_curve",
    "voxel_metrics",
]
