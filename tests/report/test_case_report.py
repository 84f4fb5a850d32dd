"""The report of a case in a browser without a network: it opens, its sliders act, a region is found where it lies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medanomaly.data import heatmap_path, save_on_grid
from medanomaly.data.films import AS_SEEN
from medanomaly.evaluation import Calibration
from medanomaly.report import case_pictures, write_score_summary
from medanomaly.report.case_report import write_case_report
from medanomaly.report.summaries import summarise_case
from tests.report.browser import CHROMIUM, Browser, Page
from tests.report.planted import GRIDS, MARKER, SHAPE, centred, normals, planted_scores

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def report_of(folder: Path, affine: np.ndarray) -> Path:
    """The report of a case whose marker is planted."""
    scores = planted_scores(folder, centred(affine))
    scan = folder.parent / f"{folder.name}_scan.nii.gz"
    case, calibration = {"case": "planted", "image": [str(scan)]}, normals()
    return write_case_report(case, scores, calibration, summarise_case(case, scores, calibration))


def hot(page: Page, path: Path) -> np.ndarray:
    """Where the picture that the viewer draws has the colours of the heatmap: (n, 2) rows and columns, 0 to 1."""
    page.run("window.scrollTo(0, 0)")
    box = page.run("(() => { const b = document.querySelector('#view').getBoundingClientRect(); "
                   "return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    page.picture(path)
    x, y, width, height = (int(side) for side in box)
    seen = np.asarray(Image.open(path).convert("RGB")).astype(int)[y : y + height, x : x + width]
    return np.argwhere(seen[..., 0] - seen[..., 2] > 60) / seen.shape[:2]


def slide(page: Page, name: str, value: float) -> None:
    page.run(
        f"(() => {{ const e = document.getElementById({name!r}); e.value = {value}; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def assert_quiet(page: Page) -> None:
    """Nothing in the console, and nothing was asked for but what lies in the file."""
    assert page.complaints == []
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data", "blob"}
    assert sum(address.startswith("file:") for address in page.requests) == 1


@needs_chromium
@pytest.mark.parametrize("grid", GRIDS)
def test_a_marker_appears_where_it_was_planted(browser: Browser, tmp_path: Path, grid: str) -> None:
    with browser.page(report_of(tmp_path / "scores", GRIDS[grid])) as page:
        assert page.run("report.ready")
        page.run("report.moveTo([10, -5, -12])")
        away = page.run("report.crosshair()")
        assert np.linalg.norm(np.array(away["mm"]) - [10, -5, -12]) < 2 and away["scan"] == pytest.approx(100, abs=0.2)
        page.click("#regions tbody tr")
        here = page.run("report.crosshair()")
        image = nib.load(tmp_path / "scores" / "planted" / "planted_heatmap.nii.gz")
        voxel = tuple(map(int, np.rint(here["voxel"])))
        np.testing.assert_allclose(here["mm"], (image.affine @ [*voxel, 1])[:3], atol=0.01)
        assert np.linalg.norm(np.array(here["mm"]) - MARKER) < np.linalg.norm(image.header.get_zooms()) / 2
        assert np.asarray(image.dataobj)[voxel] == np.nanmax(image.get_fdata())
        assert here["scan"] == pytest.approx(150, abs=0.2) and here["rarity"] == pytest.approx(5, abs=0.02)
        assert page.run("document.getElementById('position').textContent").startswith("L 1")
        page.run("report.view.setPlanes('axial')")
        down, right = hot(page, tmp_path / "axial.png").mean(axis=0)
        assert right > 0.52, "the marker is on the patient's left, so on the right of the picture"
        assert down < 0.49, "and in front, so in the upper half"
        assert_quiet(page)


@needs_chromium
def test_sliders_act_and_nothing_is_loaded_from_elsewhere(browser: Browser, tmp_path: Path) -> None:
    with browser.page(report_of(tmp_path / "scores", GRIDS["LPS"])) as page:
        assert page.run("report.ready")
        shown = len(hot(page, tmp_path / "seen.png"))
        assert shown > 100
        slide(page, "opacity", 0)
        assert len(hot(page, tmp_path / "seen.png")) == 0
        slide(page, "opacity", 0.75)
        slide(page, "threshold", 1)  # 10 % of normal voxels: the noise below the marker has no score so high
        assert page.run("document.getElementById('threshold-said').textContent") == "90 %"
        slide(page, "threshold", 4)
        assert page.run("document.getElementById('threshold-said').textContent") == "99.990 %"
        page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'h'}))")
        assert len(hot(page, tmp_path / "seen.png")) == 0
        page.click("#hide")
        assert len(hot(page, tmp_path / "seen.png")) > 0
        assert_quiet(page)


@needs_chromium
def test_the_viewer_leaves_the_controls_free_in_windows_of_any_width(browser: Browser, tmp_path: Path) -> None:
    with browser.page(report_of(tmp_path / "scores", GRIDS["LPS"])) as page:
        assert page.run("report.ready")
        for width in (700, 1010, 1150, 1290, 1800):
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
            view, panel = (
                page.run(
                    f"(() => {{ const b = document.querySelector('{name}').getBoundingClientRect(); "
                    "return [b.left, b.top, b.right, b.bottom]; })()"
                )
                for name in ("#view", ".panel")
            )
            beside, below = view[2] <= panel[0] + 1, view[3] <= panel[1] + 1
            assert beside or below, f"{width}: {view} covers {panel}"


@needs_chromium
def test_a_film_has_a_viewer_of_its_own(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    film = rng.integers(40, 90, (60, 50)).astype(np.uint8)
    film[10:18, 30:38] = 200
    Image.fromarray(film).save(tmp_path / "film.png")
    case = {"case": "film", "image": [str(tmp_path / "film.png")]}
    heatmap = (rng.random((50, 60, 1)) + 2.5 * (film.T[..., None] == 200)).astype(np.float32)
    save_on_grid(heatmap, heatmap_path(tmp_path, "film"), tmp_path / "film.png", AS_SEEN)
    write_score_summary([case], tmp_path, normals())
    with browser.page(tmp_path / "film" / "report.html") as page:
        assert page.run("report.ready")
        page.run("report.moveTo([0, 0, 0])")
        page.click("#regions tbody tr")
        column, row = page.run("report.crosshair().voxel")
        assert film[row, column] == 200 and page.run("report.crosshair().scan") == pytest.approx(200, abs=0.5)
        assert page.run("document.getElementById('position').textContent") == "unknown"
        down, right = hot(page, tmp_path / "seen.png").mean(axis=0)
        assert right > 0.55 and down < 0.35
        page.click("#view")
        assert page.run("report.crosshair().voxel") == [25, 30]
        slide(page, "opacity", 0)
        assert len(hot(page, tmp_path / "seen.png")) == 0
        assert_quiet(page)


def test_names_are_text_and_no_address_leads_elsewhere(tmp_path: Path) -> None:
    scan = tmp_path / '<b>o\'dd & "quoted" <script>.nii.gz'
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), np.eye(4)), scan)
    scores = planted_scores(tmp_path / "scores", centred(GRIDS["RAS"]))
    heatmap = nib.load(heatmap_path(scores, "planted"))
    save_on_grid(np.asarray(heatmap.dataobj), heatmap_path(scores, "planted"), scan, np.eye(4))
    run = json.loads((scores / "run.json").read_text())
    (scores / "run.json").write_text(json.dumps(run | {"region": "<i>bet</i> {image} & {mask}"}))
    case, calibration = {"case": "planted", "image": [str(scan)]}, normals(note="</script><script>alert(1)</script>")
    text = write_case_report(case, scores, calibration, summarise_case(case, scores, calibration)).read_text()
    outside = re.sub(r"<script>\n.*?</script>", "", text, flags=re.DOTALL)
    assert "&lt;b&gt;o&#39;dd" in outside and "&amp; &#34;quoted&#34;" in outside
    for raw in ("<b>", "<i>bet", "alert(1)</script>"):
        assert raw not in text
    assert str(tmp_path) not in text, "folders of the machine stay out of what is mailed"
    addresses = re.findall(r"""\b(?:src|href|action)\s*=\s*["']([^"']*)""", outside)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "default-src 'none'" in text


def test_a_large_noisy_head_makes_a_page_that_can_be_mailed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (182, 218, 182)
    rng = np.random.default_rng(0)
    head = (rng.random(shape, np.float32) * 60 + 100) * (rng.random(shape, np.float32) > 0.001)
    scores = rng.standard_normal(shape, np.float32)
    brain = np.zeros(shape, bool)
    brain[25:-25, 25:-25, 25:-25] = True
    nib.save(nib.Nifti1Image(head, np.eye(4)), tmp_path / "head.nii")
    (tmp_path / "head").mkdir()
    nib.save(nib.Nifti1Image(np.where(brain, scores, np.nan), np.eye(4)), tmp_path / "head" / "head_heatmap.nii.gz")
    monkeypatch.setattr(case_pictures, "COLUMNS", 1)
    monkeypatch.setattr(case_pictures, "PAIRS", 1)
    case, calibration = (
        {"case": "head", "image": [str(tmp_path / "head.nii")]},
        Calibration.fit([scores[brain]], "made"),
    )
    page = write_case_report(case, tmp_path, calibration, summarise_case(case, tmp_path, calibration))
    assert 5e6 < page.stat().st_size < 25e6


def test_what_a_reader_must_know_stands_above(tmp_path: Path) -> None:
    page = report_of(tmp_path / "scores", GRIDS["RAS"]).read_text()
    assert "Few normal cases were held out (1)" in page and "up to 50 % of new ones" in page
    assert "R on the left of the picture: radiological convention" in page
    assert "not a medical device" in page


def as_rows(page: str) -> Any:
    return json.loads(re.findall(r'id="viewer">(.*?)</script>', page)[0])


def test_the_viewer_starts_at_the_threshold_of_the_regions(tmp_path: Path) -> None:
    from medanomaly.report import write_regions

    scores = planted_scores(tmp_path / "scores", centred(GRIDS["RAS"]))
    write_regions(scores, "planted", normals(), 0.02)
    case = {"case": "planted", "image": [str(tmp_path / "scores_scan.nii.gz")]}
    page = write_case_report(case, scores, normals(), summarise_case(case, scores, normals())).read_text()
    assert as_rows(page)["threshold"] == pytest.approx(-np.log10(0.02))
    assert "above 98 % of normal voxels" in page
