"""The engine of benchmarks on made experiments: what is reused, refused, resumed and joined, and what is trained."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import medanomaly
from medanomaly import cli
from medanomaly.errors import InputError
from medanomaly.experiments import EXPERIMENTS, find_experiment
from medanomaly.report.provenance import current_commit
from medanomaly.workflows.benchmark import Experiment, Run, grouped, run_benchmark
from medanomaly.workflows.scorers import Cohort, Scorer

NOTHING = Cohort([], [], [], chain=None)


class Coins:
    """An experiment without training, whose "figure" is the seed over 10."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"size": 3, "shape": (1, 2)}
        self.measured: list[str] = []
        self.fail_at: str | None = None
        self.further: dict[str, Any] = {}

    @property
    def experiment(self) -> Experiment:
        named = ("coins", ("intensity", "intensity-smoothed"), self.runs, lambda *_: NOTHING, self.measure)
        return Experiment(*named, self.leaderboard, self.origin, self.pictures, shared=("size",), **self.further)

    def runs(self, detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
        options = {**self.options, "reduced": reduced}
        return [Run(detector, "heads", seed, options=options) for detector in detectors for seed in seeds]

    def measure(self, run: Run, scorer: Scorer, cohort: Cohort, root: Path | None, folder: Path) -> dict[str, Any]:
        steps = folder / "steps.txt"
        steps.write_text((steps.read_text() if steps.exists() else "") + "half ")
        if run.id == self.fail_at:
            raise KeyboardInterrupt
        self.measured.append(run.id)
        return {"figure": run.seed / 10, "steps": steps.read_text(), "undefined": float("nan")}

    def origin(self, run: Run) -> dict[str, str]:
        return {"trained_on": f"{run.detector} coins", "settings_chosen": "by a toss"}

    def leaderboard(self, results: Sequence[Any]) -> pd.DataFrame:
        rows = []
        for (detector, _), group in grouped(results).items():
            figures = [result["metrics"]["figure"] for result in group]
            spread = float(np.std(figures, ddof=1)) if len(figures) > 1 else np.nan
            rows.append({"detector": detector, "figure": np.mean(figures), "figure sd": spread, "n": len(figures)})
        return pd.DataFrame(rows)

    def pictures(self, results: Sequence[Any], output: Path) -> None:
        (output / "picture.txt").write_text(" ".join(f"{r['detector']}{r['seed']}" for r in results))


@pytest.fixture
def coins() -> Coins:
    return Coins()


PLAIN, SMOOTHED = ["intensity"], ["intensity-smoothed"]


def test_results_leaderboard_and_pictures(coins: Coins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_benchmark(coins.experiment, None, [2, 1], "data", tmp_path)
    assert folder == tmp_path / "coins"
    text = (folder / "results" / "intensity-smoothed_heads_seed2.json").read_text()
    result = json.loads(text)
    expected = {"experiment": "coins", "detector": "intensity-smoothed", "setting": "heads", "seed": 2}
    assert {key: result[key] for key in expected} == expected
    assert result["settings"]["options"] == {"size": 3, "shape": [1, 2], "reduced": False}
    assert result["settings"]["bundle"] is None and result["changed_settings"] == {}
    assert result["metrics"]["figure"] == 0.2 and result["metrics"]["undefined"] is None and "NaN" not in text
    more = "arguments settings changed_settings trained_on settings_chosen commit date version machine seconds costs"
    assert set(result) - set(expected) == {*more.split(), "metrics"} and len(text.splitlines()) == 1
    assert result["machine"]["torch"] == torch.__version__
    table = pd.read_csv(folder / "leaderboard.csv")
    assert list(table["detector"]) == ["intensity", "intensity-smoothed"] and list(table["n"]) == [2, 2]
    text = (folder / "leaderboard.md").read_text()
    assert "| intensity | 0.150 ± 0.071 | 2 |" in text
    assert "--detectors intensity,intensity-smoothed --seeds 1,2 --data-root data" in text and "Seeds: 1, 2" in text
    assert "- intensity: trained on intensity coins; settings: by a toss" in text and "Beware" not in text
    pictured = "intensity1 intensity2 intensity-smoothed1 intensity-smoothed2"
    assert (folder / "picture.txt").read_text() == pictured
    printed = "".join(capsys.readouterr())
    assert "[1/4] intensity_heads_seed2" in printed and "figure 0.200" in printed and "0.150 ± 0.071" in printed


def test_what_is_there_is_reused(coins: Coins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path)
    run_benchmark(coins.experiment, PLAIN, [0, 1], None, tmp_path)
    assert coins.measured == ["intensity_heads_seed0", "intensity_heads_seed1"]
    assert "intensity_heads_seed0: done already" in capsys.readouterr().err
    run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path, reduced=True)
    assert len(coins.measured) == 3 and (tmp_path / "coins-reduced" / "leaderboard.md").exists()


def test_a_further_table_stands_below_ours(coins: Coins, tmp_path: Path) -> None:
    folder = run_benchmark(coins.experiment, PLAIN, [0, 1], None, tmp_path)
    ours, provenance = (folder / "leaderboard.md").read_text().split("\n\n")
    coins.further = {"further_table": lambda results: f"| ours | paper |\n| {len(results)} | 7 |\n"}
    run_benchmark(coins.experiment, PLAIN, [0, 1], None, tmp_path)
    assert (folder / "leaderboard.md").read_text() == f"{ours}\n\n| ours | paper |\n| 2 | 7 |\n\n{provenance}"


def test_other_settings_are_refused_before_anything_runs(coins: Coins, tmp_path: Path) -> None:
    run_benchmark(coins.experiment, SMOOTHED, [0], None, tmp_path)
    coins.options["size"] = 4
    words = r"intensity-smoothed_heads_seed0.json was made with size=3, and size=4 is asked for.*--output"
    with pytest.raises(InputError, match=words):
        run_benchmark(coins.experiment, None, [0], None, tmp_path)
    assert coins.measured == ["intensity-smoothed_heads_seed0"]


def test_rows_on_other_terms_are_refused_before_anything_runs(coins: Coins, tmp_path: Path) -> None:
    run_benchmark(coins.experiment, SMOOTHED, [0], None, tmp_path)
    with pytest.raises(InputError, match=r"seed0.json was made with size=3, and size=4 .* on equal terms"):
        run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path, settings={"size": 4})
    run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path, settings={"shape": [9]})  # a row's own affair
    assert len(coins.measured) == 2


