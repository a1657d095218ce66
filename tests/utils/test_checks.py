"""Every check names the argument, what it got and what to do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphkit.utils.checks import (
    check_choice,
    check_device,
    check_features,
    check_finite,
    check_int,
    check_like,
    check_mask,
    check_pair_shape,
    check_pairs,
    check_range,
    check_rows,
    check_values,
    nearest,
)
from graphkit.utils.extras import require


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_pairs_in_range_come_back(dtype):
    pairs = torch.tensor([[0, 4], [2, 0]], dtype=dtype)
    assert check_pairs(pairs, 5) is pairs
    assert check_pairs(pairs[:, :0], 0).numel() == 0


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([[0], [1]], TypeError, r"pairs must be a torch.Tensor of node ids \(got list\)"),
        (torch.zeros(2, 3), TypeError, r"int64 or int32 \(got torch.float32\); convert with .long\(\)"),
        (torch.zeros(2, 3, dtype=torch.bool), TypeError, "int64 or int32"),
        (torch.zeros(3, 2, dtype=torch.long), ValueError, r"shape \[2, num_pairs\] \(got \[3, 2\]\)"),
        (torch.zeros(2, dtype=torch.long), ValueError, "shape"),
        (torch.tensor([[0], [5]]), IndexError, r"pairs holds node id 5, outside \[0, 5\)"),
        (torch.tensor([[0, -3], [1, 9]]), IndexError, "pairs holds node id -3"),
        (torch.tensor([[0], [-(2**62)]]), IndexError, "pairs holds node id"),
    ],
)
def test_pairs_refused(pairs, error, message):
    with pytest.raises(error, match=message):
        check_pairs(pairs, 5, "pairs")
    if error is IndexError:
        assert check_pair_shape(pairs, "pairs") is pairs
    else:
        with pytest.raises(error, match=message):
            check_pair_shape(pairs, "pairs")


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), max_size=8), st.integers(0, 10))
def test_pairs_are_refused_exactly_if_an_id_is_outside(pairs, num_nodes):
    tensor = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t()
    if all(0 <= i < num_nodes for pair in pairs for i in pair):
        check_pairs(tensor, num_nodes)
    else:
        with pytest.raises(IndexError):
            check_pairs(tensor, num_nodes)


def with_value(value, dtype=torch.float32):
    x = torch.zeros(4, 3, dtype=dtype)
    x[2, 1] = value
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_finite_features_come_back(dtype):
    x = with_value(1.0, dtype)
    assert check_features(x) is x
    sparse = x.float().to_sparse_csr()
    assert check_features(sparse) is sparse
    assert check_features(x[:0]).numel() == check_features(x[:, :0]).numel() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_first_value_that_is_not_finite_is_named(value, sparse):
    x = with_value(value)
    with pytest.raises(ValueError, match=rf"features holds {value} at \[2, 1\]; clean or impute"):
        check_features(x.to_sparse_csr() if sparse else x, "features")


def test_features_of_another_type():
    with pytest.raises(TypeError, match=r"x must be floating point \(got torch.int64\)"):
        check_features(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"matrix .*\(got \[4\]\)"):
        check_features(torch.zeros(4))
    with pytest.raises(ValueError, match=r"matrix .*\(got ndarray\)"):
        check_features(np.zeros((2, 2)))


def test_ranges():
    assert check_range(0.5, "p", 0, 1) == 0.5
    assert check_range(np.float32(0.5), "p", 0, 1) == 0.5
    assert check_range(0, "p", 0) == 0
    for value, low_open in ((-0.1, False), (1.1, False), (math.nan, False), (0, True)):
        with pytest.raises(ValueError, match=rf"p must be in .*\(got {value}\)"):
            check_range(value, "p", 0, 1, low_open=low_open)
    for value in ("1", None, True, torch.tensor(0.5)):
        with pytest.raises(TypeError, match="p must be a number"):
            check_range(value, "p", 0, 1)


def test_integers():
    for value in (3, np.int64(3), np.uint8(3)):
        found = check_int(value, "k", 0)
        assert found == 3
        assert type(found) is int
    for value in (3.0, "3", True, None):
        with pytest.raises(TypeError, match="k must be an integer"):
            check_int(value, "k")
    with pytest.raises(ValueError, match=r"k must be in \[0, 5\] \(got 6\)"):
        check_int(6, "k", 0, 5)
    assert check_int(-(10**30), "k") == -(10**30)


def test_choices_suggest_the_nearest():
    assert check_choice("mean", "aggr", ("sum", "mean")) == "mean"
    with pytest.raises(ValueError, match=r"aggr must be one of sum, mean \(got 'Maen'\); did you mean 'mean'\?"):
        check_choice("Maen", "aggr", ("sum", "mean"))
    with pytest.raises(ValueError, match=r"\(got 'zzz'\)$"):
        check_choice("zzz", "aggr", ("sum", "mean"))
    assert nearest("cora", ["Cora", "PubMed"]) == "; did you mean 'Cora'?"


def test_extras_are_named():
    assert require("math", "anything") is math
    with pytest.raises(ImportError, match=r"no_such_module is needed here: pip install 'graphkit\[tune\]'"):
        require("no_such_module", "tune")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: check_mask(torch.ones(3), [3], "there"),
            TypeError,
            r"mask must be bool, True for there .got torch.float32",
        ),
        (lambda: check_mask(torch.ones(2, 3).bool(), [3], "there"), ValueError, r"mask must broadcast to \[3\]"),
        (lambda: check_mask(torch.ones(3, 2).bool(), [4, 2], "there"), ValueError, r"got \[3, 2\]"),
        (lambda: check_finite(torch.tensor([[0.0], [torch.inf]])), ValueError, r"x holds inf at \[1, 0\]"),
        (lambda: check_device(a=torch.ones(1), b=torch.ones(1, device="meta")), ValueError, "b is on meta, a on cpu"),
        (lambda: check_values(a=None, b=torch.ones(1, device="meta")), ValueError, "b must have values .*on meta"),
        (lambda: check_features(torch.ones(1, 1, device="meta")), ValueError, "x must have values"),
        (lambda: check_pairs(torch.ones(2, 1, device="meta").long(), 3), ValueError, "edge_label_index must have val"),
        (lambda: check_rows(torch.ones(2, 3), 4, name="y"), ValueError, r"y must have shape \[N, 4\] \(got \[2, 3\]\)"),
        (lambda: check_like([1.0], None), TypeError, r"x must be a torch.Tensor \(got list\)"),
        (lambda: check_features(None), ValueError, "got NoneType.; graphkit.transforms.RandomWalkEncoding"),
    ],
)
def test_tensors_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tensors_that_fit_come_back():
    mask, x = torch.ones(1, 3).bool(), torch.ones(2, 3)
    assert check_mask(mask, [5, 2, 3], "there") is mask
    assert check_rows(x, 3, torch.ones(1)) is check_finite(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert check_like(x.bfloat16(), x).dtype == torch.bfloat16
    check_device(x=x, nothing=None)
