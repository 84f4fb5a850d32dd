"""The study of SADGAN on phantoms: its page says what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "Dice of the segmenter on translated CT, against the labels of the CT": "Dice of S on translated CT",
    "the same of a judge, a segmenter that learned from real MR with labels and saw no translation": (
        "Dice of the judge on translated CT"
    ),
    "Dice of the segmenter on MR, which nobody labelled": "Dice of S on MR",
    "the same of the judge, who learned from labelled ones": "Dice of the judge on MR",
    "edges of the translation against the borders of the labels, F1": "edge F1",
    "Dice of the class whose true MR intensity is nearest to the translation's": "Dice by nearest intensity",
}


def test_the_table_of_the_page_is_what_the_study_wrote() -> None:
    found = json.loads((ROOT / "studies/translation.json").read_text())
    assert len(found["commit"]) == 40 and found["machine"]["threads"] == 1
    page = (ROOT / "docs/how-to/translate.md").read_text().replace("**", "")
    for words, key in ROWS.items():
        means = []
        for edges in (True, False):
            values = [row[key] for row in found["rows"] if row["edges"] is edges]
            assert len(values) == 3
            means.append(sum(values) / 3)
        assert f"| {words} | {means[0]:.3f} | {means[1]:.3f} |" in page
    assert found["commit"][:7] in page
