"""Neural Common Neighbor and its completion: scores of links from the learned features of shared neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.conv.sparse_linear import linear_of_sparse_rows
from graphkit.nn.dropout import Dropout
from graphkit.ops import NeighborIndex, NodeLists, common_neighbor_sum, common_neighbors, pair_product, spmm
from graphkit.utils.checks import check_choice, check_pairs, check_range

POOLS = ("features", "count", "none")


def _block(width_in: int, width: int, dropout: float, norm: bool) -> list[nn.Module]:
    normalise = [nn.LayerNorm(width)] if norm else []
    return [nn.Linear(width_in, width), *normalise, Dropout(dropout), nn.ReLU(inplace=True)]


class NCNDecoder(nn.Module):
    r"""Neural Common Neighbor from `"Neural Common Neighbor with Completion for Link Prediction"
    <https://arxiv.org/abs/2302.00890>`_.

    .. math:: s_{ij} = f\big(\beta \, g(\textstyle\sum_{w \in N(i) \cap N(j)} \tilde z_w) + e(z_i \odot z_j)\big),
              \qquad \tilde z = z + \mathrm{MLP}(z)

    O(d F) a link of common-neighbourhood size d, plus the MLPs; the neighbourhoods are never stored.

    Args:
        in_channels: width of the node vectors ``z`` of any encoder.
        hidden_channels: width of the MLPs.
        out_channels: scores a link.
        dropout: dropout in every MLP.
        edge_dropout: probability of leaving an edge out of the neighbourhoods while training, each direction by itself.
        beta: start of the learned weight of the common-neighbour branch.
        node_mlp: pool :math:`\tilde z` rather than ``z``.
        tail_act: end the branches with their activation instead of one more linear layer.
        two_layer_head: one more hidden layer in :math:`f`.
        layer_norm: LayerNorm in the MLPs.
        orders: which neighbourhoods to intersect: ``(1, 1)`` are common neighbours; add ``(1, 2)`` and ``(2, 1)`` for
            NCN2, which also pools N(i) ∩ N²(j) and N²(i) ∩ N(j), the only ones not empty between the two sides of a
            bipartite graph.
        use_pair: keep the branch of :math:`z_i \odot z_j`.
        pool: ``"features"``; ``"count"`` replaces the pooled features by how many there are; ``"none"`` leaves the
            branch out, which is the inner-product-like decoder of a graph autoencoder.
        use_residual: also pool the neighbours of one end only, through an MLP of their own (NCN-diff).

    Shapes:
        - **input:** ``z`` ``[N, in_channels]``, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index``
          ``[2, E]`` (both directions of each edge), ``edge_label_index`` ``[2, B]``
        - **output:** ``[B, out_channels]`` logits

    Raises:
        IndexError: a node id outside the graph.
        ValueError: an argument out of range, ``z`` of another width, or nothing left to score with.

    Example:
        >>> decoder = NCNDecoder(16, 32)
        >>> z, edge_index = torch.randn(3, 16), torch.tensor([[0, 2, 1, 2], [2, 0, 2, 1]])
        >>> decoder(z, edge_index, torch.tensor([[0], [1]])).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int = 1,
        *,
        dropout: float = 0.0,
        edge_dropout: float = 0.0,
        beta: float = 1.0,
        node_mlp: bool = True,
        tail_act: bool = True,
        two_layer_head: bool = False,
        layer_norm: bool = True,
        orders: tuple[tuple[int, int], ...] = ((1, 1),),
        use_pair: bool = True,
        pool: str = "features",
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        for name, size in {
            "in_channels": in_channels,
            "hidden_channels": hidden_channels,
            "out_channels": out_channels,
        }.items():
            check_range(size, name, 1)
        check_range(dropout, "dropout", 0, 1)
        check_range(edge_dropout, "edge_dropout", 0, 1)
        check_choice(pool, "pool", POOLS)
        if not orders or any(order not in ((1, 1), (1, 2), (2, 1)) for order in orders):
            raise ValueError(f"orders must be some of (1, 1), (1, 2), (2, 1) (got {orders})")
        if pool == "none" and not use_pair:
            raise ValueError("use_pair=False with pool='none' leaves nothing to score with; set one of them")
        if pool == "none" and use_residual:
            raise ValueError("use_residual=True needs pool='features' or 'count' (got 'none')")
        self.in_channels, self.hidden_channels, self.out_channels = in_channels, hidden_channels, out_channels
        self.edge_dropout, self.orders, self.pool, self.use_pair = edge_dropout, tuple(orders), pool, use_pair
        hidden = hidden_channels
        last = [] if tail_act else [nn.Linear(hidden, hidden)]

        def branch() -> nn.Sequential:
            width = in_channels if pool == "features" else 1
            return nn.Sequential(
                *_block(width, hidden, dropout, norm=False),
                *_block(hidden, hidden, dropout, layer_norm),
                *(nn.Linear(hidden, hidden) for _ in last),
            )

        self.node_mlp = None
        if node_mlp and pool == "features":
            self.node_mlp = nn.Sequential(
                *_block(in_channels, in_channels, dropout, norm=False),
                *_block(in_channels, in_channels, dropout, layer_norm),
            )
        direct, indirect = (1, 1) in orders, any(order != (1, 1) for order in orders)
        self.common_mlp = branch() if pool != "none" and direct else None
        self.order_mlp = branch() if pool != "none" and indirect else None
        self.residual_mlp = branch() if use_residual else None
        self.beta = nn.Parameter(torch.tensor([float(beta)])) if pool != "none" else None
        self._beta = float(beta)
        self.depth = 0
        self.pair_mlp = None
        if use_pair:
            self.pair_mlp = nn.Sequential(*_block(in_channels, hidden, dropout, layer_norm), *last)
        self.head = nn.Sequential(
            *_block(hidden, hidden, dropout, layer_norm),
            *(_block(hidden, hidden, dropout, layer_norm) if two_layer_head else []),
            nn.Linear(hidden, out_channels),
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        if self.beta is not None:
            nn.init.constant_(self.beta, self._beta)

    def forward(self, z: Tensor, edge_index: NeighborIndex | Tensor, edge_label_index: Tensor) -> Tensor:
        if z.dim() != 2 or z.size(1) != self.in_channels:
            raise ValueError(f"z must have shape [N, {self.in_channels}] (got {list(z.shape)})")
        index = NeighborIndex.of(edge_index, z.size(0))
        pairs = check_pairs(edge_label_index, z.size(0), wait=False).long()
        index = index.dropout(self.edge_dropout, self.training)
        features = None if self.depth == 0 and self._needs_few(index) else self._features(z)
        return self._score(z, features, index, pairs, self.depth)

    def _score(self, z: Tensor, features: Tensor | None, index: NeighborIndex, pairs: Tensor, depth: int) -> Tensor:
        parts = []
        if self.common_mlp is not None:
            # Most pairs share no neighbour.
            first, *rest = self.common_mlp
            assert isinstance(first, nn.Linear)
            pooled = self._common_sum(z, features, index, pairs, depth)
            parts.append(_apply(rest, linear_of_sparse_rows(first, pooled)))
        if self.order_mlp is not None:
            assert features is not None
            parts.append(self.order_mlp(self._order_sum(features, index, pairs)))
        if self.residual_mlp is not None:
            assert features is not None
            found = common_neighbors(index, pairs, return_residual=True)
            parts.append(
                self.residual_mlp(weighted_sum(found.res_src, features) + weighted_sum(found.res_dst, features))
            )
        hidden = None if self.beta is None else sum(parts[1:], parts[0]) * self.beta
        if self.pair_mlp is not None:
            pair = self.pair_mlp(pair_product(z, pairs))
            hidden = pair if hidden is None else hidden + pair
        return self.head(hidden)

    def _needs_few(self, index: NeighborIndex) -> bool:
        """Whether common neighbours are so rare that they are listed first and only their features made.

        In evaluation all are made once for many batches, and a GPU would have to wait for the lists' length, on which a
        compiled graph must not depend.
        """
        if torch.compiler.is_compiling():
            return False
        plain = self.orders == ((1, 1),) and self.residual_mlp is None
        return self.training and plain and index.device.type == "cpu" and 64 * index.num_edges < index.num_nodes**2

    def _features(self, z: Tensor) -> Tensor:
        """What is summed over neighbours."""
        if self.pool == "count":
            return z.new_ones(z.size(0), 1)
        return z if self.node_mlp is None else z + self.node_mlp(z)

    def _common_sum(
        self, z: Tensor, features: Tensor | None, index: NeighborIndex, pairs: Tensor, depth: int
    ) -> Tensor:
        if features is not None:
            return common_neighbor_sum(index, pairs, features)
        found = common_neighbors(index, pairs).cn
        needed, place = found.node.unique(return_inverse=True)
        return spmm(found.ptr, place, self._features(z[needed]))

    def _order_sum(self, features: Tensor, index: NeighborIndex, pairs: Tensor) -> Tensor:
        far = index.two_hop()
        sides = {(1, 2): (index, far), (2, 1): (far, index)}
        chosen = [sides[order] for order in self.orders if order != (1, 1)]
        found = [common_neighbor_sum(first, pairs, features, second) for first, second in chosen]
        return sum(found[1:], found[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, {self.out_channels})"


def _apply(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def weighted_sum(lists: NodeLists | None, features: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted sum of the features of each pair's list."""
    assert lists is not None
    weights = [part.to(features.dtype) for part in (lists.weight, weight) if part is not None]
    return spmm(lists.ptr, lists.node, features, torch.stack(weights).prod(0).to(features.dtype) if weights else None)


class NCNCDecoder(NCNDecoder):
    r"""Neural Common Neighbor with Completion from `"Neural Common Neighbor with Completion for Link Prediction"
    <https://arxiv.org/abs/2302.00890>`_.

    A neighbour of one end only counts as a common neighbour with the probability :math:`\pi` that the missing link
    exists, which the same predictor gives at depth - 1 and which carries no gradient:

    .. math:: c_{ij} = \sum_{w \in N(i) \cap N(j)} \tilde z_w + \sum_{w \in N(i) \setminus N(j)} \pi_{jw} \tilde z_w
              + \sum_{w \in N(j) \setminus N(i)} \pi_{iw} \tilde z_w, \qquad
              \pi = \alpha \frac{\rho p}{\rho p + 1 - p}, \quad p = \sigma(\mathrm{scale} (s - \mathrm{offset}))

    Args:
        in_channels, hidden_channels, out_channels: as :class:`NCNDecoder`.
        depth: how often the predictor calls itself; 0 is NCN.
        alpha: cap :math:`\alpha` of a completed link's weight, in [0, 1.5].
        prior: :math:`\rho > 0`, the factor of the odds.
        scale, offset: calibration of the inner logits; scale > 0.
        learn_prior: learn :math:`\rho` from :math:`z_i \odot z_j` instead.
        max_neighbors: cap on each end's list of one-sided neighbours, for training and for evaluation; longer lists are
            sampled without bias. None = all.
        chunk_size: how many inner links are scored at once; bounds the memory, not the numbers. None = all.
        completion_input: ``"transformed"`` hands :math:`\tilde z` to the inner call, as the released code does and the
            published settings were tuned with; ``"h"`` hands it ``z``, as the paper's equation says.
        shared_dropout: let the inner call use the same thinned graph instead of thinning it once more.
        **kwargs: as :class:`NCNDecoder`.

    Shapes:
        As :class:`NCNDecoder`.

    Raises:
        IndexError: a node id outside the graph.
        ValueError: an argument out of range.

    Example:
        >>> decoder = NCNCDecoder(16, 32, depth=1, alpha=0.9)
        >>> z, edge_index = torch.randn(3, 16), torch.tensor([[0, 2, 1, 2], [2, 0, 2, 1]])
        >>> decoder(z, edge_index, torch.tensor([[0], [1]])).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int = 1,
        *,
        depth: int = 1,
        alpha: float = 1.0,
        prior: float = 0.5,
        scale: float = 5.0,
        offset: float = 3.0,
        learn_prior: bool = False,
        max_neighbors: tuple[int | None, int | None] = (None, None),
        chunk_size: int | None = None,
        completion_input: str = "transformed",
        shared_dropout: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, hidden_channels, out_channels, **kwargs)
        check_range(depth, "depth", 0)
        check_range(alpha, "alpha", 0, 1.5)
        check_range(prior, "prior", 0, low_open=True)
        check_range(scale, "scale", 0, low_open=True)
        check_range(offset, "offset")
        check_choice(completion_input, "completion_input", ("transformed", "h"))
        if len(max_neighbors) != 2 or any(k is not None and k < 1 for k in max_neighbors):
            raise ValueError(f"max_neighbors must be two numbers >= 1 or None, train and eval (got {max_neighbors})")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be None or >= 1 (got {chunk_size})")
        if out_channels != 1:
            raise ValueError(f"out_channels must be 1, the logit that completes links (got {out_channels})")
        if self.pool == "none" or (1, 1) not in self.orders:
            raise ValueError("pool='none' or orders without (1, 1) leave no common neighbours to complete")
        self.depth, self.alpha, self.prior, self.scale, self.offset = depth, alpha, prior, scale, offset
        self.max_neighbors, self.chunk_size = tuple(max_neighbors), chunk_size
        self.completion_input, self.shared_dropout = completion_input, shared_dropout
        self.prior_mlp = None
        if learn_prior:
            self.prior_mlp = nn.Sequential(
                nn.Linear(in_channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, 1), nn.Sigmoid()
            )

    def calibrate(self, logit: Tensor, prior: Tensor | float | None = None) -> Tensor:
        """The weight of a completed link from the inner logit."""
        p = torch.sigmoid(self.scale * (logit - self.offset))
        odds = p * (self.prior if prior is None else prior)
        # p = 0 with prior = 0 is the only 0 / 0, and a learned prior is never 0.
        return self.alpha * odds / (odds + 1 - p)

    def _common_sum(
        self, z: Tensor, features: Tensor | None, index: NeighborIndex, pairs: Tensor, depth: int
    ) -> Tensor:
        if depth == 0:
            return super()._common_sum(z, features, index, pairs, depth)
        assert features is not None
        limit = self.max_neighbors[0 if self.training else 1]
        found = common_neighbors(index, pairs, return_residual=True, max_neighbors=limit)
        assert found.res_src is not None
        assert found.res_dst is not None
        batch = torch.cat([found.res_src.batch, found.res_dst.batch])
        far_end = torch.cat([pairs[1][found.res_src.batch], pairs[0][found.res_dst.batch]])
        near = torch.cat([found.res_src.node, found.res_dst.node])
        prior = None
        if self.prior_mlp is not None:
            prior = self.prior_mlp(pair_product(z, pairs))[:, 0][batch]
        logit = self._complete(z, features, index, torch.stack([far_end, near]), depth - 1)
        weight = self.calibrate(logit, prior).split([found.res_src.node.numel(), found.res_dst.node.numel()])
        completed = weighted_sum(found.res_src, features, weight[0]) + weighted_sum(found.res_dst, features, weight[1])
        return weighted_sum(found.cn, features) + completed

    @torch.no_grad()
    def _complete(self, z: Tensor, features: Tensor, index: NeighborIndex, pairs: Tensor, depth: int) -> Tensor:
        """Logits of the same predictor at one level less, in chunks."""
        inner: Tensor | None = features
        if self.completion_input == "transformed" and self.pool == "features":
            z = features
            inner = None if depth == 0 and self._needs_few(index) else self._features(features)
        if not self.shared_dropout:
            index = index.dropout(self.edge_dropout, self.training)
        place = None
        symmetric = self.orders.count((1, 2)) == self.orders.count((2, 1))
        if symmetric and 2 * pairs.size(1) > index.num_nodes**2:
            # On a dense graph the same links are asked for again and again, in both directions; one table serves.
            pairs, place = _distinct(pairs, index.num_nodes)
        size = self.chunk_size or max(pairs.size(1), 1)
        parts = [self._score(z, inner, index, part, depth)[:, 0] for part in pairs.split(size, dim=1)]
        logit = torch.cat(parts) if parts else z.new_empty(0)
        return logit if place is None else logit[place]


def _distinct(pairs: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Distinct unordered pairs ``[2, D]``, and where each of ``pairs`` is among them, through a table of N² entries."""
    low, high = torch.minimum(*pairs), torch.maximum(*pairs)
    key = low * num_nodes + high
    asked = torch.zeros(num_nodes**2, dtype=torch.bool, device=pairs.device)
    asked[key] = True
    distinct = asked.nonzero()[:, 0]
    place = torch.cumsum(asked, 0, dtype=torch.int32)[key].long() - 1
    return torch.stack([distinct // num_nodes, distinct % num_nodes]), place
