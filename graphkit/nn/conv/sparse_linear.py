"""A linear layer for features that are mostly zero, such as bags of words."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.ops import spmm
from graphkit.ops.csr import counts_to_ptr, ptr_to_index
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import check_like, check_range, check_rows

# PyTorch says so at the first sparse matrix; nothing here depends on more than their storage.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class SparseLinear(nn.Linear):
    """Input dropout and a linear map, for dense features or a sparse CSR matrix.

    A bag of words with 1 % of entries set costs 1 % of the multiplications and of the dropout draws; the result is the
    same function of the same features.

    Args:
        in_channels, out_channels: sizes.
        dropout: probability of dropping an input entry while training.
        bias: add a bias.

    Shapes:
        - **input:** ``[N, in_channels]``, strided or ``torch.sparse_csr``
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: the input has another width, or ``dropout`` is no probability.

    Example:
        >>> x = torch.eye(4)
        >>> layer = SparseLinear(4, 2)
        >>> torch.allclose(layer(x), layer(x.to_sparse_csr()))
        True
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, bias)
        self.dropout = check_range(dropout, "dropout", 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = sparse_dropout(check_rows(x, self.in_features), self.dropout, self.training)
        if not x.is_sparse_csr:
            return F.linear(check_like(x, self.weight), self.weight, self.bias)
        out = spmm(x.crow_indices(), x.col_indices(), self.weight.t().contiguous(), x.values().to(self.weight.dtype))
        return out if self.bias is None else out + self.bias


def sparse_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout; of a sparse CSR matrix only the stored entries are drawn, since zeros stay zero anyway."""
    if not check_like(x, None).is_sparse_csr:
        return dropout(x, p, training)
    if not training or p == 0:
        return x
    values = dropout(x.values(), p, training)
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)


def linear_of_sparse_rows(linear: nn.Linear, x: Tensor) -> Tensor:
    """``linear(x)`` for a matrix of which most rows are zero: those rows become the bias, without a product."""
    # A GPU would have to wait until the rows are counted, which takes longer than the product; a compiled graph cannot.
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return linear(x)
    filled = x.detach().any(dim=1).nonzero()[:, 0]
    if 2 * filled.numel() > x.size(0):
        return linear(x)
    product = x[filled] @ linear.weight.t()
    out = product.new_zeros(x.size(0), linear.out_features).index_copy(0, filled, product)
    return out if linear.bias is None else out + linear.bias


def sparsify(x: Tensor, density: float = 0.2) -> Tensor:
    """``x`` as a sparse CSR matrix if at most a share ``density`` of it is not zero, else ``x`` itself."""
    if x.is_sparse_csr or int(x.count_nonzero()) > density * x.numel():
        return x
    return x.to_sparse_csr()


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` of a dense or sparse CSR matrix. O(entries of these rows)."""
    if not x.is_sparse_csr:
        return x.index_select(0, rows)
    start = x.crow_indices()[rows]
    count = x.crow_indices()[rows + 1] - start
    pointer = counts_to_ptr(count)
    row = ptr_to_index(pointer)
    entry = torch.arange(row.numel(), device=row.device) + (start - pointer[:-1])[row]
    size = (rows.numel(), x.size(1))
    return torch.sparse_csr_tensor(pointer, x.col_indices()[entry], x.values()[entry], size, check_invariants=False)


def stack_rows(x: Tensor, copies: int) -> Tensor:
    """``copies`` times a dense or sparse CSR matrix, one below the other."""
    if not x.is_sparse_csr:
        return x.repeat(copies, 1)
    pointer, size = x.crow_indices(), (copies * x.size(0), x.size(1))
    starts = torch.arange(copies, device=pointer.device)[:, None] * pointer[-1]
    pointers = torch.cat([pointer[:1], (pointer[1:] + starts).flatten()])
    column, values = x.col_indices().repeat(copies), x.values().repeat(copies)
    return torch.sparse_csr_tensor(pointers, column, values, size, check_invariants=False)
