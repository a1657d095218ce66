"""Contrastive node vectors for a graph whose edges cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops import NeighborIndex
from graphkit.utils.checks import check_choice, check_int, check_range

FUSIONS = ("sum_logits", "mean_loss")


class StableContrast(nn.Module):
    r"""The encoder of `"Reliable Representations Make A Stronger Defender: Unsupervised Structure Refinement for Robust
    GNN" <https://arxiv.org/abs/2207.00012>`_ with its contrastive loss.

    .. math:: f(X, A) = \mathrm{PReLU}(\hat A X W + b), \qquad \hat A = D^{-1/2} (A + \beta I) D^{-1/2}

    Node vectors :math:`h_i` of :math:`f(X, A_P)` on a pruned graph are told from those :math:`\bar h_i` of shuffled
    features by M summaries :math:`s_m = \sigma(\mathrm{mean}_i f(X, A_m)_i)` of views of the graph, to which edges that
    were pruned have come back at random. With :math:`D(h, s) = h^\top W_b s + b_b`,

    .. math:: L = -\tfrac{1}{2NM} \sum_{i,m} \log \sigma(D(h_i, s_m)) + \log(1 - \sigma(D(\bar h_i, s_m)))

    A step costs O(nnz(X) d + M E d + N d) for width d: the product X W is shared by all graphs, and its rows are
    shuffled for the negatives; a pair of node and summary costs one dot product.

    Args:
        in_channels: width of ``x``.
        embed_channels: width d of the vectors.
        beta: weight of a node itself; the same in the pruned graph and in the views (the released code adds one in the
            views).
        num_views: M.
        fuse: ``"mean_loss"`` is the equation; ``"sum_logits"``, as in the released code, adds the M logits of a node
            before it takes the loss.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, dense or sparse CSR; the pruned graph and a sequence of M views, each
          as :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** the loss, a scalar; ``[N, embed_channels]`` of :meth:`embed`

    Raises:
        ValueError: a size below 1, ``beta`` not above 0, an unknown ``fuse``, another number of views.

    Example:
        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> model = StableContrast(8, 4)
        >>> model(torch.randn(3, 8), edges, [edges, edges]).shape, model.embed(torch.randn(3, 8), edges).shape
        (torch.Size([]), torch.Size([3, 4]))
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        embed_channels: int = 512,
        beta: float = 2.0,
        num_views: int = 2,
        fuse: str = "sum_logits",
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.embed_channels = check_int(embed_channels, "embed_channels", 1)
        self.beta = check_range(beta, "beta", 0, 1e6, low_open=True)
        self.num_views = check_int(num_views, "num_views", 1)
        self.fuse = check_choice(fuse, "fuse", FUSIONS)
        self.linear = SparseLinear(in_channels, embed_channels, bias=False)
        self.bias = nn.Parameter(torch.empty(embed_channels))
        self.slope = nn.Parameter(torch.empty(1))
        self.bilinear = nn.Linear(embed_channels, embed_channels, bias=False)
        self.offset = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot for matrices, zero for biases, 0.25 for the slope."""
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.xavier_uniform_(self.bilinear.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.offset)
        nn.init.constant_(self.slope, 0.25)

    def forward(
        self,
        x: Tensor,
        edge_index: NeighborIndex | Tensor,
        view_edge_indices: Sequence[NeighborIndex | Tensor],
        order: Tensor | None = None,
    ) -> Tensor:
        """The loss; ``order`` ``[N]`` says whose features each node gets as its negative, a random order if None."""
        positive, negative = self.logits(x, edge_index, view_edge_indices, order)
        if self.fuse == "sum_logits":
            positive, negative = positive.sum(1), negative.sum(1)
        return (F.softplus(-positive).mean() + F.softplus(negative).mean()) / 2

    def logits(
        self,
        x: Tensor,
        edge_index: NeighborIndex | Tensor,
        view_edge_indices: Sequence[NeighborIndex | Tensor],
        order: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``[N, M]`` scores of the nodes and of their negatives against each summary."""
        if len(view_edge_indices) != self.num_views:
            raise ValueError(f"view_edge_indices must hold num_views={self.num_views} (got {len(view_edge_indices)})")
        product = self.linear(x)
        if order is None:
            order = torch.randperm(product.size(0), device=product.device)
        graph = NeighborIndex.of(edge_index, product.size(0))
        # Rows of X W in another order are the product of the rows of X in that order.
        h, shuffled = self._spread(product, graph), self._spread(product[order], graph)
        summaries = [torch.sigmoid(self._spread(product, view).mean(0)) for view in view_edge_indices]
        keys = self.bilinear(torch.stack(summaries)).t()
        return h @ keys + self.offset, shuffled @ keys + self.offset

    def encode(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        """``[N, embed_channels]`` vectors f(X, A), with gradients."""
        return self._spread(self.linear(x), edge_index)

    @torch.no_grad()
    def embed(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        """``[N, embed_channels]`` vectors f(X, A), without gradients."""
        return self.encode(x, edge_index)

    def _spread(self, product: Tensor, graph: NeighborIndex | Tensor) -> Tensor:
        # A + beta I is beta (A / beta + I), and beta cancels in the normalised matrix.
        out = propagate(product, graph, "gcn", 1 / self.beta) + self.bias
        # PReLU, whose own kernel takes a CPU several times as long.
        return torch.lerp(out.relu(), out, self.slope)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.embed_channels}, beta={self.beta}, num_views={self.num_views}"
        return f"{type(self).__name__}({sizes}, fuse={self.fuse!r})"
