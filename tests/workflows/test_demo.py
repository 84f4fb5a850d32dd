"""The demo on a small cohort: one table with brightness, GANomaly and the fusion, and nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medanomaly.data import demo_cohort
from medanomaly.workflows import bundles, demo
from medanomaly.workflows.demo import closing_words

SMALL = {"max_epochs": 1, "patches_per_epoch": 32, "batch_size": 16, "spacing": [2, 2, 3]}


def test_the_demo_shows_brightness_ganomaly_and_the_fusion(
    cohort_maker: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path, seed: int) -> None:
        file = cohort_maker(folder, n_channels=2)
        file.write_text(json.dumps({**json.loads(file.read_text()), "seed": seed}))

    monkeypatch.setattr(demo_cohort, "make_demo_cohort", make)
    output = tmp_path / "demo"
    result = demo(output, seed=1, settings=SMALL)
    names = [row["name"] for row in result["detectors"]]
    assert names == ["intensity", "intensity, smoothed", "intensity, equalised", "GANomaly", "fusion"]
    assert all("case_level" in row for row in result["detectors"])
    assert {path.name for path in output.iterdir()} == {"cohort", "models", "scores", "evaluation", "pictures"}
    assert len(list((output / "pictures").glob("*.png"))) == 4, "two cases, two detectors"
    assert str(output) in closing_words(output)
    trained: list[str] = []
    run = bundles.run_bundle
    monkeypatch.setattr(
        bundles, "run_bundle", lambda root, config, **s: (trained.append(config), run(root, config, **s))
    )
    again = demo(output, seed=1)
    assert trained == ["inference", "inference"], "models are there already"
    assert again["detectors"] == result["detectors"]
