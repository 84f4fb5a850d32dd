"""What a person sees: pictures of heatmaps, ROC curves, tables."""

from medanomaly.report.dicom_seg import write_dicom_seg
from medanomaly.report.figures import case_figure, reconstructions_figure, roc_figure, roc_panels, save_figure
from medanomaly.report.region_files import read_regions, region_table, write_regions
from medanomaly.report.slicer_scene import write_slicer_scene
from medanomaly.report.summaries import summarise_case, write_evaluation, write_score_summary
from medanomaly.report.tables import detector_table, score_table

__all__ = [
    "case_figure",
    "detector_table",
    "read_regions",
    "reconstructions_figure",
    "region_table",
    "roc_figure",
    "roc_panels",
    "save_figure",
    "score_table",
    "summarise_case",
    "write_dicom_seg",
    "write_evaluation",
    "write_regions",
    "write_score_summary",
    "write_slicer_scene",
]
