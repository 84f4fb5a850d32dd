"""The folder of the cache: where it is, whose it and its files are, and how much is kept in it."""

from __future__ import annotations

import os
import stat
import warnings

import pytest

from medanomaly.preprocessing import brain_mri, cache, user_cache
from medanomaly.preprocessing.arrays import space_of
from tests.preprocessing.cached_cases import assert_same, counting, kept


def test_the_cases_that_were_not_used_for_longest_go_first(case, folder):
    chain = brain_mri(cache_dir=folder)
    cases = [{"image": [image], "region": case["region"]} for image in case["image"]]
    for number, one in enumerate(cases):
        chain(one)
        (new,) = [file for file in kept(folder) if file.stat().st_mtime > 1e9]
        os.utime(new, (number, number))
    first, second = sorted(kept(folder), key=lambda file: file.stat().st_mtime)
    chain(cases[0])  # used again: the second is now the oldest
    chain.max_bytes = 2.5 * space_of(first.stat())
    chain({**cases[0], "label": case["label"]})
    assert len(kept(folder)) == 2
    assert first in kept(folder)
    assert second not in kept(folder)
    assert sum(space_of(file.stat()) for file in kept(folder)) <= chain.max_bytes


def test_by_default_half_of_the_free_space_and_no_more_than_100_gb(case, folder, monkeypatch):
    chain = brain_mri(cache_dir=folder)
    cases = [{"image": [image], "region": case["region"]} for image in case["image"]]
    chain(cases[0])
    size, free = space_of(kept(folder)[0].stat()), 0
    usage = type("Usage", (), {"free": property(lambda self: free)})()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    free = 3 * size  # two of five
    chain(cases[1])
    assert len(kept(folder)) == 2
    free = 1.9 * size  # of three, one and not two
    chain(case)
    assert len(kept(folder)) < 3
    free = 1e15
    monkeypatch.setattr(cache, "MOST_BYTES", 0)
    chain({"image": case["image"][::-1], "region": case["region"]})
    assert kept(folder) == []


def test_what_else_lies_in_the_folder_is_left_alone(case, folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    chain = brain_mri(cache_dir=folder)
    chain.max_bytes = 0
    chain(case)
    assert [file.name for file in kept(folder)] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_warned_of_once(case, tmp_path):
    (tmp_path / "file").write_text("no folder")
    chain = brain_mri(cache_dir=tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="prepared cases are not kept"):
        found = chain(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*the brain mask has", UserWarning)  # it is a small one
        assert_same(chain(case), found)
    assert_same(found, brain_mri()(case))


def test_the_folder_of_the_bundles_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDANOMALY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "medanomaly"
    monkeypatch.setenv("MEDANOMALY_CACHE", str(tmp_path / "elsewhere"))
    assert user_cache() == tmp_path / "elsewhere"


@pytest.mark.parametrize("variable", ["MEDANOMALY_CACHE", "XDG_CACHE_HOME"])
def test_a_tilde_is_the_users_home(case, monkeypatch, tmp_path, variable):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MEDANOMALY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # as good as not set
    assert user_cache() == tmp_path / ".cache" / "medanomaly"
    monkeypatch.setenv(variable, "~/brains")
    assert user_cache() == tmp_path / "brains" / ("" if variable == "MEDANOMALY_CACHE" else "medanomaly")
    brain_mri(cache_dir="~/kept here")(case)
    assert len(kept(tmp_path / "kept here")) == 1


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [None, 0o777, 0o755], ids=["new", "777", "755"])
def test_the_folder_and_its_files_are_the_owners_alone(case, folder, before):
    one = {"image": case["image"][:1], "region": case["region"]}
    brain_mri(cache_dir=folder)(one)
    if before is not None:  # as an earlier version, or the user, left it
        (entry,) = kept(folder)
        entry.chmod(0o644)
        folder.chmod(before)
    umask = os.umask(0)
    try:
        brain_mri(cache_dir=folder)(case)
    finally:
        os.umask(umask)
    assert mode(folder) == 0o700
    assert [mode(entry) for entry in kept(folder)] == [0o600] * 2


def test_a_hit_makes_them_private_too(case, folder):
    brain_mri(cache_dir=folder)(case)
    folder.chmod(0o777)
    kept(folder)[0].chmod(0o666)
    chain, prepared = counting(brain_mri(cache_dir=folder))
    chain(case)
    assert prepared == []
    assert (mode(folder), mode(kept(folder)[0])) == (0o700, 0o600)


def test_what_else_lies_in_the_folder_keeps_its_mode(case, folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "notes.txt").chmod(0o644)
    brain_mri(cache_dir=folder)(case)
    assert mode(folder / "notes.txt") == 0o644


def not_ours(monkeypatch, *paths):
    """Make ``os`` say that some files are of another user, which only root could bring about."""
    own = {name: getattr(os, name) for name in ("stat", "lstat", "fstat")}
    numbers = {(found.st_dev, found.st_ino) for found in map(os.stat, paths)}

    def told(name):
        def ask(path, *args, **kwargs):
            found = own[name](path, *args, **kwargs)
            if (found.st_dev, found.st_ino) not in numbers:
                return found
            return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]], {})

        return ask

    for name in own:
        monkeypatch.setattr(os, name, told(name))


@pytest.mark.parametrize("why", ["sticky", "not ours"])
def test_a_folder_that_others_share_keeps_its_mode_and_nothing_is_kept_there(case, folder, why, monkeypatch):
    folder.mkdir()
    folder.chmod(0o1777 if why == "sticky" else 0o777)
    if why == "not ours":
        not_ours(monkeypatch, folder)
    chain = brain_mri(cache_dir=folder)
    with pytest.warns(UserWarning, match=rf"prepared cases are not kept.*{folder}"):
        chain(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*the brain mask has", UserWarning)  # it is a small one
        assert_same(chain(case), brain_mri()(case))
    assert kept(folder) == []
    assert mode(folder) == (0o1777 if why == "sticky" else 0o777)


def test_an_entry_of_another_user_is_never_read(case, folder, monkeypatch):
    expected = brain_mri(cache_dir=folder)(case)
    (entry,) = kept(folder)
    not_ours(monkeypatch, entry)
    monkeypatch.setattr("json.loads", lambda content: pytest.fail("it was read"))
    chain, prepared = counting(brain_mri(cache_dir=folder))
    assert_same(chain(case), expected)
    assert len(prepared) == 1
