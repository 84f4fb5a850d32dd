"""The augmentation study, on made films: what is learned from, indices against another way, and rows that are alike."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from medanomaly.data.manifests import datalist_from_manifest, read_manifest
from medanomaly.errors import ConfigError, InputError
from medanomaly.experiments import augmentation, augmentation_films, find_experiment
from medanomaly.experiments.augmentation import EXPERIMENT, LEVELS, OPTIONS, SETTINGS, runs
from medanomaly.experiments.augmentation_classifier import new_classifier, probabilities, trained_classifier
from medanomaly.experiments.augmentation_films import Films, read_films, with_synthetic
from medanomaly.experiments.augmentation_generators import GENERATORS, train_generator, write_manifest
from medanomaly.experiments.augmentation_quality import (
    FrozenFeatures,
    frechet,
    indices,
    kernel_distance,
    nearest,
    quality,
)
from medanomaly.training import load_checkpoint
from medanomaly.workflows.benchmark import run_benchmark

TINY: dict[str, Any] = {"size": 32, "normal_films": 8, "pneumonia_films": 12, "epochs": 1, "amp": False}
OF_GAN: dict[str, Any] = {"generator_epochs": 1, "generator_batch": 4}


def made_film(generator: np.random.Generator, ill: bool) -> np.ndarray:
    """Noise with a bright half, the left one where ill; 40 x 40."""
    film = generator.integers(0, 120, (40, 40))
    film[:, : 20 if ill else 40] += 100
    return film.astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 patients of each class with one film each, as the manifest names them."""
    root = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    for folder in ("NORMAL", "PNEUMONIA"):
        (root / folder).mkdir()
    for n in range(20):
        Image.fromarray(made_film(random, False)).save(root / f"NORMAL/IM-{200 + n:04d}-0001.jpeg")
        Image.fromarray(made_film(random, True)).save(root / f"PNEUMONIA/person{n + 1}_bacteria_1.jpeg")
    return root


@pytest.fixture(autouse=True)
def made_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    content = read_manifest("chest_xray")
    content["groups"] = [{**group, "count": 20} for group in content["groups"]]
    content["shape"] = [40, 40]
    monkeypatch.setattr(augmentation_films, "read_manifest", lambda name: json.loads(json.dumps(content)))
    monkeypatch.setenv("MEDANOMALY_CACHE", str(tmp_path / "cache"))
    augmentation._films.cache_clear()
    return content


def random_films(n: int, seed: int = 0) -> Films:
    random = torch.Generator().manual_seed(seed)
    return Films(torch.rand(n, 1, 32, 32, generator=random), torch.arange(n) % 2)


def test_the_test_films_are_those_of_the_manifest_and_no_patient_is_on_two_sides(
    data: Path, made_manifest: dict[str, Any]
) -> None:
    films = read_films(data, 32, (100, 100))
    tested = datalist_from_manifest(made_manifest, data)["test"]
    assert {case["case"]: case["label"] for case in tested} == {
        case["case"]: case["class"] for case in films["test"].cases
    }
    patients = [{case["case"].split("_")[0] for case in part.cases} for part in films.values()]
    assert sum(map(len, patients)) == len(set().union(*patients))
    assert {name: torch.bincount(part.labels).tolist() for name, part in films.items()} == {
        "training": [12, 14],
        "validation": [2, 2],
        "test": [4, 2],
    }
    few = read_films(data, 32, (3, 5))["training"]
    assert torch.bincount(few.labels).tolist() == [3, 5]
    with pytest.raises(InputError, match="--data-root"):
        read_films(None, 32, (1, 1))


def test_films_are_seen_as_they_are_looked_at(data: Path) -> None:
    films = read_films(data, 40, (100, 100))["training"]
    for image, label, case in zip(films.images, films.labels, films.cases, strict=True):
        assert case["case"].startswith("person") == bool(label)
        pixels = torch.from_numpy(np.asarray(Image.open(case["image"][0])).astype(np.float32))
        low, high = np.percentile(pixels, [1, 99])
        assert torch.allclose(image[0], ((pixels - low) / (high - low)).clamp(0, 1), atol=1e-4)


def test_shares_of_synthetic_films() -> None:
    real = Films(torch.zeros(9, 1, 4, 4), torch.tensor([0] * 3 + [1] * 6))
    made = {0: torch.full((6, 1, 4, 4), 0.5), 1: torch.full((12, 1, 4, 4), 1.0)}
    for share, counts in ((0.0, [0, 0]), (0.5, [2, 3]), (1.0, [3, 6]), (2.0, [6, 12]), ("balanced", [3, 0])):
        joined = with_synthetic(real, made, share)
        added = joined.images[9:, 0, 0, 0].tolist()
        assert added == [0.5] * counts[0] + [1.0] * counts[1]
        assert torch.bincount(joined.labels[9:], minlength=2).tolist() == counts
        assert torch.equal(joined.images[:9], real.images)
    with pytest.raises(InputError, match=r"9 synthetic films of the class normal .* there are 6"):
        with_synthetic(real, made, 3.0)


