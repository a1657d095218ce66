"""Attacks on the structure of a graph: a share of its edges is added or removed before a model is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from graphkit.ops import NeighborIndex
from graphkit.transforms.undirected import undirected_edges, with_reverse
from graphkit.utils.checks import check_int, check_pairs, check_range
from graphkit.utils.seed import stream


class RandomEdgeAttack(BaseTransform):
    """Adds random edges: noise rather than an attack, and the weakest of those that robust models are measured by.

    The new edges are uniform among the pairs that were none. O(E log E).

    Args:
        rate: number of new edges, as a share of the undirected edges there are; rounded down.
        seed: another seed, other edges.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]``, both directions of every edge
        - **output:** the same with another ``edge_index``

    Raises:
        ValueError: ``rate`` below 0, self-loops, an edge without its reverse, edge attributes (a new edge has none), or
            too few pairs to join.

    Example:
        >>> ring = torch.arange(8)
        >>> data = Data(edge_index=torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1))
        >>> RandomEdgeAttack(0.5)(data)
        Data(edge_index=[2, 24])
    """

    def __init__(self, rate: float, seed: int = 0) -> None:
        self.rate = check_range(rate, "rate", 0)
        self.seed = check_int(seed, "seed", 0)

    def forward(self, data: Data) -> Data:
        pairs = _pairs(data)
        new = _new_pairs(pairs, data.num_nodes, _budget(self.rate, pairs), stream(self.seed))
        data.edge_index = coalesce(with_reverse(torch.cat([pairs, new], dim=1)), num_nodes=data.num_nodes)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate}, seed={self.seed})"


class DICEAttack(BaseTransform):
    """Delete internally, connect externally: removes edges within classes and adds edges between them, as in
    `"Hiding Individuals and Communities in a Social Network" <https://arxiv.org/abs/1608.00375>`_.

    The attacker knows all labels. Half of the changes, rounded down, remove random edges whose ends have one label;
    the others join random pairs with two labels. O(E log E).

    Args:
        rate: number of changes, as a share of the undirected edges; rounded down.
        seed: another seed, other edges.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]``, both directions of every edge,
          and ``y`` ``[N]``
        - **output:** the same with another ``edge_index``

    Raises:
        ValueError: ``rate`` below 0, self-loops, an edge without its reverse, edge attributes, a node without a label,
            or too few edges to remove or pairs to join.

    Example:
        >>> ring = torch.arange(8)
        >>> edge_index = torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1)
        >>> DICEAttack(0.5)(Data(edge_index=edge_index, y=ring // 4))
        Data(edge_index=[2, 16], y=[8])
    """

    def __init__(self, rate: float, seed: int = 0) -> None:
        self.rate = check_range(rate, "rate", 0)
        self.seed = check_int(seed, "seed", 0)

    def forward(self, data: Data) -> Data:
        pairs = _pairs(data)
        label = _labels(data)
        budget = _budget(self.rate, pairs)
        generator = stream(self.seed)
        inside = (label[pairs[0]] == label[pairs[1]]).nonzero()[:, 0]
        removals = budget // 2
        if removals > inside.numel():
            raise ValueError(
                f"rate={self.rate} removes {removals} edges within classes, but there are {inside.numel()}; lower it"
            )
        chosen = inside[torch.randperm(inside.numel(), generator=generator)[:removals].to(inside.device)]
        new = _new_pairs(pairs, data.num_nodes, budget - removals, generator, label)
        keep = torch.ones(pairs.size(1), dtype=torch.bool, device=pairs.device)
        keep[chosen] = False
        data.edge_index = coalesce(with_reverse(torch.cat([pairs[:, keep], new], dim=1)), num_nodes=data.num_nodes)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate}, seed={self.seed})"


class PRBCDPoison(BaseTransform):
    """Flips the edges that mislead a trained model most, found by projected gradient descent on random blocks of the
    adjacency matrix: PRBCD of `"Robustness of Graph Neural Networks at Scale" <https://arxiv.org/abs/2110.14038>`_.

    The changed graph is meant to be trained on: models other than the surrogate meet an attack that was not made for
    them (transfer). The search is :class:`torch_geometric.contrib.nn.PRBCDAttack`; each of its ``epochs`` costs a
    forward and a backward pass of the surrogate on the graph and a block.

    Args:
        rate: most edges flipped, as a share of the undirected edges; rounded down.
        surrogate: a trained module ``surrogate(x, edge_index, edge_weight)`` that returns logits ``[N, C]`` and is
            differentiable in the weights, such as :class:`torch_geometric.nn.GCN`. Neither its weights nor its mode
            change.
        nodes: ids of the nodes whose predictions are attacked, by their labels in ``data.y``; None: all.
        epochs: steps of the search.
        block_size: pairs of nodes considered at once; must be more than the flips.
        lr: step size.
        seed: another seed, other blocks.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]``, ``edge_index`` ``[2, E]``, both
          directions of every edge, and ``y`` ``[N]``
        - **output:** the same with another ``edge_index``

    Raises:
        ValueError: an argument out of range, self-loops, an edge without its reverse, edge attributes, a node without
            a label, no features.
        IndexError: ``nodes`` holds an id outside the graph.

    Example:
        >>> surrogate = torch_geometric.nn.GCN(1433, 16, 2, 7)  # doctest: +SKIP
        >>> poisoned = PRBCDPoison(0.2, surrogate, split.test)(data)  # doctest: +SKIP
    """

    def __init__(
        self,
        rate: float,
        surrogate: nn.Module,
        nodes: Tensor | None = None,
        *,
        epochs: int = 125,
        block_size: int = 250_000,
        lr: float = 1000.0,
        seed: int = 0,
    ) -> None:
        self.rate = check_range(rate, "rate", 0)
        self.surrogate, self.nodes = surrogate, nodes
        self.epochs = check_int(epochs, "epochs", 1)
        self.block_size = check_int(block_size, "block_size", 1)
        self.lr = check_range(lr, "lr", 0, low_open=True)
        self.seed = check_int(seed, "seed", 0)

    def forward(self, data: Data) -> Data:
        pairs = _pairs(data)
        label = _labels(data)
        if data.x is None:
            raise ValueError("data.x must hold features, which the surrogate needs (got None)")
        if self.nodes is not None:
            check_pairs(torch.stack([self.nodes, self.nodes]), data.num_nodes, "nodes")
        budget = _budget(self.rate, pairs)
        if budget == 0:
            return data
        # PyG's package of contributions says at import that it may change.
        from torch_geometric.contrib.nn import PRBCDAttack

        attack = PRBCDAttack(self.surrogate, self.block_size, self.epochs, min(100, self.epochs), lr=self.lr, log=False)
        training = self.surrogate.training
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            edge_index, _ = attack.attack(data.x, with_reverse(pairs), label, budget, self.nodes)
        self.surrogate.train(training)
        data.edge_index = coalesce(edge_index.to(pairs.device), num_nodes=data.num_nodes)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate}, {type(self.surrogate).__name__}, seed={self.seed})"


def _pairs(data: Data) -> Tensor:
    """The undirected edges of a graph that an attack can change."""
    if data.edge_index is None or data.num_nodes is None:
        raise ValueError("data must have edge_index and num_nodes (or x)")
    others = sorted(set(data.edge_attrs()) - {"edge_index"})
    if others:
        raise ValueError(f"data must not have edge attributes, which new edges would lack (got {', '.join(others)})")
    return undirected_edges(data.edge_index, data.num_nodes)


def _labels(data: Data) -> Tensor:
    label = data.y
    if label is None or label.numel() != data.num_nodes or label.is_floating_point() or bool((label < 0).any()):
        raise ValueError(f"data.y must hold a class number for each of the {data.num_nodes} nodes (got {label})")
    return label.reshape(-1)


def _budget(rate: float, pairs: Tensor) -> int:
    # A product such as 0.29 * 100 lies a little below the whole number that is meant.
    return math.floor(rate * pairs.size(1) + 1e-9)


def _new_pairs(
    pairs: Tensor, num_nodes: int, count: int, generator: torch.Generator, label: Tensor | None = None
) -> Tensor:
    """``[2, count]`` pairs that are no edges, uniform and without replacement; of two labels if ``label`` is given."""
    free = num_nodes * (num_nodes - 1) // 2 - pairs.size(1)
    if label is not None:
        sizes = torch.bincount(label)
        free = (num_nodes**2 - int((sizes**2).sum())) // 2 - int((label[pairs[0]] != label[pairs[1]]).sum())
    if count > free:
        raise ValueError(f"{count} new edges are wanted, but only {free} pairs can be joined; lower the rate")
    index = NeighborIndex(with_reverse(pairs), num_nodes)
    chosen = pairs.new_empty(0)
    while chosen.numel() < count:
        missing = count - chosen.numel()
        src, dst = index.sample_non_edges(2 * missing + 16, generator)
        key = torch.minimum(src, dst) * num_nodes + torch.maximum(src, dst)
        if label is not None:
            key = key[label[src] != label[dst]]
        key = key.unique()
        key = key[~torch.isin(key, chosen)]
        # A uniform part of them: the first ones have the smallest ids.
        part = torch.randperm(key.numel(), generator=generator)[:missing]
        chosen = torch.cat([chosen, key[part.to(key.device)]])
    return torch.stack([chosen // max(num_nodes, 1), chosen % max(num_nodes, 1)])
