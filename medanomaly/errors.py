"""Every exception that a user can meet.

A message names the file or key, the value that was found, the value that is needed, and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
from numbers import Integral
from types import TracebackType
from typing import Any, ClassVar

from medanomaly.terminal import tell_error


class MedanomalyError(Exception):
    """Base of all errors that are meant for people: the command line prints the message and no trace.

    ``exit_code`` is what the command line then ends with.
    """

    exit_code: ClassVar[int] = 1


class InputError(MedanomalyError, ValueError):
    """What the user gave cannot be used: a path, a volume, a mask, a datalist, a score map."""

    exit_code = 3


class ConfigError(MedanomalyError, ValueError):
    """A setting of a detector, a bundle or a command has a value that cannot work."""

    exit_code = 2  # that of an option that does not exist, too


class TrainingError(MedanomalyError, RuntimeError):
    """Training went wrong in a way that would leave a useless detector (a loss that is not finite, a dead code)."""

    exit_code = 4


def check_count(name: str, value: Any) -> None:
    """Raise ConfigError if the setting ``name`` is not a whole number of at least 1; True is not one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name} is {value!r}, but a whole number of at least 1 is needed: set {name} to one.")


def plain_error(error: BaseException | None) -> MedanomalyError | None:
    """The first medanomaly error in a chain of causes, or None if there is none.

    MONAI wraps what a config raises in errors of its own, so the cause that a person needs stands deep in the chain.
    """
    while error is not None:
        if isinstance(error, MedanomalyError):
            return error
        error = error.__cause__ or error.__context__
    return None


def report_plainly() -> None:
    """Let an uncaught medanomaly error end a program with its message instead of a trace of 60 lines.

    The bundles call this when they are initialised, so that ``python -m monai.bundle run`` is as plain as the command
    line. Set ``MEDANOMALY_TRACEBACK=1`` to see the whole trace.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        plain = plain_error(error)
        if plain is None or os.environ.get("MEDANOMALY_TRACEBACK"):
            previous(kind, error, trace)
        else:
            tell_error(str(plain), 1)  # the code that Python ends with, whatever a hook does

    sys.excepthook = hook
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)  # it would say the same, with object addresses
