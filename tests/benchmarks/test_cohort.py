"""The benchmark of large cohorts on a tiny one: what it makes, trains on and reports. Nothing here asserts a time."""

from __future__ import annotations

import torch

from benchmarks import cohort


def test_cases_differ_and_lie_as_the_cache_keeps_them(tmp_path):
    cohort.make_cases(tmp_path, 3, 20)
    cases = cohort.Cases(tmp_path, range(1, 3))
    assert len(cases) == 2
    for case, number in zip((cases[0], cases[1]), "12", strict=True):
        assert case["case"] == number and case["image"].kept_in.file == tmp_path / f"{number}.case"
        assert not case["image"][case["region"] == 0].any() and (case["image"][case["region"] > 0] > 0).all()
    assert not torch.equal(cases[0]["image"], cases[1]["image"])


def test_epochs_but_the_first_are_measured(tmp_path):
    cohort.make_cases(tmp_path, 3, 24)
    found = cohort.measure(tmp_path, cohort.Setting(2, 3, 128, 0), torch.device("cpu"))
    assert len(found["wall"]) == len(found["cpu"]) == 2
    assert found["peak"] is None or found["peak"] > 1e8


def test_gates_ask_for_memory_and_time():
    memory, time, work = cohort.gates(cohort.FULL, {"few": 2.0, "many": 2.2}, {"few": 2.0, "many": 2.4}, [2.5e9, 2e9])
    assert (memory.met, time.met, work.met) == (True, True, False)
    assert "300 volumes of 192^3" in memory.name and memory.measured == "2.5 GB"
    assert cohort.gates(cohort.FULL, {"few": 1, "many": 1}, {"few": 1, "many": 1}, [None])[0].met is None
