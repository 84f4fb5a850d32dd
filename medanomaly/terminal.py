"""The one place that writes to a terminal: messages and bars to stderr; tables, closing words and JSON to stdout.

So what a command found can be piped or kept in a file, and what it says on the way cannot get into it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ignite.engine import Engine
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

Item = TypeVar("Item")
FILE_WIDTH = 160  # characters of a table, where the output is a file


@dataclass
class _Output:
    """What is wanted, and the bars that stand now."""

    quiet: bool = False
    as_json: bool = False
    bars: Progress | None = None
    n_bars: int = 0


_output = _Output()


def be_quiet(wanted: bool = True) -> None:
    """From now on, warnings and errors alone."""
    _output.quiet = wanted


def answer_in_json(wanted: bool = True) -> None:
    """From now on, on stdout nothing but what :func:`result` is given, as JSON."""
    _output.as_json = wanted


def say(words: str) -> None:
    """A message on the way, above the bars; nothing if the terminal is to be quiet."""
    if not _output.quiet:
        _write(words)


def warn(words: str) -> None:
    """``Warning: words``, even if the terminal is to be quiet."""
    _write(f"Warning: {words}", "yellow")


def tell_error(words: str, exit_code: int) -> None:
    """``Error: words``; with JSON, also as ``{"error": ..., "exit_code": ...}`` on stdout."""
    _write(f"\nError: {words}", "red")
    if _output.as_json:
        _print_json({"error": words, "exit_code": exit_code})


def result(words: str, content: Any = None) -> None:
    """What a command ends with: ``words`` for a person, or ``content`` for a program that asked for JSON."""
    if _output.as_json:
        _print_json(content)
    elif not _output.quiet:
        print(words)


def show(table: Table) -> None:
    """A table on stdout; where that is a file, never narrower than it needs."""
    if not (_output.quiet or _output.as_json):
        _tables().print(table)


def table_width() -> int:
    """Characters that a table may take."""
    return _tables().width


def _tables() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


class Bar:
    """A bar that stands in the terminal; see :func:`bar`."""

    def __init__(self, bars: Progress, what: str, total: float | None, done: float = 0) -> None:
        self._bars = bars
        self._task = bars.add_task(what, total=total, completed=done)  # type: ignore[arg-type]

    def advance(self, steps: float = 1) -> None:
        """Go on by ``steps`` of the total."""
        self._bars.advance(self._task, steps)

    def update(self, what: str | None = None, total: float | None = None) -> None:
        """Say something else, or correct how much there is to do."""
        self._bars.update(self._task, description=what, total=total)

    def remove(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)


@contextmanager
def bar(what: str, total: float | None, wanted: bool = True, done: float = 0) -> Iterator[Bar]:
    """A bar with the time that is left, in a terminal; in a file, nothing. Bars inside bars stand below each other.

    Args:
        what: is being done, in a few words.
        total: steps; None if that is not known.
        wanted: False for no bar.
        done: of the steps, before this time.
    """
    if not wanted:
        yield Bar(_progress(disable=True), what, total, done)
        return
    if _output.bars is None:
        _output.bars = _progress(disable=_output.quiet)
        _output.bars.start()
    bars = _output.bars
    _output.n_bars += 1
    own = Bar(bars, what, total, done)
    try:
        yield own
    finally:
        own.remove()
        _output.n_bars -= 1
        if _output.n_bars == 0:
            bars.stop()
            _output.bars = None


def progress(items: Iterable[Item], what: str, total: int | None = None, wanted: bool = True) -> Iterator[Item]:
    """``items``, one by one, with a bar; ``total`` if they have no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(what, total, wanted) as shown:
        for item in items:
            yield item
            shown.advance()


class EngineBar:
    """A handler for Ignite and MONAI engines: a bar over the batches of an epoch, if there are several.

    Args:
        what: is done with them, in a few words.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._open = ExitStack()
        self._bar: Bar | None = None

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _start(self, engine: Engine) -> None:
        n_batches = engine.state.epoch_length or 0
        self._bar = self._open.enter_context(bar(self.what, n_batches, n_batches > 1))

    def _advance(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.advance()

    def _stop(self, engine: Engine, error: BaseException | None = None) -> None:
        self._bar = None
        self._open.close()
        if error is not None:
            raise error  # which the engine leaves to its handlers, where there are any


def _progress(disable: bool) -> Progress:
    """The one style of bars."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        max_refresh = 1.0  # seconds: a guess that jumps four times a second cannot be read

        def render(self, task: Task) -> Text:
            left = task.time_remaining
            return Text("" if left is None else f"{time_in_words(left)} left", "cyan")

    console = _console()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        Left(),
        console=console,
        transient=True,
        refresh_per_second=4,
        speed_estimate_period=300,  # seconds: a training pauses for validation
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file is not to pass through the terminal
        disable=disable or not console.is_terminal,
    )


def time_in_words(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _write(words: str, style: str | None = None) -> None:
    console = _output.bars.console if _output.bars is not None else _console()
    console.print(words, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_json(content: Any) -> None:
    json.dump(_plain(content), sys.stdout, indent=1, allow_nan=False, default=str)
    print()


def _plain(content: Any) -> Any:
    """``content`` without NaN, which JSON does not have, and with plain numbers in place of NumPy's."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if hasattr(content, "item") and not isinstance(content, str):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content
