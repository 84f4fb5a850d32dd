"""Measure what a heatmap is worth, inside the region, and say what its scores mean against normal cases."""

from medanomaly.evaluation.bootstrap import bootstrap_of_cases, bootstrap_over_cases
from medanomaly.evaluation.calibration import Calibration
from medanomaly.evaluation.case_metrics import case_metrics, case_ranking, case_score
from medanomaly.evaluation.cohort import evaluate_cohort
from medanomaly.evaluation.heatmaps import HeatmapFolder, HeatmapOnTheSpot, heatmap_sources
from medanomaly.evaluation.normals import (
    calibrate,
    calibrate_model,
    calibration_file,
    calibration_of_scores,
    load_calibrations,
)
from medanomaly.evaluation.regions import Regions, find_regions
from medanomaly.evaluation.voxel_metrics import (
    InRegionVoxelMetric,
    dice_at,
    in_region,
    precision_recall_curve,
    roc_curve,
    voxel_metrics,
)

__all__ = [
    "Calibration",
    "HeatmapFolder",
    "HeatmapOnTheSpot",
    "InRegionVoxelMetric",
    "Regions",
    "bootstrap_of_cases",
    "bootstrap_over_cases",
    "calibrate",
    "calibrate_model",
    "calibration_file",
    "calibration_of_scores",
    "case_metrics",
    "case_ranking",
    "case_score",
    "dice_at",
    "evaluate_cohort",
    "find_regions",
    "heatmap_sources",
    "in_region",
    "load_calibrations",
    "precision_recall_curve",
    "roc_curve",
    "voxel_metrics",
]
