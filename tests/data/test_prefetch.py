"""One batch ahead, in order, and no error is lost on the way."""

from __future__ import annotations

from threading import Event

import pytest
from monai.data import Dataset

from medanomaly.data import PrefetchDataLoader
from medanomaly.errors import InputError


def loader(transform, n_cases=3):
    return PrefetchDataLoader(Dataset(list(range(n_cases)), transform), batch_size=1)


def test_the_next_case_is_prepared_while_the_present_one_is_worked_on():
    prepared = [Event() for _ in range(3)]

    def prepare(number):
        prepared[number].set()
        return number

    for number, batch in enumerate(loader(prepare)):
        assert batch.item() == number
        assert all(event.wait(timeout=30) for event in prepared[: number + 2])
        assert not any(event.is_set() for event in prepared[number + 2 :]), "one ahead, and no more"


@pytest.mark.parametrize("n_cases", [0, 1, 4])
def test_every_case_comes_once_and_again_in_the_next_round(n_cases):
    cases = loader(lambda number: number, n_cases)
    assert len(cases) == n_cases
    for _ in range(2):
        assert [batch.item() for batch in cases] == list(range(n_cases))


def test_an_error_comes_at_its_case_as_it_was_raised():
    error = InputError("scan.nii.gz cannot be read")

    def prepare(number):
        if number == 1:
            raise error
        return number

    seen = []
    with pytest.raises(Exception, match="applying transform") as caught:
        for batch in loader(prepare):
            seen.append(batch.item())
    assert seen == [0]
    assert caught.value.__cause__ is error


def test_a_loop_that_is_left_early_leaves_no_thread_behind():
    batches = iter(loader(lambda number: number))
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
