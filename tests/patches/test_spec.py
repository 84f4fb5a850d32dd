"""What a patch is, and what cannot be one."""

from __future__ import annotations

import json

import pytest

from medanomaly.errors import ConfigError
from medanomaly.patches import PatchSpec


@pytest.mark.parametrize(
    ("spec", "window", "steps", "cuts"),
    [
        (PatchSpec(16, 2, "coronal", 4), (1, 16, 16), (1, 4, 4), ("coronal",)),
        (PatchSpec(8, 3, stride=3), (8, 8, 8), (3, 3, 3), (None,)),
        (PatchSpec(64, planes=["axial", "sagittal"], stride=64), (1, 64, 64), (1, 64, 64), ("axial", "sagittal")),
    ],
)
def test_window_steps_and_cuts(spec, window, steps, cuts):
    assert (spec.window, spec.steps, spec.cuts) == (window, steps, cuts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"patch_size": 16, "stride": 20}, "stride=20 must be from 1 to patch_size=16"),
        ({"slices": 2}, "slices is 2"),
        ({"slice_step": 0}, "slice_step"),
        ({"slice_step": 2, "slices": 3}, "slice_step is 2, which is for 2-D patches of one slice"),
        ({"slice_step": 2, "spatial_dims": 3}, "slice_step is 2"),
        ({"slices": 3, "spatial_dims": 3}, "slices is 3"),
        ({"planes": ["axial", "transverse"]}, "'transverse' is unknown: use one of axial, coronal, sagittal"),
        ({"planes": []}, r"planes is .*axial, coronal, sagittal"),
    ],
)
def test_what_cannot_be_a_patch_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PatchSpec(**fields)


def test_cubes_have_no_plane():
    assert PatchSpec(8, 3, planes=["transverse"]).cuts == PatchSpec(8, 3, planes=()).cuts == (None,)


def test_it_survives_json_and_its_settings_make_it_again():
    spec = PatchSpec(32, 2, ["axial", "coronal"], 8, 3)
    again = PatchSpec(**json.loads(json.dumps(spec.settings)))
    assert again == spec and hash(again) == hash(spec)


def test_planes_of_training_may_be_others():
    spec = PatchSpec(32, 2, ["axial", "coronal"], 8)
    assert spec.in_planes(None) is spec
    assert spec.in_planes(["axial"]) == PatchSpec(32, 2, ["axial"], 8)
    with pytest.raises(ConfigError, match="'transverse' is unknown"):
        spec.in_planes(["transverse"])
