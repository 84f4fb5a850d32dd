"""What comes in and goes out: datalists, reading and checking volumes, writing heatmaps, the made demo cohort."""

from medanomaly.data.datalist import cases_from_files, check_case_id, read_datalist, require_cases
from medanomaly.data.demo_cohort import make_demo_cohort
from medanomaly.data.prefetch import PrefetchDataLoader
from medanomaly.data.reading import LoadCased, read_channels, read_volume
from medanomaly.data.writing import SaveHeatmapd, heatmap_path, save_on_grid, written_whole

__all__ = [
    "LoadCased",
    "PrefetchDataLoader",
    "SaveHeatmapd",
    "cases_from_files",
    "check_case_id",
    "heatmap_path",
    "make_demo_cohort",
    "read_channels",
    "read_datalist",
    "read_volume",
    "require_cases",
    "save_on_grid",
    "written_whole",
]
