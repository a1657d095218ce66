"""A graph network with a codebook between its two layers: a classifier whose nodes have discrete codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.nn.conv.propagate import dense_features, graph_for
from graphkit.nn.conv.sparse_linear import sparse_dropout
from graphkit.nn.models.gnn import GNN
from graphkit.nn.quantize import VectorQuantizer, VQOutput
from graphkit.ops import NeighborIndex
from graphkit.ops.dropout import dropout
from graphkit.ops.edge_reconstruction import MODES, edge_reconstruction_loss
from graphkit.utils.checks import check_choice, check_int, check_probabilities, check_range, check_rows

_SHARPNESS = 2  # exponent of the scaled cosine error


class TokenizerOutput(NamedTuple):
    """What :class:`GraphTokenizer` returns.

    Attributes:
        logits: ``[N, out_channels]``.
        tokens: codes, scores and statistics of the quantiser.
        losses: while training, by name and with their weights: ``commitment``, ``node`` and ``edge``; else empty.
    """

    logits: Tensor
    tokens: VQOutput
    losses: dict[str, Tensor]


class GraphTokenizer(nn.Module):
    r"""The structure-aware tokenizer of `"VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
    <https://arxiv.org/abs/2308.02117>`_: each node gets the code of its local structure.

    .. math::
        h = \text{Drop}(\text{ReLU}(\text{Conv}_1(X))), \quad q = \text{VQ}(h), \quad e = W_e q, \quad n = W_n q, \quad
        \text{logits} = W \, \text{ReLU}(\text{Conv}_2(e))

    Besides the class loss, which is its task's, it is trained by the commitment of the quantiser, the reconstruction of
    nodes :math:`\lambda_\text{node} \, \text{mean} \, (h - n)^2` and that of edges,
    :math:`\lambda_\text{edge}` :func:`~graphkit.ops.edge_reconstruction.edge_reconstruction_loss` of :math:`e`.

    Cost beyond the two convolutions: O(N K C) for the codes, O(N C²) for the two linear maps and O(E C + U² C) for the
    edges, with C the code dimension and U the number of codes in use. No N x N matrix is made.

    Args:
        in_channels: width of the features.
        hidden_channels: width after the second convolution.
        out_channels: number of classes.
        num_codes: number of codes K.
        conv: ``"gcn"``, ``"sage"``, or a function ``conv(in_channels, out_channels)`` that makes a layer
            ``layer(x, graph)``, such as one of PyG.
        code_dim: width of the codes; ``in_channels`` if None, as in the paper.
        input_dropout: dropout of the features.
        dropout: dropout of the vectors before they are quantised, as in the paper. It moves them away from where they
            are in eval mode, so that few codes are in use then.
        lambda_node, lambda_edge: weights of the reconstructions; 0 leaves one out.
        recon: ``"mse"`` reconstructs the first layer's output (as released), ``"sce"`` the features by
            :math:`\text{mean} \, (1 - \cos)^2` (as in the paper).
        edge_recon: ``"minmax"`` (as released), ``"sigmoid"`` (as in the paper) or ``"sampled"``.
        quantizer: further arguments of :class:`~graphkit.nn.VectorQuantizer`.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR with ``"gcn"`` and ``"sage"``), graph as
          :class:`~graphkit.ops.NeighborIndex` or ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** :class:`TokenizerOutput`

    Raises:
        ValueError: an argument out of range, or features that are not finite.

    Example:
        >>> tokenizer = GraphTokenizer(8, 16, 3, num_codes=32)
        >>> logits, tokens, losses = tokenizer(torch.rand(3, 8), torch.tensor([[0, 1], [1, 0]]))
        >>> logits.shape, tokens.code.shape, sorted(losses)
        (torch.Size([3, 3]), torch.Size([3]), ['commitment', 'edge', 'node'])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_codes: int,
        conv: str | Callable[[int, int], nn.Module] = "gcn",
        *,
        code_dim: int | None = None,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        lambda_node: float = 1e-3,
        lambda_edge: float = 0.03,
        recon: str = "mse",
        edge_recon: str = "minmax",
        **quantizer: Any,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.hidden_channels = check_int(hidden_channels, "hidden_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.code_dim = in_channels if code_dim is None else check_int(code_dim, "code_dim", 1)
        check_probabilities(input_dropout=input_dropout, dropout=dropout)
        self.input_dropout, self.dropout = input_dropout, dropout
        self.lambda_node = check_range(lambda_node, "lambda_node", 0)
        self.lambda_edge = check_range(lambda_edge, "lambda_edge", 0)
        self.recon = check_choice(recon, "recon", ("mse", "sce"))
        self.edge_recon = check_choice(edge_recon, "edge_recon", MODES)
        self.conv1 = _layer(conv, in_channels, self.code_dim)
        self.quantizer = VectorQuantizer(self.code_dim, num_codes, **quantizer)
        self.lin_edge = nn.Linear(self.code_dim, self.code_dim)
        self.lin_node = None
        if lambda_node:
            self.lin_node = nn.Linear(self.code_dim, in_channels if recon == "sce" else self.code_dim)
        self.conv2 = _layer(conv, self.code_dim, hidden_channels)
        self.lin_out = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw weights and codebook anew."""
        for part in (self.conv1, self.quantizer, self.lin_edge, self.lin_node, self.conv2, self.lin_out):
            if part is not None:
                part.reset_parameters()  # type: ignore[operator]

    def encode(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        """``[N, code_dim]`` vectors before they are quantised."""
        x = sparse_dropout(x, self.input_dropout, self.training)
        h = F.relu(_passed(self.conv1, x, edge_index))
        return dropout(h, self.dropout, self.training)

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> TokenizerOutput:
        check_rows(x, self.in_channels, self.lin_out.weight)
        graph = NeighborIndex.of(edge_index, x.size(0))
        h = self.encode(x, graph)
        tokens = self.quantizer(h)
        e = self.lin_edge(tokens.quantized)
        logits = self.lin_out(F.relu(_passed(self.conv2, e, graph)))
        return TokenizerOutput(logits, tokens, self._losses(x, h, e, tokens, graph) if self.training else {})

    def _losses(self, x: Tensor, h: Tensor, e: Tensor, tokens: VQOutput, graph: NeighborIndex) -> dict[str, Tensor]:
        losses = {"commitment": tokens.loss}
        if self.lin_node is not None:
            n = self.lin_node(tokens.quantized)
            error = F.mse_loss(n, h) if self.recon == "mse" else _scaled_cosine_error(x, n)
            losses["node"] = self.lambda_node * error
        if self.lambda_edge:
            # Nodes of one code have equal vectors; several heads have too many combinations to gain by it.
            group = tokens.code if tokens.code.dim() == 1 else None
            losses["edge"] = self.lambda_edge * edge_reconstruction_loss(e, graph, self.edge_recon, group=group)
        return losses

    @torch.no_grad()
    def tokenize(self, data: Data, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
        """Codes ``[N]`` of the nodes of any graph, and their soft assignment ``[N, K]``, in eval mode.

        The assignment is the softmax of the scores over ``temperature``.
        """
        check_range(temperature, "temperature", 0, low_open=True)
        if data.x is None or data.edge_index is None:
            raise ValueError("data must have x and edge_index")
        before = self.training
        self.eval()
        tokens = self.quantizer(self.encode(data.x, data.edge_index))
        self.train(before)
        return tokens.code, (tokens.scores / temperature).softmax(-1)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.out_channels}, {self.quantizer.num_codes}"
        return f"{type(self).__name__}({sizes}, code_dim={self.code_dim})"


def _layer(conv: str | Callable[[int, int], nn.Module], in_channels: int, out_channels: int) -> nn.Module:
    if callable(conv):
        return conv(in_channels, out_channels)
    return GNN(in_channels, out_channels, num_layers=1, conv=check_choice(conv, "conv", ("gcn", "sage")))


def _passed(layer: nn.Module, x: Tensor, graph: NeighborIndex | Tensor) -> Tensor:
    """``layer(x, graph)`` with both in the layer's own form."""
    return layer(x if getattr(layer, "takes_index", False) else dense_features(x), graph_for(layer, graph))


def _scaled_cosine_error(x: Tensor, n: Tensor) -> Tensor:
    if x.is_sparse_csr:
        row = torch.arange(x.size(0), device=x.device).repeat_interleave(x.crow_indices().diff())
        values = x.values()
        dots = values.new_zeros(x.size(0)).index_add(0, row, values * n[row, x.col_indices()])
        norm = values.new_zeros(x.size(0)).index_add(0, row, values.square()).sqrt()
        cosine = dots / (norm * n.norm(dim=1)).clamp(min=1e-12)
    else:
        cosine = F.cosine_similarity(x, n, dim=1)
    return (1 - cosine).pow(_SHARPNESS).mean()
