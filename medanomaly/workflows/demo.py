"""The demo: the whole flow on a made cohort, over the same bundle and the same commands as real work."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from medanomaly.data import heatmap_path, make_demo_cohort, read_datalist, require_folder
from medanomaly.data.demo_cohort import CONTRASTS, LESION_KINDS, LESION_RADIUS_MM
from medanomaly.errors import InputError
from medanomaly.experiments.bundles import copy_bundle, run_bundle
from medanomaly.report import case_figure

DEMO_SETTINGS = {
    "in_channels": len(CONTRASTS),
    "spacing": [1.0, 1.0, 3.0],
    "max_epochs": 12,
    "patience": 4,
}


def run_demo(output: str | Path, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Make a cohort, train on its healthy subjects, score the others, evaluate, and draw.

    Args:
        output: folder for everything: ``cohort/``, ``model/`` (a bundle), ``scores/``, ``evaluation/``, ``pictures/``.
        seed: of the cohort and of the training.
        settings: of the bundle, such as ``max_epochs``.

    Returns:
        The result of the evaluation.

    Raises:
        InputError: if ``output`` is a file, or holds something else than an earlier demo with the same seed, or
            settings are given for one whose training has begun.
    """
    require_folder(output)
    output = Path(output).resolve()
    if output.exists() and any(output.iterdir()) and not (output / "cohort").is_dir():
        raise InputError(f"{output} is not empty and holds no demo: give a new folder with --output.")
    cohort, model, scores = output / "cohort", output / "model", output / "scores"

    _say(1, f"making a cohort of healthy brains and brains with lesions in {cohort}")
    datalist = cohort / "datalist.json"
    if not datalist.exists():
        make_demo_cohort(cohort, seed=seed)
    elif json.loads(datalist.read_text()).get("seed") != seed:
        raise InputError(f"{output} holds a demo with another seed: give a new folder with --output.")

    _say(2, "training GANomaly on the healthy ones")
    if not (model / "checkpoints" / "last.pt").exists():
        copy_bundle("ganomaly", model, {**DEMO_SETTINGS, "seed": seed, "datalist": datalist, **settings})
    elif settings:
        raise InputError(f"{output} holds a demo with settings of its own: give a new folder with --output.")
    if not (model / "models" / "model.pt").exists():
        run_bundle(model, "train", resume=True)

    _say(3, f"scoring the test subjects, heatmaps in {scores}")
    run_bundle(model, "inference", output_dir=scores)

    _say(4, "evaluating against the known lesions")
    evaluation = output / "evaluation"
    run_bundle(model, "evaluate", scores_dir=scores, output_dir=evaluation)

    _say(5, "drawing")
    for case in read_datalist(datalist, "test"):
        case_figure(
            case["image"],
            heatmap_path(scores, case["case"], "display"),
            output / "pictures" / f"{case['case']}.png",
            label=case["label"],
            names=[f"{name.upper()}-like" for name in CONTRASTS],
            title=case["case"],
        )
    return dict(json.loads((evaluation / "metrics.json").read_text()))


def closing_words(output: str | Path) -> str:
    """What the demo's lesions were, where its results lie, and the three commands for one's own scans."""
    program = "medanomaly" if shutil.which("medanomaly") else sys.argv[0]  # make runs it without activating .venv
    low, high = LESION_RADIUS_MM
    kinds = "\n".join(
        f"  {kind:8}" + ", ".join(f"{channel} {factor:g}" for channel, factor in factors.items())
        for kind, factors in LESION_KINDS.items()
    )
    return f"""
Half of the test subjects of this made cohort have 2 to 4 lesions of each kind in the white matter, {low:g} to
{high:g} mm in radius. Their signal, in units of the white matter around them:
{kinds}
Made brains are simpler than real ones: the table shows that the flow works and that the detector learns, not how
well it does in a clinic.

Results in {output}:
  pictures/              scans with heatmaps and the lesions' outlines
  scores/CASE/           raw heatmap (NaN outside the brain) and display map (0 to 100), on the grid of the scan
  evaluation/            metrics.json, detectors.csv, cases.csv, roc.png
  model/                 a MONAI bundle, ready for `python -m monai.bundle run`

Next, with your own scans (a datalist names them; see README, "Your data"):
  {program} train    --datalist cohort.json --output runs/mine
  {program} score    scan.nii.gz --brain mask.nii.gz --model runs/mine --output out
  {program} evaluate --datalist cohort.json --scores out
"""


def _say(step: int, what: str) -> None:
    print(f"[{step}/5] {what}", flush=True)
