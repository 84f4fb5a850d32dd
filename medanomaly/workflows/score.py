"""Heatmaps of scans or of a cohort, on the grid of each scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medanomaly.data import cases_from_files, display_path, read_datalist, require_folder
from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows import bundles
from medanomaly.workflows.settings import device_setting

if TYPE_CHECKING:
    import pandas as pd


def score(
    scans: str | Path | Sequence[str | Path] | None = None,
    model: str | Path = "runs/model",
    output: str | Path = "out",
    *,
    datalist: str | Path | None = None,
    section: str = "test",
    data_root: str | Path | None = None,
    region: str | Path | None = None,
    series: Sequence[str | int] | None = None,
    sign: str | None = None,
    amp: bool = False,
    device: str | None = None,
    register: bool = False,
    report: bool = True,
) -> pd.DataFrame:
    """Write a heatmap for each scan, on the grid of that scan.

    Args:
        scans: files, folders or zips, one or several; with a model of several channels, the files of one case in its
            order.
        model: folder of a trained model, or the name of one that comes with the package.
        output: folder for the heatmaps.
        datalist: score a section of a cohort instead of single scans.
        section, data_root: of the datalist; what its relative paths start from.
        region: a mask file, or auto, given (each case names its own), nonzero, all, deepbet, hd-bet, synthstrip, or a
            command with ``{image}`` and ``{mask}``; the model's own way if not given.
        series: of DICOM ``scans``, by number or description: one for all, one for each, or several of one folder.
        sign: bright, dark or both, of detectors that tell; as the model was trained if not given.
        amp: score in bfloat16.
        device: cpu, cuda or cuda:1; the GPU if there is one, when not given.
        register: bring the further channels of each case onto the grid of the first, by a rigid registration; as the
            model was trained if not asked for.
        report: write ``report.html`` for each case.

    Returns:
        A row for each case that was scored: score, thresholds, share of the region above them, and the paths of its
        maps under ``heatmap`` and ``display``. ``cases.csv`` in ``output`` has it, too.

    Raises:
        InputError: if not one of ``scans`` and ``datalist`` is given, or a scan cannot be used.
        ConfigError: if the model does not tell signs or its chain does not register, or the device is not there.
    """
    import pandas as pd

    from medanomaly.preprocessing.region_mask import mask_file

    scans = [scans] if isinstance(scans, str | Path) else list(scans or [])
    if bool(scans) == bool(datalist):
        raise InputError("name the scans to score, or a cohort with --datalist (one of the two).")
    require_folder(output)
    model, output = bundles.find_model(model), Path(output).absolute()
    settings: dict[str, Any] = {"output_dir": output, **device_setting(device), **sign_setting(model, sign)}
    if amp:
        settings["score_amp"] = True
    if not report:
        settings["report"] = False
    if register:
        settings["register"] = register_setting(model)
    mask = mask_file(region)
    if region is not None:
        settings["region"] = region if mask is None else "given"
    if datalist is not None:
        if mask is not None:
            raise InputError(
                "--brain with a mask file goes with a single scan; in a datalist, each case names its own 'brain'."
            )
        if series:
            raise InputError(
                "--series goes with scans that are named; in a datalist, each case names its own 'series'."
            )
        cases = read_datalist(datalist, section, data_root)
    else:
        channels = int(bundles.read_settings(model, "inference")["in_channels"])
        cases = cases_from_files([Path(scan) for scan in scans], channels, mask, series or None)
    bundles.run_bundle(model.resolve(), "inference", cases=tuple(cases), **settings)
    table = pd.read_csv(output / "cases.csv", dtype={"case": str}).set_index("case")
    table = table.loc[[case["case"] for case in cases]].reset_index()
    shown = zip(table["case"], table["image"], strict=True)
    return table.assign(display=[str(display_path(output, case, scan)) for case, scan in shown])


def closing_words(table: pd.DataFrame, output: str | Path) -> str:
    """What to do with the maps that :func:`score` wrote, for the terminal."""
    kinds = sorted(
        {Path(display).name.removeprefix(case) for case, display in zip(table["case"], table["display"], strict=True)}
    )
    maps = " or ".join(f"CASE{kind}" for kind in kinds)
    scale = "0 to 100: percent of normal voxels that score lower"
    if any(kind.endswith(".png") for kind in kinds):
        scale += "; black to white in a PNG"
    words = f"Heatmaps are in {output}/CASE/: load {maps} over the scan ({scale})."
    reports = [path for path in (Path(output) / case / "report.html" for case in table["case"]) if path.exists()]
    if len(reports) == 1:
        return f"{words}\nReport: {reports[0]}; open it in a browser, or run medanomaly view {output}."
    return f"{words}\nReports: {output}/CASE/report.html, a file a case." if reports else words


def register_setting(model: Path) -> bool:
    """True, where the chain of a model can register; ConfigError where it cannot."""
    if "register" not in (bundles.read_settings(model, "inference").get("preprocessing") or {}):
        raise ConfigError(
            f"--register was asked for, but the model {model} prepares its cases without it: films are not registered, "
            "and a model of an older version must be trained again."
        )
    return True


def sign_setting(model: Path, sign: str | None) -> dict[str, str]:
    """The setting ``sign`` for scoring with a model: what is asked for, or what its config has; empty if it has none.

    Raises:
        ConfigError: if a sign is asked of a model whose score has none, or is not a sign.
    """
    if sign not in (None, "both", "bright", "dark"):
        raise ConfigError(f"--sign is {sign!r}: use one of both, bright, dark.")
    own = bundles.read_settings(model, "inference").get("sign")
    if own is None and sign not in (None, "both"):
        raise ConfigError(
            f"--sign {sign} was asked for, but the score of the model {model} does not tell brighter from darker: "
            "leave out --sign, or train a detector that does, such as denoising_autoencoder."
        )
    return {} if own is None else {"sign": sign or own}
