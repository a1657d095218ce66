"""What CUDA tensors get where Triton is missing: one warning and the plain PyTorch operators."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from graphkit.ops import NeighborIndex
from graphkit.ops.common_neighbors import _lists_reference
from graphkit.ops.cpu import common_neighbors as cpu
from graphkit.ops.cuda import has_triton


def test_missing_triton_warns_once(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    has_triton.cache_clear()
    try:
        assert not has_triton()
        assert not has_triton()
    finally:
        has_triton.cache_clear()
    assert len([entry for entry in recwarn if "pip install triton" in str(entry.message)]) == 1


def test_reference_lists_take_two_graphs() -> None:
    torch.manual_seed(0)
    first, second = (NeighborIndex(torch.randint(0, 30, (2, size)), 30) for size in (200, 120))
    pairs = torch.randint(0, 30, (2, 40))
    args = (first.rowptr, first.col, second.rowptr, second.col, pairs[0], pairs[1])
    ((want_ptr, want_node),) = cpu.intersect(*args, residual=False)
    (got,) = _lists_reference(*args)
    assert torch.equal(got.ptr, want_ptr)
    assert torch.equal(got.node, want_node)
