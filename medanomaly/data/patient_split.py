"""Splitting a cohort so that nobody is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, MutableMapping


def split_patients(
    patients: Iterable[str], shares: Mapping[str, float], placed: MutableMapping[str, str] | None = None
) -> dict[str, list[str]]:
    """The patients of each section, in the order of the SHA-256 of their names, so the same wherever it is done.

    Args:
        patients: their names.
        shares: section to its share of the patients, 0 to 1; who is in no share is left out.
        placed: who is in which section already, and stays there; those placed now are added.

    >>> split_patients(["a", "b", "c", "d"], {"training": 0.5, "test": 0.25})
    {'training': ['d', 'c'], 'test': ['b']}
    """
    placed = {} if placed is None else placed
    order = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    new = [name for name in order if name not in placed]
    share, first = 0.0, 0
    for section, own in shares.items():
        share += own
        last = round(share * len(new))
        placed.update(dict.fromkeys(new[first:last], section))
        first = last
    return {section: [name for name in order if placed.get(name) == section] for section in shares}
