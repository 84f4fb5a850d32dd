"""The terminal: what goes to stdout and what to stderr, what --quiet and --json leave, and the one style of bars."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import redirect_stderr

import numpy as np
import pytest
from ignite.engine import Engine
from rich.table import Table

from medanomaly import terminal


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    terminal.be_quiet(False)
    terminal.answer_in_json(False)


class Screen(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Screen()


def tell_all() -> None:
    table = Table()
    table.add_column("figure")
    terminal.say("on the way")
    terminal.warn("mind this")
    terminal.show(table)
    terminal.result("the end", {"auroc": np.float64(0.5), "nothing": float("nan"), "n": np.int64(3), "all": (1, 2)})


def test_messages_go_to_stderr_and_results_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    tell_all()
    printed = capsys.readouterr()
    assert printed.err == "on the way\nWarning: mind this\n"
    assert "figure" in printed.out and printed.out.endswith("the end\n")


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.be_quiet()
    tell_all()
    assert capsys.readouterr() == ("", "Warning: mind this\n")


def test_json_is_all_that_stdout_gets(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.answer_in_json()
    tell_all()
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"auroc": 0.5, "nothing": None, "n": 3, "all": [1, 2]}
    assert "on the way" in printed.err


def test_an_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.answer_in_json()
    terminal.tell_error("no such file [a]", 3)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": "no such file [a]", "exit_code": 3}
    assert printed.err == "\nError: no such file [a]\n"


def test_long_messages_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    words = "/a/path/" + "folder/" * 60
    terminal.say(words)
    assert capsys.readouterr().err == f"{words}\n"


def test_in_a_file_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(terminal.progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_bars_stand_below_each_other_and_leave_nothing_behind(screen: Screen) -> None:
    with redirect_stderr(screen):
        for _ in terminal.progress(range(2), "outer"):
            with terminal.bar("inner", 4) as inner:
                inner.advance(2)
                terminal.say("a line between")
                inner.update("later", 8)
                bars = terminal._output.bars
                assert bars is not None
                bars.refresh()
    assert terminal._output.bars is None
    shown = screen.getvalue()
    assert "outer" in shown and "later" in shown and shown.count("a line between") == 2
    assert shown.index("outer") < shown.index("later")


def test_an_error_within_takes_the_bars_away(screen: Screen) -> None:
    with redirect_stderr(screen), pytest.raises(ZeroDivisionError), terminal.bar("dividing", 3):
        _ = 1 / 0
    assert terminal._output.bars is None


def test_quiet_and_unwanted_bars_do_not_show(screen: Screen) -> None:
    with redirect_stderr(screen):
        assert list(terminal.progress([1], "unwanted", wanted=False)) == [1]
        terminal.be_quiet()
        assert list(terminal.progress([1], "quiet")) == [1]
    assert screen.getvalue() == ""


def test_an_engine_has_a_bar_over_its_batches_and_keeps_its_errors(screen: Screen) -> None:
    def step(engine: Engine, number: int) -> None:
        bars = terminal._output.bars
        assert (bars is None) == (engine.state.epoch_length == 1), "a single case needs no bar over cases"
        if bars is not None:
            bars.refresh()
        if number == 7:
            raise ValueError("this case")

    with redirect_stderr(screen):
        for batches in ([1, 2, 3], [1]):
            engine = Engine(step)
            terminal.EngineBar("scoring cases").attach(engine)
            engine.run(batches)
            assert terminal._output.bars is None
        logging.getLogger("ignite").setLevel(logging.CRITICAL)
        with pytest.raises(ValueError, match="this case"):
            engine.run([1, 7])
    assert terminal._output.bars is None
    assert "scoring cases" in screen.getvalue() and "67%" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (0, "0 s")]
)
def test_times_are_read_by_people(seconds: float, words: str) -> None:
    assert terminal.time_in_words(seconds) == words
