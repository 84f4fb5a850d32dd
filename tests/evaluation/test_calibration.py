"""Calibration on made normals whose distribution is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from medanomaly.errors import InputError
from medanomaly.evaluation import Calibration, case_score

SOURCE = "made normals"


def gamma_cases(n_cases=4, n_voxels=5000, dtype=np.float32):
    rng = np.random.default_rng(11)
    return [rng.gamma(2, 1 + number / n_cases, size=n_voxels * (number + 1)).astype(dtype) for number in range(n_cases)]


def mixture_quantiles(cases, probabilities):
    """By a joint sort of all voxels with their weights."""
    values = np.concatenate(cases)
    weights = np.concatenate([np.full(case.size, 1 / (len(cases) * case.size)) for case in cases])
    order = np.argsort(values)
    index = np.searchsorted(np.cumsum(weights[order]), np.array(probabilities) - 1e-12)
    return values[order][np.minimum(index, values.size - 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_scores_are_their_own_percentile(dtype):
    uniform = ((np.arange(100_000) + 0.5) / 100_000).astype(dtype)
    calibration = Calibration.fit([uniform[::2], uniform[1::2]], SOURCE)
    scores = np.linspace(0, 1, 2001, dtype=dtype)
    percentile = calibration.percentile(scores)
    assert percentile.dtype == dtype
    np.testing.assert_allclose(percentile, 100 * scores, atol=2e-3)
    assert calibration.voxel_threshold(0.005) == pytest.approx(0.995, abs=2e-5)
    assert calibration.voxel_threshold(0.2) == pytest.approx(0.8, abs=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("change", [lambda x: x, np.round, lambda x: -x * 1e-6, lambda x: x**20])
def test_table_holds_the_quantiles_of_the_weighted_mixture(dtype, change):
    cases = [change(case).astype(dtype) for case in gamma_cases(dtype=np.float64)]
    calibration = Calibration.fit(cases, SOURCE)
    np.testing.assert_array_equal(calibration.quantiles, mixture_quantiles(cases, calibration.probabilities))
    assert calibration.quantiles[0] == min(case.min() for case in cases)
    assert calibration.quantiles[-1] == max(case.max() for case in cases)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_constant_scores_are_every_quantile(value):
    assert set(Calibration.fit([np.full(10, value), np.full(3, value)], SOURCE).quantiles) == {value}


@pytest.mark.parametrize("lowest", [-1.0, np.nextafter(-1.0, 0.0), np.nextafter(-1.0, -2.0)])
def test_bisection_does_not_slip_below_the_lowest_score(lowest):
    """The tiny scores keep the bisection going long after the lowest one is found."""
    case = np.append(lowest, 1e-12 * np.arange(1, 1000))
    assert Calibration.fit([case], SOURCE).quantiles[0] == lowest


def test_every_case_counts_the_same_whatever_its_size():
    low, high = np.linspace(0, 1, 100), np.linspace(10, 11, 100_000)
    calibration = Calibration.fit([low, high], SOURCE)
    assert calibration.percentile(np.array([5.0]))[0] == pytest.approx(50, abs=1)
    assert calibration.voxel_threshold(0.25) == pytest.approx(10.5, abs=0.01)
    small = Calibration.fit([low, high[::100]], SOURCE)
    np.testing.assert_allclose(small.quantiles, calibration.quantiles, atol=0.02)


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.005, 0.0007, 1e-4])
def test_threshold_has_the_stated_false_positive_rate(rate):
    cases = [np.random.default_rng(seed).normal(size=200_000) for seed in range(2)]
    threshold = Calibration.fit(cases[:1], SOURCE).voxel_threshold(rate)
    assert np.mean(cases[0] > threshold) == pytest.approx(rate, rel=0.05)
    assert np.mean(cases[1] > threshold) == pytest.approx(rate, rel=0.5)


@pytest.mark.parametrize("n_scores", [20, 2000])  # NumPy interpolates few and many points by different code
def test_percentile_keeps_order_shape_and_nan(n_scores):
    calibration = Calibration.fit([np.round(case) for case in gamma_cases()], SOURCE)
    scores = np.linspace(-5, 60, n_scores)
    percentile = calibration.percentile(scores.reshape(2, -1))
    assert percentile.shape == (2, n_scores // 2)
    assert (np.diff(percentile.ravel()) >= 0).all()
    assert (percentile.min(), percentile.max()) == (0, 100)
    with_nan = calibration.percentile(np.array([np.nan, 1.0, np.nan], dtype=np.float32))
    assert np.isnan(with_nan).tolist() == [True, False, True]


@pytest.mark.parametrize("n_scores", [1, 1000])
def test_a_shared_score_is_more_unusual_than_those_below_it_only(n_scores):
    calibration = Calibration.fit([np.repeat([0.0, 1.0, 2.0], [700, 200, 100])], SOURCE)
    percentile = calibration.percentile(np.repeat([-0.1, 0.0, 1.0, 2.0, 2.1], n_scores))[::n_scores]
    np.testing.assert_allclose(percentile, [0, 0, 71, 91, 100], atol=1e-9)  # the table's steps of 1 %


def test_percentile_exceeds_the_level_where_the_score_exceeds_the_threshold():
    calibration = Calibration.fit(gamma_cases(), SOURCE)
    scores = np.concatenate(gamma_cases())
    for rate in (0.3, 0.01, 0.005):
        above = scores > calibration.voxel_threshold(rate)
        np.testing.assert_array_equal(calibration.percentile(scores.astype(np.float64)) > 100 * (1 - rate), above)


@pytest.mark.parametrize("n", [1, 3, 18, 19, 20, 39, 100])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_case_threshold_lets_no_more_new_normals_through_than_it_says(n, rate):
    """Leave one of n + 1 out in turn: the others' threshold must be exceeded as often as promised, and no more."""
    scores = np.random.default_rng(n).gamma(2, size=n + 1)

    def of(normals):
        return Calibration((0.0, 1.0), (0.0, 1.0), tuple(normals), f"{len(normals)} normals")

    exceeded = np.mean([scores[k] > of(np.delete(scores, k)).case_threshold(rate) for k in range(n + 1)])
    promised = of(scores[1:]).case_rate(rate)
    assert exceeded == pytest.approx(promised)
    assert promised >= 1 / (n + 1)
    if n >= round(1 / rate) - 1:
        assert promised <= rate + 1e-12
        lower = sorted(scores[1:])[sorted(scores[1:]).index(of(scores[1:]).case_threshold(rate)) - 1] if n > 1 else None
        if lower is not None and (n + 1) * rate < n:
            assert promised + 1 / (n + 1) > rate, "the next lower score would break the promise"
    else:
        assert of(scores[1:]).case_threshold(rate) == max(scores[1:]) and promised == pytest.approx(1 / (n + 1))