def test_settings_can_be_changed_and_the_results_say_so(coins: Coins, tmp_path: Path) -> None:
    changed = {"size": 5, "shape": [2, 2]}
    folder = run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path / "a folder", settings=changed)
    result = json.loads((folder / "results" / "intensity_heads_seed0.json").read_text())
    assert result["settings"]["options"] == {**changed, "reduced": False}
    assert result["changed_settings"] == changed
    with pytest.raises(InputError, match=r"made with shape=\[2, 2\], and shape=\[1, 2\] is asked for"):
        run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path / "a folder")
    with pytest.raises(InputError, match="no setting 'edge'; they have reduced, shape, size"):
        run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path, settings={"edge": 1})
    assert len(coins.measured) == 1


def test_the_command_below_the_table_is_that_of_its_runs(
    coins: Coins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coins.further = {"arguments": ("coins", "--datalist", "my list.json")}
    changed = {"size": 5, "shape": [2, 2], "reduced": "so so"}
    folder = run_benchmark(coins.experiment, PLAIN, [0, 3], "data", tmp_path / "a folder", True, changed)
    (command,) = [line for line in (folder / "leaderboard.md").read_text().splitlines() if "Command" in line]
    asked: list[Any] = []
    monkeypatch.setattr("medanomaly.experiments.find_experiment", lambda *a: asked.append(a) or coins.experiment)
    monkeypatch.setattr(sys.modules[run_benchmark.__module__], "run_benchmark", lambda experiment, *a: asked.append(a))
    program, *arguments = shlex.split(command.split("`")[1])
    ran = CliRunner().invoke(cli.app, arguments)
    assert program == "medanomaly" and ran.exit_code == 0, ran.output
    assert asked[0] == ("coins", Path("my list.json"), Path("data"))
    assert asked[1] == (PLAIN, [0, 3], Path("data"), tmp_path / "a folder", True, changed)


def test_an_interrupted_run_leaves_no_result_and_goes_on(coins: Coins, tmp_path: Path) -> None:
    coins.fail_at = "intensity_heads_seed1"
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(coins.experiment, PLAIN, [0, 1], None, tmp_path)
    folder = tmp_path / "coins"
    assert [file.name for file in (folder / "results").iterdir()] == ["intensity_heads_seed0.json"]
    assert pd.read_csv(folder / "leaderboard.csv")["n"].tolist() == [1]
    clock = folder / "runs" / "intensity_heads_seed1" / "seconds.json"
    assert json.loads(clock.read_text())["seconds"] > 0
    clock.write_text('{"seconds": 100.0}')

    coins.options["shape"] = (3, 4)
    with pytest.raises(InputError, match=r"run.json was made with shape=\[1, 2\]"):  # half of it is of other settings
        run_benchmark(coins.experiment, PLAIN, [1], None, tmp_path)
    coins.options["shape"], coins.fail_at = (1, 2), None
    run_benchmark(coins.experiment, PLAIN, [0, 1], None, tmp_path)
    result = json.loads((folder / "results" / "intensity_heads_seed1.json").read_text())
    assert result["metrics"]["steps"] == "half half " and 100 <= result["seconds"] < 105
    assert not [path for path in folder.rglob("*") if "tmp" in path.name], "nothing is half-written"


def test_the_results_of_two_processes_are_joined(coins: Coins, tmp_path: Path) -> None:
    run_benchmark(coins.experiment, SMOOTHED, [0], None, tmp_path)
    run_benchmark(coins.experiment, PLAIN, [1], None, tmp_path)  # of these two, either could be another process
    assert (tmp_path / "coins" / "picture.txt").read_text() == "intensity1 intensity-smoothed0"
    assert list(pd.read_csv(tmp_path / "coins" / "leaderboard.csv")["detector"]) == ["intensity", "intensity-smoothed"]


def test_seeds_with_different_settings_are_pointed_out(coins: Coins, tmp_path: Path) -> None:
    run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path)
    coins.options["shape"] = (7,)
    run_benchmark(coins.experiment, PLAIN, [1], None, tmp_path)
    assert "Beware: the seeds of intensity, heads" in (tmp_path / "coins" / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("detectors", "seeds", "words"),
    [
        (["intensity", "square"], [0], "no detector 'square'; it has intensity, intensity-smoothed"),
        ([], [0], "name some of intensity"),
        (None, [], "no seeds"),
    ],
)
def test_unknown_names_and_empty_lists(
    detectors: list[str] | None, seeds: list[int], words: str, coins: Coins, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        run_benchmark(coins.experiment, detectors, seeds, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_experiments_are_found_by_name(tmp_path: Path) -> None:
    own = [name for name in EXPERIMENTS if name not in ("white-matter", "tumours")]  # those are made from their data
    assert [find_experiment(name).name for name in own] == own
    with pytest.raises(InputError, match="no benchmark 'stamps'; there are cohort, fashion-mnist"):
        find_experiment("stamps")
    with pytest.raises(InputError, match="toy-lesions has data of its own"):
        find_experiment("toy-lesions", tmp_path / "datalist.json")


def test_a_result_that_is_no_json_is_named(coins: Coins, tmp_path: Path) -> None:
    run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path)
    (tmp_path / "coins" / "results" / "intensity_heads_seed0.json").write_text("{")
    with pytest.raises(InputError, match=r"seed0.json is not a result of a benchmark .*delete it"):
        run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path)


def test_an_output_that_is_a_file_is_refused(coins: Coins, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        run_benchmark(coins.experiment, PLAIN, [0], None, tmp_path / "file")
    assert coins.measured == []


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(medanomaly.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert current_commit() in (head, f"{head}-dirty")
