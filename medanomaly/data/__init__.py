"""What comes in and goes out: datalists, reading volumes, writing heatmaps, what was made of what, the demo cohort."""

from medanomaly.data.datalist import cases_from_files, check_case_id, read_datalist, require_cases, unlabelled
from medanomaly.data.demo_cohort import make_demo_cohort
from medanomaly.data.manifests import datalist_from_manifest, manifest_names, read_manifest
from medanomaly.data.prefetch import PrefetchDataLoader
from medanomaly.data.provenance import (
    begin_scores,
    check_scores,
    chosen_epoch,
    read_provenance,
    record_scores,
    scan_of_case,
    scored_cases,
)
from medanomaly.data.reading import LoadCased, read_channels, read_display, read_volume
from medanomaly.data.training_cases import begin_training
from medanomaly.data.writing import (
    SaveHeatmapd,
    display_path,
    heatmap_path,
    require_folder,
    save_on_grid,
    written_whole,
)

__all__ = [
    "LoadCased",
    "PrefetchDataLoader",
    "SaveHeatmapd",
    "begin_scores",
    "begin_training",
    "cases_from_files",
    "check_case_id",
    "check_scores",
    "chosen_epoch",
    "datalist_from_manifest",
    "display_path",
    "heatmap_path",
    "make_demo_cohort",
    "manifest_names",
    "read_channels",
    "read_datalist",
    "read_display",
    "read_manifest",
    "read_provenance",
    "read_volume",
    "record_scores",
    "require_cases",
    "require_folder",
    "save_on_grid",
    "scan_of_case",
    "scored_cases",
    "unlabelled",
    "written_whole",
]
