"""The runner of benchmarks, on a made experiment: what is reused, refused, resumed and joined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from medanomaly.experiments.benchmark import Run, make_detector, run_benchmark, train_detector
from rich.console import Console

from medanomaly.errors import ConfigError, InputError
from medanomaly.experiments import benchmark
from medanomaly.report.leaderboards import leaderboard_table, markdown_table, readable


class Coins(ModuleType):
    """An experiment without training, whose "figure" is the seed over 10."""

    DETECTORS = ("flat", "round")

    def __init__(self) -> None:
        super().__init__("coins")
        self.settings: dict[str, Any] = {"size": 3, "shape": (1, 2)}
        self.performed: list[str] = []
        self.fail_at: str | None = None

    def runs(self, detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
        settings = {**self.settings, "reduced": reduced}
        return [Run(detector, "heads", seed, settings) for detector in detectors for seed in seeds]

    def perform(self, run: Run, data_root: Path | None, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        steps = folder / "steps.txt"
        done = steps.read_text() if steps.exists() else ""
        steps.write_text(done + "half ")
        if run.id == self.fail_at:
            raise KeyboardInterrupt
        self.performed.append(run.id)
        return {"figure": run.seed / 10, "steps": steps.read_text()}

    def origin(self, run: Run) -> dict[str, str]:
        return {"trained_on": f"{run.detector} coins", "settings_chosen": "by a toss"}

    def leaderboard(self, results: Sequence[dict[str, Any]]) -> pd.DataFrame:
        rows = []
        for detector in dict.fromkeys(result["detector"] for result in results):
            figures = [result["metrics"]["figure"] for result in results if result["detector"] == detector]
            spread = float(np.std(figures, ddof=1)) if len(figures) > 1 else np.nan
            rows.append({"detector": detector, "figure": np.mean(figures), "figure sd": spread, "n": len(figures)})
        return pd.DataFrame(rows)

    def pictures(self, results: Sequence[dict[str, Any]], output: Path) -> None:
        (output / "picture.txt").write_text(" ".join(f"{r['detector']}{r['seed']}" for r in results))


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> Coins:
    experiment = Coins()
    monkeypatch.setitem(sys.modules, "coins", experiment)
    monkeypatch.setattr(benchmark, "EXPERIMENTS", {"coins": "coins"})
    return experiment


def test_results_leaderboard_and_pictures(coins: Coins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_benchmark("coins", None, [2, 1], "data", tmp_path)
    assert folder == tmp_path / "coins"
    result = json.loads((folder / "results" / "round_heads_seed2.json").read_text())
    expected = {"experiment": "coins", "detector": "round", "setting": "heads", "seed": 2}
    assert {key: result[key] for key in expected} == expected
    assert result["settings"] == {"size": 3, "shape": [1, 2], "reduced": False}
    assert result["metrics"]["figure"] == 0.2
    assert result["changed_settings"] == {}
    more = {
        "settings",
        "changed_settings",
        "trained_on",
        "settings_chosen",
        "commit",
        "date",
        "version",
        "machine",
        "seconds",
        "metrics",
    }
    assert set(result) - set(expected) == more
    assert result["machine"]["torch"] == torch.__version__
    table = pd.read_csv(folder / "leaderboard.csv")
    assert list(table["detector"]) == ["flat", "round"] and list(table["n"]) == [2, 2]
    text = (folder / "leaderboard.md").read_text()
    assert "| flat | 0.150 ± 0.071 | 2 |" in text
    assert "--detectors flat,round --seeds 1,2 --data-root data" in text and "Seeds: 1, 2" in text
    assert "Beware" not in text
    assert "- flat: trained on flat coins; settings: by a toss" in text
    assert (folder / "picture.txt").read_text() == "flat1 flat2 round1 round2"
    printed = capsys.readouterr().out
    assert "[1/4] flat_heads_seed2" in printed and "figure 0.200" in printed and "0.150 ± 0.071" in printed


def test_what_is_there_is_reused(coins: Coins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("coins", ["flat"], [0], None, tmp_path)
    run_benchmark("coins", ["flat"], [0, 1], None, tmp_path)
    assert coins.performed == ["flat_heads_seed0", "flat_heads_seed1"]
    assert "flat_heads_seed0: done already" in capsys.readouterr().out
    run_benchmark("coins", ["flat"], [0], None, tmp_path, reduced=True)
    assert len(coins.performed) == 3 and (tmp_path / "coins-reduced" / "leaderboard.md").exists()


def test_the_papers_table_stands_below_ours_if_there_is_one(coins: Coins, tmp_path: Path) -> None:
    folder = run_benchmark("coins", ["flat"], [0, 1], None, tmp_path)
    without = (folder / "leaderboard.md").read_text()
    coins.paper_table = lambda results: f"| ours | paper |\n| {len(results)} | 7 |\n"
    run_benchmark("coins", ["flat"], [0, 1], None, tmp_path)
    ours, provenance = without.split("\n\n")
    assert (folder / "leaderboard.md").read_text() == f"{ours}\n\n| ours | paper |\n| 2 | 7 |\n\n{provenance}"


def test_other_settings_are_refused_before_anything_runs(coins: Coins, tmp_path: Path) -> None:
    run_benchmark("coins", ["round"], [0], None, tmp_path)
    coins.settings["size"] = 4
    with pytest.raises(
        InputError, match=r"round_heads_seed0.json was made with size=3, and size=4 is asked for.*--output"
    ):
        run_benchmark("coins", ["flat", "round"], [0], None, tmp_path)
    assert coins.performed == ["round_heads_seed0"]


def test_settings_can_be_changed_and_the_results_say_so(coins: Coins, tmp_path: Path) -> None:
    folder = run_benchmark("coins", ["flat"], [0], None, tmp_path, settings={"size": 5, "shape": [2, 2]})
    result = json.loads((folder / "results" / "flat_heads_seed0.json").read_text())
    assert result["settings"] == {"size": 5, "shape": [2, 2], "reduced": False}
    assert result["changed_settings"] == {"size": 5, "shape": [2, 2]}
    assert "--set size=5 --set shape=[2, 2] --output" in (folder / "leaderboard.md").read_text()
    with pytest.raises(InputError, match=r"made with shape=\[2, 2\], and shape=\[1, 2\] is asked for"):
        run_benchmark("coins", ["flat"], [0], None, tmp_path)
    with pytest.raises(InputError, match="no setting 'edge'; they have reduced, shape, size"):
        run_benchmark("coins", ["flat"], [0], None, tmp_path, settings={"edge": 1})
    assert len(coins.performed) == 1


def test_an_interrupted_run_leaves_no_result_and_goes_on(coins: Coins, tmp_path: Path) -> None:
    coins.fail_at = "flat_heads_seed1"
    with pytest.raises(KeyboardInterrupt):
        run_benchmark("coins", ["flat"], [0, 1], None, tmp_path)
    folder = tmp_path / "coins"
    assert [file.name for file in (folder / "results").iterdir()] == ["flat_heads_seed0.json"]
    assert pd.read_csv(folder / "leaderboard.csv")["n"].tolist() == [1]
    before = json.loads((folder / "runs" / "flat_heads_seed1" / "run.json").read_text())["seconds"]

    coins.settings["size"] = 4
    with pytest.raises(InputError, match="seed1"):  # half of it was trained with other settings
        run_benchmark("coins", ["flat"], [1], None, tmp_path)
    coins.settings["size"], coins.fail_at = 3, None
    run_benchmark("coins", ["flat"], [0, 1], None, tmp_path)
    result = json.loads((folder / "results" / "flat_heads_seed1.json").read_text())
    assert result["metrics"]["steps"] == "half half " and before > 0
    assert json.loads((folder / "runs" / "flat_heads_seed1" / "run.json").read_text())["seconds"] > before


def test_the_results_of_two_processes_are_joined(coins: Coins, tmp_path: Path) -> None:
    run_benchmark("coins", ["round"], [0], None, tmp_path)
    run_benchmark("coins", ["flat"], [1], None, tmp_path)  # of these two, either could be another process
    assert (tmp_path / "coins" / "picture.txt").read_text() == "flat1 round0"
    assert list(pd.read_csv(tmp_path / "coins" / "leaderboard.csv")["detector"]) == ["flat", "round"]


def test_seeds_with_different_settings_are_pointed_out(coins: Coins, tmp_path: Path) -> None:
    run_benchmark("coins", ["flat"], [0], None, tmp_path)
    coins.settings["size"] = 4
    run_benchmark("coins", ["flat"], [1], None, tmp_path)
    assert "Beware: the seeds of flat, heads" in (tmp_path / "coins" / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stamps", None, [0]), "no benchmark 'stamps'; there are coins"),
        (("coins", ["flat", "square"], [0]), "no detector 'square'; it has flat, round"),
        (("coins", [], [0]), "name some of flat, round"),
        (("coins", None, []), "no seeds"),
    ],
)
def test_unknown_names_and_empty_lists(arguments: Any, words: str, coins: Coins, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        run_benchmark(*arguments, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_no_json_is_named(coins: Coins, tmp_path: Path) -> None:
    run_benchmark("coins", ["flat"], [0], None, tmp_path)
    (tmp_path / "coins" / "results" / "flat_heads_seed0.json").write_text("{")
    with pytest.raises(InputError, match=r"flat_heads_seed0\.json is no result"):
        run_benchmark("coins", ["flat"], [0], None, tmp_path)


def test_the_commit_is_that_of_the_checkout() -> None:
    from medanomaly.experiments.provenance import current_commit

    root = Path(benchmark.__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert current_commit() in (head, f"{head}-dirty")


def test_a_detector_is_made_by_name_and_seed() -> None:
    first, again, other = (make_detector("ganomaly-k", seed, patch_size=16, features=8) for seed in (0, 0, 1))
    assert first.variant == "K" and make_detector("ganomaly-a", 0, features=8).variant == "A"
    weights = [torch.cat([p.flatten() for p in network.parameters()]) for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ConfigError, match=r"no detector 'ganomaly'.*ganomaly-a"):
        make_detector("ganomaly", 0)


class Noise:
    """The same few batches in each epoch."""

    def __init__(self, n: int) -> None:
        self.batches = list(torch.rand(n, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        self.set_epoch = lambda epoch: None
        self.passes = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(self.batches)


def test_a_training_is_made_once_and_comes_back_in_eval_mode(tmp_path: Path) -> None:
    def trained(training: Noise) -> torch.nn.Module:
        network = make_detector("ganomaly-a", 3, features=8)
        return train_detector(
            network, training, Noise(1), tmp_path, seed=3, max_epochs=2, patience=5, decay=False, amp=False
        )

    first = trained(Noise(2))
    assert (tmp_path / "model.pt").exists() and (tmp_path / "checkpoints" / "last.pt").exists()
    untouched = Noise(2)
    again = trained(untouched)
    assert untouched.passes == 0 and not again.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    start = make_detector("ganomaly-a", 3, features=8).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in again.state_dict().items())


def test_tables_show_spreads_behind_their_means() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "x": [0.5, np.nan], "x sd": [0.01, np.nan], "n": [3, 1]})
    assert readable(frame) == [["name", "x", "n"], ["a", "0.500 ± 0.010", "3"], ["b", "-", "1"]]
    assert markdown_table(frame).splitlines()[1:3] == ["| --- | --- | --- |", "| a | 0.500 ± 0.010 | 3 |"]
    assert [column.justify for column in leaderboard_table(frame, "").columns] == ["left", "right", "right"]


@pytest.mark.parametrize("width", [56, 100, 160, 500])
def test_a_wide_table_shows_in_the_terminal_the_columns_that_fit(width: int) -> None:
    columns = {f"AUROC of thing {n}": [0.5 + n / 100] for n in range(20)}
    spreads = {f"{column} sd": [0.01] for column in columns}
    table = leaderboard_table(pd.DataFrame({"detector": ["progressive-ganomaly"], **columns, **spreads}), "all", width)
    console = Console(width=width, file=StringIO())
    console.print(table)
    lines = console.file.getvalue().splitlines()
    shown = min((width - 24) // 16, 20)  # "│ progressive-ganomaly │", then " 0.500 ± 0.010 │"
    (row,) = [line for line in lines if "progressive" in line]
    assert row.split("│")[2:-1] == [f" {0.5 + n / 100:.3f} ± 0.010 " for n in range(shown)]
    left_out = f"columns left out: {20 - shown}; leaderboard.md has all of them"
    assert lines[-1].strip() == left_out if shown < 20 else table.caption is None