def test_no_synthetic_films_are_the_baseline_bit_for_bit(tmp_path: Path) -> None:
    real, held_out = random_films(10), random_films(6, 1)
    options = {**OPTIONS, "epochs": 2, "batch_size": 8}
    alone, _ = trained_classifier(real, held_out, 10, 3, options, tmp_path / "alone.pt")
    made = {label: torch.rand(20, 1, 32, 32) for label in (0, 1)}
    with_none, _ = trained_classifier(with_synthetic(real, made, 0.0), held_out, 10, 3, options, tmp_path / "none.pt")
    with_some, _ = trained_classifier(with_synthetic(real, made, 1.0), held_out, 10, 3, options, tmp_path / "some.pt")
    for name, value in alone.state_dict().items():
        assert torch.equal(value, with_none.state_dict()[name]), name
    assert torch.equal(probabilities(alone, real.images), probabilities(with_none, real.images))
    assert not torch.equal(probabilities(alone, real.images), probabilities(with_some, real.images))
    kept, record = trained_classifier(real, held_out, 10, 3, options, tmp_path / "alone.pt")  # that of the file
    assert torch.equal(probabilities(alone, real.images), probabilities(kept, real.images))
    scores = probabilities(kept, held_out.images).numpy()
    assert record["validation_auc"] == roc_auc_score(held_out.labels.numpy(), scores)


def test_more_films_are_not_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(logits: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(labels))
        return torch.square(logits - labels).mean()

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", counted)
    options = {**OPTIONS, "epochs": 1, "batch_size": 4}
    trained_classifier(random_films(20), random_films(4, 1), 10, 0, options, tmp_path / "classifier.pt")
    assert sizes == [4, 4, 2]


def test_a_film_to_test_with_is_in_no_generators_manifest(data: Path, tmp_path: Path) -> None:
    films = read_films(data, 32, (100, 100))
    write_manifest(tmp_path / "films.json", "gan", "normal", films["training"].of_class(0), films, {})
    listed = json.loads((tmp_path / "films.json").read_text())["films"]
    assert set(listed) == {case["case"] for case in films["training"].cases if not case["class"]}
    assert all(len(digest) == 64 for digest in listed.values())
    copied = tmp_path / "another_name.jpeg"
    copied.write_bytes(Path(films["test"].cases[0]["image"][0]).read_bytes())
    leaking = Films(torch.rand(1, 1, 32, 32), torch.zeros(1), [{"case": "new", "image": [str(copied)], "class": 0}])
    with pytest.raises(InputError, match=r"new in 'training of gan, normal' .* 'test' are the same scan"):
        write_manifest(tmp_path / "other.json", "gan", "normal", leaking, films, {})
    assert not (tmp_path / "other.json").exists()
    with pytest.raises(InputError, match="other films or settings"):
        write_manifest(tmp_path / "films.json", "gan", "normal", films["training"].of_class(1), films, {})


def textures(n: int, seed: int, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(n, 1, 8, 8, generator=random), 32, mode="bilinear")
    return (smooth * (1 - shift) + shift).clamp(0, 1)


def test_silhouette_of_one_distribution_is_near_0_and_of_shifted_films_is_not() -> None:
    torch.manual_seed(0)
    features = FrozenFeatures(new_classifier(), textures(60, 0))

    def silhouette(a: Tensor, b: Tensor) -> float:
        both = np.concatenate([features(a), features(b)])
        return indices(both, np.repeat([0, 1], [len(a), len(b)]))["silhouette"]

    assert abs(silhouette(textures(60, 1), textures(60, 2))) < 0.05
    assert silhouette(textures(60, 1), textures(60, 2, 0.7)) > 0.2


def test_indices_and_distances_are_those_of_their_definitions() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (40, 3)), random.normal(0.5, 2, (30, 3))
    both, labels = np.concatenate([a, b]), np.repeat([0, 1], [40, 30])
    centres, centre = [a.mean(0), b.mean(0)], both.mean(0)
    between = 40 * ((centres[0] - centre) ** 2).sum() + 30 * ((centres[1] - centre) ** 2).sum()
    within = ((a - centres[0]) ** 2).sum() + ((b - centres[1]) ** 2).sum()
    spreads = [np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (a, b)]
    found = indices(both, labels)
    assert found["calinski_harabasz"] == pytest.approx(between / (within / 68))
    assert found["davies_bouldin"] == pytest.approx(sum(spreads) / np.linalg.norm(centres[0] - centres[1]))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    pairs = [
        np.mean([kernel(x, y) for i, x in enumerate(part) for j, y in enumerate(part) if i != j]) for part in (a, b)
    ]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(pairs) - 2 * across)
    assert frechet(a, a + np.array([2.0, 0.0, 0.0])) == pytest.approx(4.0, abs=1e-3)  # moved, nothing else

    training = torch.rand(5, 1, 4, 4)
    distances, which = nearest(training[[3, 1]] + 0.01, training)
    assert which.tolist() == [3, 1] and torch.allclose(distances, torch.full((2,), 0.01), atol=1e-5)


