"""The demo: the whole flow on a made cohort, over the same bundles and the same commands as real work."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medanomaly.data import demo_cohort, heatmap_path, read_datalist, require_folder
from medanomaly.errors import InputError
from medanomaly.terminal import say
from medanomaly.workflows.evaluate import compare
from medanomaly.workflows.score import score
from medanomaly.workflows.settings import check_value
from medanomaly.workflows.train import train

DETECTORS: dict[str, dict[str, Any]] = {  # bundle -> its settings: small, for two cores and four minutes
    "ganomaly": {"max_epochs": 6, "patches_per_epoch": 6400, "stride": 8},
    "fusion": {
        "max_epochs": 3,
        "patches_per_epoch": 800,
        "patch_size": 32,
        "stride": 24,
        "members": [
            {"detector": "denoising_autoencoder", "features": 8},
            {"detector": "synthetic_anomalies", "features": 8},
        ],
    },
}
SHARED_SETTINGS = {"spacing": [1.0, 1.0, 3.0]}


def demo(output: str | Path = "demo", seed: int = 0, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make a cohort, train on its healthy subjects, score the others, evaluate, and draw.

    Args:
        output: folder for everything: ``cohort/``, ``models/`` (bundles), ``scores/``, ``evaluation/``, ``pictures/``.
        seed: of the cohort and of the trainings.
        settings: of the bundles, such as ``max_epochs``; each of them must have it.

    Returns:
        The content of ``metrics.json``: ``detectors`` holds plain intensity, GANomaly and the fusion.

    Raises:
        InputError: if ``output`` is a file, or holds something else than an earlier demo with the same seed, or
            settings are given for one whose training has begun.
    """
    for key, value in (settings or {}).items():
        check_value(key, value)
    require_folder(output)
    output = Path(output).resolve()
    if output.exists() and any(output.iterdir()) and not (output / "cohort").is_dir():
        raise InputError(f"{output} is not empty and does not hold a demo: give a new folder with --output.")
    cohort = output / "cohort"

    say(f"[1/5] making a cohort of healthy brains and brains with lesions in {cohort}")
    datalist = cohort / "datalist.json"
    if not datalist.exists():
        demo_cohort.make_demo_cohort(cohort, seed=seed)
    elif json.loads(datalist.read_text(encoding="utf-8")).get("seed") != seed:
        raise InputError(f"{output} holds a demo with another seed: give a new folder with --output.")

    models, scores = ({name: output / kind / name for name in DETECTORS} for kind in ("models", "scores"))
    say("[2/5] training GANomaly and a fusion of two detectors on the healthy ones")
    if settings and any((model / "checkpoints" / "last.pt").exists() for model in models.values()):
        raise InputError(f"{output} holds a demo with settings of its own: give a new folder with --output.")
    for name, model in models.items():
        if (model / "models" / "model.pt").exists():
            continue
        if (model / "checkpoints" / "last.pt").exists():
            train(output=model, resume=True)
        else:
            chosen = {**SHARED_SETTINGS, **DETECTORS[name], **(settings or {})}
            train(datalist, model, bundle=name, seed=seed, settings=chosen)

    say(f"[3/5] scoring the test subjects, heatmaps in {output / 'scores'}")
    for name, model in models.items():
        score(model=model, output=scores[name], datalist=datalist)

    say("[4/5] evaluating against the known lesions, beside plain brightness")
    result = compare(datalist, list(scores.values()), output / "evaluation")

    say("[5/5] drawing")
    _draw(datalist, scores, output / "pictures")
    return result


def _draw(datalist: Path, scores: Mapping[str, Path], pictures: Path) -> None:
    """A picture for each test case and detector."""
    from medanomaly.report import case_figure

    for name, folder in scores.items():
        for case in read_datalist(datalist, "test"):
            case_figure(
                case["image"],
                heatmap_path(folder, case["case"], "display"),
                pictures / f"{case['case']}_{name}.png",
                label=case["label"],
                names=[f"{channel.upper()}-like" for channel in demo_cohort.CONTRASTS],
                title=f"{case['case']}, {name}",
            )


def closing_words(output: str | Path) -> str:
    """What the demo's lesions were, where its results lie, and the three commands for one's own scans."""
    program = "medanomaly" if shutil.which("medanomaly") else sys.argv[0]  # make runs it without activating .venv
    low, high = demo_cohort.LESION_RADIUS_MM
    kinds = "\n".join(
        f"  {kind:8}" + ", ".join(f"{channel} {factor:g}" for channel, factor in factors.items())
        for kind, factors in demo_cohort.LESION_KINDS.items()
    )
    return f"""
Half of the test subjects of this made cohort have 2 to 4 lesions of each kind in the white matter, {low:g} to
{high:g} mm in radius. Their signal, in units of the white matter around them:
{kinds}
Made brains are simpler than real ones: the table shows that the flow works and that the detectors learn, not how
well they do in a clinic.

Results in {output}:
  pictures/              scans with heatmaps and the lesions' outlines
  scores/*/CASE/         raw heatmap (NaN outside the brain) and display map (0 to 100), on the grid of the scan
  evaluation/            metrics.json, detectors.csv, cases.csv, roc.png
  models/*/              a MONAI bundle each, ready for `python -m monai.bundle run`

Open in a browser:
  {output}/evaluation/report.html
                         how good the detectors are, and links to the cases
  {output}/scores/fusion/CASE/report.html
                         a case in a viewer, with its regions

Next, with your own scans (a datalist names them; see README, "Your data"):
  {program} train    --datalist cohort.json --output runs/mine
  {program} score    scan.nii.gz --brain mask.nii.gz --model runs/mine --output out
  {program} evaluate --datalist cohort.json --scores out
"""
