"""What every detector must do, in 2-D and 3-D, with one channel and three: those of the catalogue, and toys."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medanomaly.detectors import Detector, detector_class, detector_names
from medanomaly.errors import ConfigError
from medanomaly.patches import PatchSampler, PatchScoreInferer, PatchSpec
from medanomaly.training import DetectorTrainer
from tests.detectors.catalogue import CATALOGUE
from tests.detectors.toys import TOYS, Searching

SIZE = 16
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
TOY_CLASSES = {entry.name: kind for kind, entry in TOYS.items()}
ENTRIES = (*CATALOGUE, *TOYS.values())
ROWS = [(entry, arguments) for entry in ENTRIES for arguments in entry.variants]
SETTINGS = [(*row, channels, dims) for row in ROWS for dims, channels in row[0].kinds]
LEARNERS = [(entry, learner) for entry in ENTRIES for learner in entry.learners]
MARKS = [[pytest.mark.slow] if learner.slow else [] for _, learner in LEARNERS]


def label(*parts):
    return "-".join(str(value) for part in parts for value in (part.values() if isinstance(part, dict) else [part]))


def gratings(n, channels, spatial_dims, seed):
    """Normal patches: waves of one direction and length; every patch and channel has a phase of its own.

    Channels in sevens are those of seven neighbouring slices: three slices on, a wave has moved by a quarter.
    """
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(0, 1, SIZE)
    x, y = torch.meshgrid(*[line] * spatial_dims, indexing="ij")[:2]
    phase = torch.rand((n, channels) + (1,) * spatial_dims, generator=generator)
    three = 3 * channels // 7
    for channel in range(three, channels) if channels % 7 == 0 else ():
        phase[:, channel] = phase[:, channel - three] + 0.25
    return 0.5 + 0.3 * torch.sin(2 * torch.pi * (1.5 * x + 0.4 * y + phase))


def turned(patches):
    """The same brightness everywhere, but another direction: no threshold tells it."""
    return patches.transpose(2, 3)


def with_square(patches):
    planted = patches.clone()
    planted[(..., *(slice(5, 10),) * (patches.ndim - 2))] = 1.2
    return planted


def make(entry, arguments, channels, spatial_dims, seed=0):
    torch.manual_seed(seed)
    kind = TOY_CLASSES.get(entry.name) or detector_class(entry.name)
    return kind(in_channels=channels, patch_size=SIZE, spatial_dims=spatial_dims, **arguments)


def batch_of(detector, step, n):
    """What the streams of a detector hold: normal patches, and a mixture in which half are abnormal."""
    shape = detector.in_channels, detector.spatial_dims
    normal = gratings(n, *shape, 1000 + step)
    if detector.streams == ("training",):
        return normal
    mixed = gratings(n, *shape, 5000 + step)
    abnormal = turned(mixed[n // 2 : 3 * n // 4]), with_square(mixed[3 * n // 4 :])
    of = {"training": normal, "mixed": torch.cat([mixed[: n // 2], *abnormal])}
    return {stream: of[stream] for stream in detector.streams}


def train(detector, steps, seed=0, n=32):
    """So many steps of ``n`` patches, shared equally among the stages, then the fit on six times as many."""
    n_stages = len(list(copy.deepcopy(detector).stages()))
    torch.manual_seed(seed)
    detector.train()
    step = 0
    for number, stage in enumerate(detector.stages()):
        while step * n_stages < (number + 1) * steps:
            losses = detector.training_step(batch_of(detector, step, n), stage)
            assert losses and all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
            step += 1
    assert step == (steps if n_stages else 0)
    detector.eval()
    detector.fit_statistics([gratings(3 * n, detector.in_channels, detector.spatial_dims, seed) for seed in (1, 2)])
    return detector


@torch.no_grad()
def auroc(detector, anomaly):
    normal, abnormal = (gratings(100, detector.in_channels, detector.spatial_dims, seed) for seed in (3, 4))
    scores = detector(torch.cat([normal, anomaly(abnormal)])).flatten(1).mean(dim=1)
    return roc_auc_score([0] * 100 + [1] * 100, scores)


def saved_and_loaded(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda row: label(row[0].name, *row[1:]))
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def trained(setting):
    """A detector after three steps, so that weights, running means and statistics are no longer those of the start."""
    return train(make(*setting), steps=3, n=8)


def test_every_detector_is_driven_and_has_a_bundle():
    bundles = [path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json")]
    assert [entry.name for entry in CATALOGUE] == detector_names() == sorted(bundles)
    assert all(entry.variants and entry.learners for entry in CATALOGUE)


@pytest.mark.parametrize("name", detector_names())
def test_the_class_of_a_file_can_be_imported_from_the_package(name):
    import medanomaly.detectors

    kind = detector_class(name)
    assert kind.__module__ == f"medanomaly.detectors.{name}" and kind is not Detector
    assert getattr(medanomaly.detectors, kind.__name__) is kind


@pytest.mark.parametrize("name", ["magic", "base", "intensity", "scores", "os", "../ganomaly", "Detector", ""])
def test_what_is_not_a_detector_is_refused_with_the_names_of_those_that_are(name):
    with pytest.raises(ConfigError, match=rf"there is no detector '{name}'; there are {', '.join(detector_names())}"):
        detector_class(name)
    with pytest.raises(ImportError, match="cannot import name 'Magic'"):
        from medanomaly.detectors import Magic  # noqa: F401


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_only_signs_that_a_detector_tells_apart_can_be_chosen(entry):
    detector = make(entry, entry.variants[0], *entry.kinds[0][::-1])
    assert detector.signed == entry.signed
    with pytest.raises(ConfigError, match="sign is 'up': use one of both, bright, dark"):
        detector.set_sign("up")
    for sign in ("bright", "dark", "both"):
        if detector.signed or sign == "both":
            detector.set_sign(sign)
            assert detector.sign == sign
        else:
            with pytest.raises(ConfigError, match="does not tell brighter from darker: its sign must be 'both'"):
                detector.set_sign(sign)


@torch.no_grad()
def test_several_signs_at_once_are_those_one_by_one(trained):
    patches, asked = gratings(5, trained.in_channels, trained.spatial_dims, 7), trained.sign
    signs = ["dark", "both", "bright"] if trained.signed else ["both"]
    together = trained(patches, signs)
    assert trained.sign == asked
    for number, sign in enumerate(signs):
        trained.set_sign(sign)
        torch.testing.assert_close(together[:, number : number + 1], trained(patches))
    trained.set_sign(asked)


@torch.no_grad()
def test_scores_are_finite_numbers_a_patch_or_a_voxel(trained):
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    scores = trained(patches)
    assert scores.shape in {(5, 1), (5, 1) + (SIZE,) * trained.spatial_dims}
    assert scores.dtype == torch.float32 and torch.isfinite(scores).all()
    assert len(scores.unique()) >= 5  # they tell patches apart


def test_scoring_changes_nothing_whatever_the_gradient_mode(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    for parameter in trained.parameters():
        parameter.grad = None
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    scores = trained(patches)
    with torch.no_grad():
        assert torch.equal(trained(patches), scores)
    with torch.inference_mode():
        assert torch.equal(trained(patches.clone()), scores)
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_validation_loss_is_a_finite_number_and_changes_nothing(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    loss = trained.validation_loss(patches)
    assert loss.ndim == 0 and torch.isfinite(loss) and loss == trained.validation_loss(patches)
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())


def test_the_same_seed_gives_the_same_detector(setting, trained):
    again, other = train(make(*setting), steps=3, n=8), train(make(*setting, seed=1), steps=1, n=8)
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    with torch.no_grad():
        assert torch.equal(again(patches), trained(patches))
        assert torch.allclose(other(patches), trained(patches), rtol=1e-3) != setting[0].random


def test_who_keeps_training_patches_says_so(trained):
    """Rows of its state that are a training patch but for brightness and contrast: one that it keeps, not a chance."""
    patches = torch.cat([gratings(24, trained.in_channels, trained.spatial_dims, seed) for seed in (1, 2)]).flatten(1)
    alike = 0
    for value in trained.state_dict().values():
        if value.ndim > 1 and value[0].numel() == patches.shape[1]:
            rows = torch.cat([value.flatten(1).float(), patches])
            rows = rows - rows.mean(dim=1, keepdim=True)
            rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            alike += int(((rows[: len(value)] @ rows[len(value) :].t()).amax(dim=0) > 0.99999).sum())
    assert trained.keeps_patches == (alike > 2)


@torch.no_grad()
def test_a_score_does_not_depend_on_the_other_patches_of_its_batch(trained):
    patches = gratings(6, trained.in_channels, trained.spatial_dims, 7)
    together = trained(patches)
    alone = torch.cat([trained(patch[None]) for patch in patches])
    beside_others = trained(torch.cat([100 * torch.rand_like(patches), patches]))[6:]
    rounding = 1e-6 + 1e-5 * together.abs().max()  # kernels for other numbers of patches sum in other orders
    assert (alone - together).abs().max() < rounding
    assert (beside_others - together).abs().max() < rounding


@torch.no_grad()
def test_saved_weights_give_equal_scores(setting, trained):
    other = make(*setting, seed=1).eval()
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    if not setting[0].fitted:  # before it is, it may have no scores
        assert not torch.equal(other(patches), trained(patches))
    other.load_state_dict(saved_and_loaded(trained.state_dict()))
    assert torch.equal(other(patches), trained(patches))


@torch.no_grad()
def test_the_exported_detector_gives_equal_scores(trained):
    if not trained.exportable:
        with pytest.raises(ConfigError, match="cannot be exported to TorchScript"):
            torch.jit.script(trained)
        return
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(trained), buffer)
    buffer.seek(0)
    exported = torch.jit.load(buffer)
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    assert torch.equal(exported(patches), trained(patches))
    assert exported.in_channels == trained.in_channels  # the inferer asks for it


@pytest.mark.parametrize(
    ("entry", "learner"),
    [pytest.param(*row, marks=marks) for row, marks in zip(LEARNERS, MARKS, strict=True)],
    ids=[label(entry.name, *list(vars(learner).values())[:4]) for entry, learner in LEARNERS],
)
def test_it_learns(entry, learner):
    detector = train(make(entry, learner.arguments, learner.in_channels, learner.spatial_dims), learner.steps)
    assert auroc(detector, turned) >= 0.9
    assert auroc(detector, with_square) >= 0.9
    same = auroc(detector, lambda patches: patches)  # normal patches against normal ones
    assert same == pytest.approx(0.5, abs=0.15)


def test_the_inferer_leaves_a_detector_that_searches_its_gradients():
    detector = train(make(TOYS[Searching], {}, 1, 2), 0)
    modes, score = [], detector.score
    detector.score = lambda patches: modes.append(patches.is_inference()) or score(patches)
    volume = gratings(1, 1, 2, 9)[..., None].expand(-1, -1, -1, -1, 2)
    heatmap = PatchScoreInferer(PatchSpec(SIZE))(volume, detector)
    assert torch.allclose(heatmap, detector(volume[..., 0]).view(1, 1, 1, 1, 1).expand(heatmap.shape))
    assert modes and not any(modes)


def test_a_bank_of_any_length_is_loaded_but_not_one_of_another_width():
    bank = TOYS[TOY_CLASSES["bank"]]
    short, long = (train(make(bank, {"apart": apart}, 1, 2), 0) for apart in (2.0, 0.5))
    assert 1 < len(short.kept) < len(long.kept)
    short.load_state_dict(long.state_dict())
    assert torch.equal(short.kept, long.kept)
    with pytest.raises(RuntimeError, match="size mismatch for kept"):
        make(bank, {}, 3, 2).load_state_dict(long.state_dict())


def test_the_trainer_drives_two_streams_and_names_the_section_that_is_missing(tmp_path):
    case = {"image": gratings(1, 1, 3, 0)[0], "region": torch.ones(1, SIZE, SIZE, SIZE)}
    samplers = [PatchSampler([case], PatchSpec(8), 8, 16, seed=seed) for seed in range(3)]

    def trainer(loaders):
        detector = TOY_CLASSES["two_streams"](patch_size=8)
        settings = {"val_data_loader": samplers[2], "ckpt_dir": tmp_path, "model_file": tmp_path / "model.pt"}
        return DetectorTrainer("cpu", 2, loaders, detector, progress=False, **settings)

    for loaders in (samplers[0], {"training": samplers[0]}):
        with pytest.raises(ConfigError, match=r"TwoStreams learns from the sections training, mixed .* for 'mixed'"):
            trainer(loaders)
    run = trainer({"training": samplers[0], "mixed": samplers[1]})
    run.run()
    assert run.state.epoch == 2 and (tmp_path / "model.pt").exists() and not (tmp_path / "best.pt").exists()
