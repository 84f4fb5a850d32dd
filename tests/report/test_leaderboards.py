"""Leaderboards: means with their spreads, as Markdown and as what fits into a terminal."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from medanomaly.report.leaderboards import leaderboard_table, markdown_table, readable


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
