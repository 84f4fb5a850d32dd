"""The tissue priors of the template lie where the patient's tissue lies, and move with the patient."""

from __future__ import annotations

from functools import cache

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medanomaly.data.demo_cohort import _load_tissue_maps, make_subject
from medanomaly.errors import InputError
from medanomaly.preprocessing import brain_mri, heatmap_to_scan, registration
from medanomaly.preprocessing import context as module
from medanomaly.preprocessing.channels import records_of
from medanomaly.preprocessing.registration import Volume, resampled
from tests.preprocessing.made_heads import found, moved

TEMPLATE = nib.affines.from_matvec(np.eye(3), [-98.0, -134.0, -72.0])  # of the tissue maps
GRID = ("LPS", (3.0, 3.0, 4.0), (6.0, -3.0, 4.0))


@cache
def tissue():
    return _load_tissue_maps()


def prepared(tmp_path, motion):
    """A made brain in MNI space, moved, through the chain; and its file."""
    subject = make_subject(tissue(), np.random.default_rng(4), GRID)
    affine = motion @ subject.affine
    files = {"image": str(tmp_path / "flair.nii.gz"), "region": str(tmp_path / "brain.nii.gz"), "case": "a"}
    nib.save(nib.Nifti1Image(subject.images["flair"], affine), files["image"])
    nib.save(nib.Nifti1Image(subject.brain, affine), files["region"])
    chain = brain_mri(in_channels=1, spacing=(3, 3, 4), context=["grey", "white"])
    return chain, chain(files)


def test_the_maps_follow_a_known_motion(tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "SAMPLES", 15_000)
    motion = moved(shift=(9.0, -6.0, 12.0), degrees=12)
    chain, case = prepared(tmp_path, motion)
    image, inside = case["image"], np.asarray(case["region"][0]) > 0
    assert image.shape[0] == 3 and case["region"].shape[0] == 1
    maps = np.asarray(image[1:])
    assert (maps[:, ~inside] == 0).all() and maps[:, inside].min() > 0 and maps.max() <= 1
    still = []
    for name, values in zip(("gm", "wm"), maps, strict=True):
        prior = Volume(tissue()[name], TEMPLATE)
        true, unmoved = (
            resampled(prior, image.shape[1:], np.asarray(image.affine), matrix)[0][inside]
            for matrix in (np.linalg.inv(motion), np.eye(4))
        )
        assert np.corrcoef(values[inside], true)[0, 1] > 0.85
        still.append(np.corrcoef(values[inside], unmoved)[0, 1])
    assert max(still) < 0.6
    (one,) = records_of(image)
    assert one["what"] == "template" and 0.9 < one["stretch"][0] <= one["stretch"][1] < 1.1
    centre = np.array([0.0, -20.0, 10.0])  # from the patient to the template
    assert np.linalg.norm(nib.affines.apply_affine(np.array(one["matrix"]) @ motion, centre) - centre) < 2.5

    heatmap = heatmap_to_scan(chain)({**case, "pred": image[:1].as_tensor()})["pred"]  # further channels change no way
    assert heatmap.shape[1:] == nib.load(tmp_path / "flair.nii.gz").shape


@pytest.mark.parametrize(("changes", "said"), [({"sharpness": 0.9}, "1.1 times"), ({"stretch": (0.6, 1.0)}, "0.60 to")])
def test_what_does_not_fit_the_template_is_refused(changes, said, monkeypatch):
    monkeypatch.setattr(module, "register", lambda *_, **__: found(**changes))
    image = MetaTensor(torch.rand(1, 8, 8, 8), meta={"filename_or_obj": "noise.nii"})
    with pytest.raises(InputError, match=rf"the template of a brain cannot be registered to noise\.nii: .*{said}"):
        module.TissueContextd(["white"])({"image": image, "region": MetaTensor(torch.ones(1, 8, 8, 8))})
