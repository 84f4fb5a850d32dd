"""What a person sees: pictures of heatmaps, ROC curves, tables."""

from medanomaly.report.figures import case_figure, reconstructions_figure, roc_figure, roc_panels, save_figure
from medanomaly.report.summaries import summarise_case, write_evaluation, write_score_summary
from medanomaly.report.tables import detector_table, score_table, show

__all__ = [
    "case_figure",
    "detector_table",
    "reconstructions_figure",
    "roc_figure",
    "roc_panels",
    "save_figure",
    "score_table",
    "show",
    "summarise_case",
    "write_evaluation",
    "write_score_summary",
]
