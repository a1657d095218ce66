"""Random numbers that can be repeated."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from graphkit.utils.seed import rng_state, seed_everything, set_rng_state, stream


def draws():
    return random.random(), np.random.rand(3).tolist(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002


def test_seeding_repeats_every_generator():
    seed_everything(3)
    first = draws()
    assert draws() != first
    seed_everything(3)
    assert draws() == first
    seed_everything(2**40 + 3)  # more than NumPy takes
    assert draws() != first


def test_streams_depend_on_seed_and_keys_alone():
    def first(*keys):
        return torch.rand(4, generator=stream(*keys)).tolist()

    torch.manual_seed(0)
    before = first(1, 2)
    torch.manual_seed(1)
    assert first(1, 2) == before
    keys = [
        (0,),
        (0, 0),
        (0, 0, 0),
        (0, 1),
        (1, 0),
        (1,),
        (0, 1, 0),
        (1, 2),
        (2, 1),
        (2**32,),
        (2**32 + 1,),
        (0, 2**31),
    ]
    assert len({tuple(first(*key)) for key in keys}) == len(keys)


def test_a_stream_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(5, generator=stream(0, 1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("keys", [(-1,), (0, -1)])
def test_negative_seeds_are_refused(keys):
    with pytest.raises(ValueError, match="seed and keys must not be negative"):
        stream(*keys)


def test_states_survive_a_file_that_is_read_safely():
    seed_everything(5)
    np.random.randn()  # noqa: NPY002 (leaves a second number waiting)
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = draws()
    seed_everything(6)
    file.seek(0)
    set_rng_state(torch.load(file, weights_only=True))
    assert draws() == expected