def test_case_scores_are_those_of_the_cases():
    cases = gamma_cases()
    calibration = Calibration.fit(cases, SOURCE)
    assert calibration.n_cases == 4
    assert calibration.case_scores == tuple(case_score(case) for case in cases)


def test_the_threshold_says_what_so_few_normals_can_promise():
    few = Calibration.fit(gamma_cases(4), "4 held-out normal cases")
    assert few.case_threshold_in_words() == (
        "the highest case score of 4 held-out normal cases: at most 20 % of new normal cases exceed it "
        "(5 % would need 19 normals)"
    )
    many = Calibration.fit([np.full(2, float(n)) for n in range(40)], "40 held-out normal cases")
    assert many.case_threshold() == 38.0 and many.case_rate() == pytest.approx(2 / 41)
    assert many.case_threshold_in_words().startswith("number 39 of 40 case scores, counted from the lowest, of 40 held")
    assert "at most 4.88 % of new normal cases exceed it" in many.case_threshold_in_words()
    seen = Calibration.fit(gamma_cases(), "4 training cases", held_out=False)
    assert "the detector has seen them" in seen.case_threshold_in_words() and " at most" not in str(seen)


def test_round_trip_through_a_file(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    calibration = Calibration.fit(gamma_cases(), "4 normals of the validation split, naïve")
    calibration.save(path)
    assert Calibration.load(path) == calibration
    Calibration.fit(gamma_cases(2), SOURCE).save(path)
    assert Calibration.load(path).n_cases == 2
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "calibration.json"
    calibration = Calibration.fit(gamma_cases(2), SOURCE)
    calibration.save(path)
    with pytest.raises(ValueError, match="JSON"):
        Calibration((0.0, 1.0), (0.0, float("nan")), (1.0,), SOURCE).save(path)

    def cut_off(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        Calibration.fit(gamma_cases(3), SOURCE).save(path)
    assert Calibration.load(path) == calibration
    assert len(list(tmp_path.iterdir())) == 1


GOOD = {"probabilities": [0, 0.5, 1], "quantiles": [1, 2, 3], "case_scores": [3], "source": SOURCE}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "malformed"),
        ('{"probabilities": [0, ', "malformed"),
        ("[1, 2]", "malformed"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "quantiles"}), "lacks 'quantiles'"),
        (json.dumps(GOOD | {"quantiles": [1, 2]}), "3 probabilities and 2 quantiles"),
        (json.dumps(GOOD | {"quantiles": [1, 3, 2]}), "finite or fall"),
        (json.dumps(GOOD | {"quantiles": [1, 2, float("nan")]}), "finite or fall"),
        (json.dumps(GOOD | {"quantiles": [1, 2, "high"]}), "malformed"),
        (json.dumps(GOOD | {"quantiles": 3}), "malformed"),
        (json.dumps(GOOD | {"probabilities": [0, 0.5, 0.9]}), "do not rise from 0 to 1"),
        (json.dumps(GOOD | {"case_scores": []}), "case scores"),
    ],
)
def test_malformed_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(GOOD))
    assert Calibration.load(path).percentile(np.array([2.0])) == 50
    path.write_text(content)
    with pytest.raises(InputError, match=rf"bad\.json.*{message}"):
        Calibration.load(path)


