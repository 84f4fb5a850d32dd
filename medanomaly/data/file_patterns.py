"""Patterns of file names: a glob whose ``{words}`` say what the parts of a name mean.

In ``"sub-{case}/ses-*/anat/*_{channel}.nii.gz"`` a word in braces stands for a part of the name without a slash, the
same wherever it is repeated, ``*`` for any part without a slash, ``?`` for one sign, and ``**/`` for any folders, or
none. A pattern that ends in ``/`` means folders, such as those of a DICOM series.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

WORD = re.compile(r"\{(\w+)\}")
TOKENS = re.compile(r"\{\w+\}|\*\*/|[*?]|[^{*?]+|.")


def words_of(pattern: str) -> list[str]:
    """The words in braces, in their order, each once.

    >>> words_of("{patient}_{scan}/{patient}_FLAIR.nii.gz")
    ['patient', 'scan']
    """
    return list(dict.fromkeys(WORD.findall(pattern)))


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with words replaced by what they stand for; those without a value stay.

    >>> fill("{case}/{channel}.nii.gz", {"case": "a"})
    'a/{channel}.nii.gz'
    """
    return WORD.sub(lambda word: values.get(word[1], word[0]), pattern)


def find(root: Path, pattern: str) -> dict[str, dict[str, str]]:
    """The files below ``root`` that fit, in alphabetical order: path from the root, with slashes, to words and values.

    Files whose name begins with a dot are passed over: some systems leave such beside each file.
    """
    folders, parts = pattern.endswith("/"), TOKENS.findall(pattern.rstrip("/"))
    regex, glob, seen = "", "", set()
    for part in parts:
        word = WORD.fullmatch(part)
        if word:
            regex += f"(?P={word[1]})" if word[1] in seen else f"(?P<{word[1]}>[^/]+?)"
            seen.add(word[1])
            glob += "*"
        else:
            regex += {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
            glob += part.replace("[", "[[]")
    fits = re.compile(regex)
    found = {}
    for file in sorted(root.glob(re.sub(r"\*{2,}(?!/)", "*", glob))):
        name = file.relative_to(root).as_posix()
        match = None if file.name.startswith(".") else fits.fullmatch(name)
        if match and file.is_dir() == folders:
            found[name] = match.groupdict()
    return found