def test_copies_of_training_films_are_found() -> None:
    torch.manual_seed(0)
    training = {label: textures(20, label) for label in (0, 1)}
    held_out = {label: textures(10, 5 + label, 0.3 * label) for label in (0, 1)}
    features = FrozenFeatures(new_classifier(), torch.cat(list(training.values())))
    copies, others = quality(features, training, held_out, training), quality(features, held_out, training, training)
    assert copies["nearest_training"] < 1e-3 < 0.05 < others["nearest_training"]
    assert copies["films"] == others["films"] == 20
    assert others["real_or_synthetic"]["silhouette"] == pytest.approx(
        indices(
            np.concatenate([features(part[label][:10]) for part in (training, held_out) for label in (0, 1)]),
            np.repeat([0, 1], 20),
        )["silhouette"]
    )


def test_the_runs_are_all_levels_with_every_seed() -> None:
    planned = runs(EXPERIMENT.detectors, [0, 1], False)
    assert len(planned) == 2 * (1 + len(SETTINGS) * len(LEVELS)) == len({run.id for run in planned})
    assert [LEVELS[run.setting] for run in planned if run.detector == "gan" and run.seed == 0] == [
        0.25,
        0.5,
        1.0,
        2.0,
        "balanced",
    ]
    assert find_experiment("augmentation") is EXPERIMENT


def test_a_study_goes_on_where_it_was_interrupted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**TINY, **OF_GAN}

    def interrupted(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(augmentation, "case_metrics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(EXPERIMENT, ["real", "gan"], [0], data, tmp_path, True, changes)
    monkeypatch.undo()
    monkeypatch.setenv("MEDANOMALY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "augmentation-reduced"
    classifier = folder / "runs/real_plus-000_seed0/classifier.pt"
    before = classifier.read_bytes()
    augmentation._films.cache_clear()
    content = read_manifest("chest_xray")
    made = {**content, "shape": [40, 40], "groups": [{**group, "count": 20} for group in content["groups"]]}
    monkeypatch.setattr(augmentation_films, "read_manifest", lambda name: made)
    run_benchmark(EXPERIMENT, ["real", "gan"], [0], data, tmp_path, True, changes)
    assert classifier.read_bytes() == before
    names = [path.stem for path in sorted((folder / "results").glob("*.json"))]
    assert names == ["gan_balanced_seed0", "gan_plus-100_seed0", "real_plus-000_seed0"]
    result = json.loads((folder / "results/gan_balanced_seed0.json").read_text())["metrics"]
    assert result["training_films"] == [12, 12] and result["n_cases"] == 6
    assert set(result["generator"]) == {"made", "real", "seconds"}
    text = (folder / "leaderboard.md").read_text()
    assert "| gan | balanced | 1 | 12 + 12 |" in text and "| - | 0 % | 1 | 8 + 12 |" in text
    assert "| real, held out |" in text and "real or synthetic: silhouette" in text
    manifests = [json.loads(path.read_text()) for path in sorted((folder / "runs/generators/gan").glob("*/films.json"))]
    assert [len(manifest["films"]) for manifest in manifests] == [8, 12]
    assert Image.open(folder / "synthetic_gan.png").width > 500
    with pytest.raises(InputError, match="choose another --output"):
        run_benchmark(EXPERIMENT, ["gan"], [0], data, tmp_path, True, {**changes, "generator_epochs": 2})


def test_features_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'classifier' or 'random'"):
        augmentation.frozen_features({}, {**OPTIONS, "features": "imagenet"}, tmp_path)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_study_are_those_of_its_generators(name: str) -> None:
    """Beside those of the training, each is an argument."""
    known = inspect.signature(GENERATORS[name]).parameters
    assert {key for key in SETTINGS[name] if not key.startswith("generator_")} <= {*known, "grid"}


def test_a_grid_trains_the_generator_and_takes_as_many_batches_in_all(tmp_path: Path) -> None:
    settings = {**SETTINGS["gan-grid"], "generator_epochs": 2, "generator_batch": 4, "features": 8}
    cells = SETTINGS["gan-grid"]["grid"]["rows"] * SETTINGS["gan-grid"]["grid"]["columns"]
    assert cells * SETTINGS["gan-grid"]["generator_epochs"] == SETTINGS["gan"]["generator_epochs"]
    generator = train_generator("gan-grid", random_films(8), settings, tmp_path)
    trained = [load_checkpoint(tmp_path / f"checkpoints/grid/cell{number:03d}.pt") for number in range(cells)]
    assert [len(cell["history"]) for cell in trained] == [2] * cells
    best = min(trained, key=lambda cell: cell["history"][-1]["quality"])["pair"]["generator"]["network"]
    own = generator.generator.state_dict()
    assert all(torch.equal(own[name], value) for name, value in best.items() if name.endswith("weight"))
    assert generator.draw(3, 0).shape == (3, 1, 32, 32)