def test_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        Calibration.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.json is malformed"):
        Calibration.load(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Calibration.fit([], SOURCE), "0 normal cases"),
        (lambda: Calibration.fit([np.ones(3), np.array([1.0, np.nan])], SOURCE), "case 1 of 2.*1 of 2 voxel"),
        (lambda: Calibration.fit([np.ones(0)], SOURCE), "case 0 of 1"),
        (lambda: Calibration.fit([np.ones(3)], SOURCE).voxel_threshold(0), "rate is 0"),
        (lambda: Calibration.fit([np.ones(3)], SOURCE).case_threshold(1.0), "rate is 1.0"),
    ],
)
def test_unusable_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_case_of_another_scanner_does_not_fit_and_one_with_a_large_lesion_does():
    rng = np.random.default_rng(5)
    normals = [rng.gamma(2, rng.normal(1, 0.05), 4000) for _ in range(6)]
    calibration = Calibration.fit(normals, SOURCE)
    assert np.mean(calibration.case_medians) == pytest.approx(50, abs=1)
    ranks = [100 * np.mean([np.mean(other <= np.median(case)) for other in normals]) for case in normals]
    np.testing.assert_allclose(calibration.case_medians, ranks, atol=0.6)
    alike = rng.gamma(2, 1, 4000)
    alike[:800] += 30  # a fifth of the brain
    assert calibration.misfit(alike) == ""
    assert "above 8" in calibration.misfit(rng.gamma(2, 2, 4000)) and "calibrate" in calibration.misfit(alike * 2)
    assert calibration.misfit(alike / 3) != "", "nor does one that scores too low"


def test_the_room_of_a_case_is_a_prediction_interval():
    closer = Calibration((0.0, 1.0), (0.0, 1.0), (1.0,) * 4, SOURCE, case_medians=(48.0, 49.0, 51.0, 52.0))
    width = stats.t(3).interval(0.999)[1] * np.std(closer.case_medians, ddof=1) * np.sqrt(1.25)
    assert width > 15
    assert closer.misfit(np.array([0.5 + 0.99 * width / 100])) == ""
    assert closer.misfit(np.array([0.5 + 1.01 * width / 100])) != ""


@pytest.mark.parametrize(("medians", "room"), [((50.0,), 40), ((50.0,) * 3, 15), ((20.0, 50.0, 80.0), 40)])
def test_few_normals_or_like_ones_leave_some_room(medians, room):
    calibration = Calibration((0.0, 1.0), (0.0, 1.0), (1.0,) * len(medians), SOURCE, case_medians=medians)
    assert calibration.misfit(np.array([0.5 + room / 100 - 0.01])) == ""
    assert calibration.misfit(np.array([0.5 + room / 100 + 0.01])) != ""
    assert replace(calibration, held_out=False).misfit(np.array([1.0])) == "", "that is another warning"
    assert replace(calibration, case_medians=()).misfit(np.array([1.0])) == "", "of an older version"
