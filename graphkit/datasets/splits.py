"""Splits as code: which edges, nodes or graphs are for training, validation and test.

Every function depends only on its arguments and a seed: the same seed gives the same split on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import index_to_mask

from graphkit.utils.checks import INDEX_DTYPES, check_device, check_pairs, check_range
from graphkit.utils.seed import stream


@dataclass(frozen=True, eq=False)
class LinkSplit:
    """A graph whose links are split into training, validation and test links.

    Args:
        num_nodes: Number of nodes ``N``.
        train_edge_index: Message-passing edges, both directions, ``[2, E]``.
        train_pos: Training links ``[2, n]``, each undirected link once.
        valid_pos: Validation links ``[2, n_v]``.
        valid_neg: Negatives shared by all validation links ``[2, m_v]``.
        test_pos: Test links ``[2, n_t]``.
        test_neg: Negatives shared by all test links ``[2, m_t]``.
        x: Node features ``[N, F]``, or None.
        test_edge_index: Message-passing edges for the test scores; ``train_edge_index`` unless the protocol adds the
            validation links there (ogbl-collab).
        valid_neg_target: ``[n_v, k]`` where every source has its own negatives (ogbl-citation2): the negatives of the
            link ``valid_pos[:, i]`` are ``(valid_pos[0, i], valid_neg_target[i])``. ``valid_neg`` is empty then.
        test_neg_target: The same for the test links.
        train_neg: Negatives for training ``[2, m]`` where the protocol fixes them; None: they are drawn each epoch.
    """

    num_nodes: int
    train_edge_index: Tensor
    train_pos: Tensor
    valid_pos: Tensor
    valid_neg: Tensor
    test_pos: Tensor
    test_neg: Tensor
    x: Tensor | None = None
    test_edge_index: Tensor = None  # type: ignore[assignment]
    valid_neg_target: Tensor | None = None
    test_neg_target: Tensor | None = None
    train_neg: Tensor | None = None

    def __post_init__(self) -> None:
        if self.test_edge_index is None:
            object.__setattr__(self, "test_edge_index", self.train_edge_index)
        for name in ("train_edge_index", "train_pos", "valid_pos", "valid_neg", "test_pos", "test_neg"):
            check_pairs(getattr(self, name), self.num_nodes, name)
        if self.train_neg is not None:
            check_pairs(self.train_neg, self.num_nodes, "train_neg")

    def to(self, device: str | torch.device) -> LinkSplit:
        """The same split with every tensor on ``device``."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if isinstance(value, Tensor) else value
        return LinkSplit(**moved)

    def __repr__(self) -> str:
        valid = self.valid_neg.size(1) if self.valid_neg_target is None else self.valid_neg_target.numel()
        test = self.test_neg.size(1) if self.test_neg_target is None else self.test_neg_target.numel()
        return (
            f"LinkSplit(nodes={self.num_nodes}, train={self.train_pos.size(1)}, "
            f"valid={self.valid_pos.size(1)}+{valid}, test={self.test_pos.size(1)}+{test})"
        )


@dataclass(frozen=True, eq=False)
class IndexSplit:
    """Ids of the nodes, graphs or edges for training, validation and test, each ``[n]``.

    Args:
        train, valid, test: the three parts.
        hidden: those of ``test`` that are not there while a model is trained, neither they nor their edges; None where
            the whole graph is.

    Raises:
        TypeError: a part that is no tensor of whole numbers.
        ValueError: a part that is no vector, two parts share an id, or a part repeats one; a hidden id that is not for
            test.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test", "hidden"):
            ids = getattr(self, name)
            if ids is None and name == "hidden":
                continue
            if not isinstance(ids, Tensor) or ids.dtype not in INDEX_DTYPES:
                got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
                raise TypeError(f"{name} must be ids, int64 (got {got}); of a mask, mask.nonzero().view(-1)")
            if ids.dim() != 1:
                raise ValueError(f"{name} must be a vector of ids (got {list(ids.shape)})")
        check_device(train=self.train, valid=self.valid, test=self.test, hidden=self.hidden)
        if self.hidden is not None and not bool(torch.isin(self.hidden, self.test).all()):
            bad = int(self.hidden[~torch.isin(self.hidden, self.test)][0])
            raise ValueError(f"hidden must hold ids of test alone (got {bad}, which is not among them)")
        ids = torch.cat([self.train, self.valid, self.test])
        values, counts = ids.unique(return_counts=True)
        if values.numel() != ids.numel():
            raise ValueError(f"the parts of a split must not overlap (id {int(values[counts > 1][0])} comes twice)")
        if values.numel() and int(values[0]) < 0:
            raise ValueError(f"the ids of a split must not be negative (got {int(values[0])})")

    def masks(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts as boolean masks ``[size]``."""
        return tuple(index_to_mask(ids, size) for ids in (self.train, self.valid, self.test))

    def to(self, device: str | torch.device) -> IndexSplit:
        """The same split with every tensor on ``device``."""
        hidden = None if self.hidden is None else self.hidden.to(device)
        return IndexSplit(self.train.to(device), self.valid.to(device), self.test.to(device), hidden)

    def __repr__(self) -> str:
        hidden = "" if self.hidden is None else f", hidden={self.hidden.numel()}"
        return f"IndexSplit(train={self.train.numel()}, valid={self.valid.numel()}, test={self.test.numel()}{hidden})"


# Links ---------------------------------------------------------------------------------------------------------------


def undirected_pairs(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Every undirected edge once, ``row < col``, sorted; self-loops and repeated edges are dropped. ``[2, E_u]``."""
    check_pairs(edge_index, num_nodes, "edge_index")
    low, high = torch.minimum(*edge_index).long(), torch.maximum(*edge_index).long()
    keys = (low * num_nodes + high)[low != high].unique()
    return torch.stack([keys // max(num_nodes, 1), keys % max(num_nodes, 1)])


def both_directions(pairs: Tensor, num_nodes: int) -> Tensor:
    """Edges in both directions, sorted by source and target, repeated ones once. ``[2, E]``."""
    row, col = torch.cat([pairs, pairs.flip(0)], dim=1).long()
    keys = (row * num_nodes + col).unique()
    return torch.stack([keys // max(num_nodes, 1), keys % max(num_nodes, 1)])


def sample_non_edges(
    edge_index: Tensor, num_nodes: int, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw node pairs ``row < col`` that are no edges, uniformly and without replacement, in random order.

    Exact: proposals are uniform over all pairs, and those that are edges or were drawn before are rejected by a binary
    search among sorted int64 keys. When more than half of all non-edges are wanted they are listed instead.
    Expected time ``O((num_samples + E) log E)``.

    Args:
        edge_index: Edges ``[2, E]`` in any direction; self-loops and repeats do no harm.
        num_nodes: Number of nodes ``N``.
        num_samples: How many pairs ``m``.
        generator: Source of randomness; None takes PyTorch's global one.

    Shapes:
        - **output:** ``[2, m]``

    Raises:
        ValueError: the graph has fewer than ``num_samples`` non-edges.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples must not be negative (got {num_samples})")
    pairs = undirected_pairs(edge_index, num_nodes)
    edges = pairs[0] * num_nodes + pairs[1]
    total = num_nodes * (num_nodes - 1) // 2
    free = total - edges.numel()
    if num_samples > free:
        raise ValueError(
            f"num_samples must be at most the number of non-edges, {free} for {num_nodes} nodes and {edges.numel()} "
            f"edges (got {num_samples}); the graph is too dense for so many negatives"
        )
    if 2 * num_samples > free:
        row, col = torch.triu_indices(num_nodes, num_nodes, offset=1)
        keys = row * num_nodes + col
        keys = keys[~torch.isin(keys, edges, assume_unique=True)]
        keys = keys[torch.randperm(keys.numel(), generator=generator)[:num_samples]]
        return torch.stack([keys // num_nodes, keys % num_nodes])

    chosen = edges.new_empty(0)
    while chosen.numel() < num_samples:
        # Each proposal is new with probability > 1/4 * free/total, so few rounds are needed; 1.2 covers usual losses.
        wanted = int(1.2 * (num_samples - chosen.numel()) * total / free) + 16
        ends = torch.randint(num_nodes, (2, wanted), generator=generator)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        keys = (low * num_nodes + high)[low != high].unique()
        keys = keys[~_contains(edges, keys)]
        keys = keys[~_contains(chosen, keys)]
        # Too many: keep a uniform subset, since the sorted head would favour small ids.
        keep = torch.randperm(keys.numel(), generator=generator)[: num_samples - chosen.numel()]
        chosen = torch.cat([chosen, keys[keep]]).sort().values
    chosen = chosen[torch.randperm(num_samples, generator=generator)]
    return torch.stack([chosen // num_nodes, chosen % num_nodes]) if num_nodes else chosen.new_empty(2, 0)


def _contains(keys: Tensor, queries: Tensor) -> Tensor:
    """Which ``queries`` are among the sorted ``keys``."""
    if keys.numel() == 0:
        return torch.zeros_like(queries, dtype=torch.bool)
    place = torch.searchsorted(keys, queries).clamp_(max=keys.numel() - 1)
    return keys[place] == queries


class NCNRandomLinkSplit(BaseTransform):
    r"""The random 70/10/20 link split of `"Neural Common Neighbor with Completion for Link Prediction"
    <https://arxiv.org/abs/2302.00890>`_ (and of the papers that compare with it on Cora, CiteSeer and PubMed).

    Of the :math:`E_u` undirected edges in random order, :math:`\lfloor 0.2 E_u \rfloor` are for test and as many form a
    pool; the second half of the pool is for validation, the first half returns to training. There are as many
    validation negatives as the pool has edges, and as many test negatives as test edges. Negatives are uniform among
    the pairs that are linked nowhere in the full graph, without replacement, disjoint between validation and test.

    Args:
        val: Share of validation links.
        test: Share of test links, and of test negatives.
        neg_pool: Share of the pool, which is the share of validation negatives.
        seed: A new seed gives a new split.
        generator: Source of randomness instead of ``seed``.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``edge_index`` ``[2, E]``
        - **output:** three :class:`~torch_geometric.data.Data` (training, validation, test) with ``edge_index`` (the
          training links, both directions), ``edge_label_index`` (the links ``[2, n]``, ``row < col``), ``edge_label``
          (ones) and ``neg_edge_label_index`` (``[2, m]``; empty for training, whose negatives are drawn each epoch)

    Raises:
        ValueError: shares outside (0, 1), too few edges to split, or a graph too dense for the negatives.

    Example:
        >>> train, val, test = NCNRandomLinkSplit(seed=0)(data)  # doctest: +SKIP
    """

    def __init__(
        self,
        val: float = 0.1,
        test: float = 0.2,
        neg_pool: float = 0.2,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.val = check_range(val, "val", 0, 1, low_open=True)
        self.test = check_range(test, "test", 0, 1, low_open=True)
        self.neg_pool = check_range(neg_pool, "neg_pool", val, 1)
        if test + neg_pool > 1:
            raise ValueError(f"test + neg_pool must be at most 1 (got {test} + {neg_pool})")
        self.seed = seed
        self.generator = generator

    def split(self, data: Data) -> LinkSplit:
        """The same split as one :class:`LinkSplit`."""
        num_nodes = _num_nodes(data)
        pairs = undirected_pairs(data.edge_index, num_nodes)
        num_edges = pairs.size(1)
        num_test, num_pool = int(self.test * num_edges), int(self.neg_pool * num_edges)
        num_valid = int(self.val / self.neg_pool * num_pool)
        num_train = num_edges - num_test - num_valid
        if min(num_train, num_valid, num_test) == 0:
            raise ValueError(
                f"data has {num_edges} undirected edges, too few for a split with val={self.val} and test={self.test}: "
                f"it would have {num_train}/{num_valid}/{num_test} links"
            )
        generator = self.generator or stream(self.seed)
        pairs = pairs[:, torch.randperm(num_edges, generator=generator)]
        test_pos, rest = pairs[:, :num_test], pairs[:, num_test:]
        returned = num_pool - num_valid
        valid_pos = rest[:, returned:num_pool]
        train_pos = torch.cat([rest[:, :returned], rest[:, num_pool:]], dim=1)
        negatives = sample_non_edges(data.edge_index, num_nodes, num_pool + num_test, generator)
        return LinkSplit(
            num_nodes=num_nodes,
            train_edge_index=both_directions(train_pos, num_nodes),
            train_pos=train_pos,
            valid_pos=valid_pos,
            valid_neg=negatives[:, :num_pool],
            test_pos=test_pos,
            test_neg=negatives[:, num_pool:],
            x=data.x,
        )

    def forward(self, data: Data) -> Any:
        split = self.split(data)
        none = split.train_pos.new_empty(2, 0)
        parts = ((split.train_pos, none), (split.valid_pos, split.valid_neg), (split.test_pos, split.test_neg))
        out = []
        for positives, negatives in parts:
            part = _without_edges(data)
            part.num_nodes = split.num_nodes
            part.edge_index = split.train_edge_index
            part.edge_label_index = positives
            part.edge_label = torch.ones(positives.size(1))
            part.neg_edge_label_index = negatives
            out.append(part)
        return tuple(out)

    def __repr__(self) -> str:
        return f"NCNRandomLinkSplit(val={self.val}, test={self.test}, neg_pool={self.neg_pool})"


def random_link_split(data: Data, valid: float = 0.16, test: float = 0.2, seed: int = 0) -> LinkSplit:
    """Random links for validation and test, and as many fixed non-links for each part, training included.

    What :class:`torch_geometric.transforms.RandomLinkSplit` makes of an undirected graph: messages pass along the
    training links, and along the validation links, too, when test links are scored. Non-links are uniform among the
    pairs that are linked nowhere in the full graph; no two parts share one.

    Raises:
        ValueError: shares that are not positive or leave no training links, or a graph too dense for the non-links.

    Example:
        >>> split = random_link_split(data, seed=0)  # doctest: +SKIP
    """
    check_range(valid, "valid", 0, 1, low_open=True)
    check_range(test, "test", 0, 1, low_open=True)
    num_nodes = _num_nodes(data)
    pairs = undirected_pairs(data.edge_index, num_nodes)
    total = pairs.size(1)
    num_valid, num_test = int(valid * total), int(test * total)
    num_train = total - num_valid - num_test
    if min(num_train, num_valid, num_test) <= 0:
        raise ValueError(
            f"data has {total} undirected edges, too few for a split with valid={valid} and test={test}: "
            f"it would have {num_train}/{num_valid}/{num_test} links"
        )
    generator = stream(seed)
    sizes = [num_train, num_valid, num_test]
    links = pairs[:, torch.randperm(total, generator=generator)].split(sizes, dim=1)
    others = sample_non_edges(data.edge_index, num_nodes, total, generator).split(sizes, dim=1)
    return LinkSplit(
        num_nodes=num_nodes,
        train_edge_index=both_directions(links[0], num_nodes),
        train_pos=links[0],
        valid_pos=links[1],
        valid_neg=others[1],
        test_pos=links[2],
        test_neg=others[2],
        x=data.x,
        test_edge_index=both_directions(torch.cat(links[:2], dim=1), num_nodes),
        train_neg=others[0],
    )


def _num_nodes(data: Data) -> int:
    if data.edge_index is None or data.num_nodes is None:
        raise ValueError("data must have edge_index and num_nodes (or x) to split its links")
    return data.num_nodes


def _without_edges(data: Data) -> Data:
    """A shallow copy that keeps what belongs to nodes and to the whole graph; edge attributes would no longer fit."""
    kept = {key: value for key, value in data.to_dict().items() if key not in data.edge_attrs()}
    return Data.from_dict(kept)


# Nodes and graphs ----------------------------------------------------------------------------------------------------


def mask_split(data: Data, index: int = 0) -> IndexSplit:
    """The split that comes with the data as ``train_mask``, ``val_mask`` and ``test_mask``.

    Masks are of nodes, or of edges (relations). Those ``[N, S]`` hold S splits; ``index`` counts through them and
    starts again after the last one.

    Raises:
        ValueError: no masks, ones of another shape or type, or masks that overlap.
    """
    parts = []
    for name in ("train_mask", "val_mask", "test_mask"):
        mask = getattr(data, name, None)
        if mask is None:
            raise ValueError(f"data has no {name}: this graph comes without a fixed split; random_node_split makes one")
        nodes = mask.size(0) if data.num_nodes is None else data.num_nodes
        if mask.dtype != torch.bool or mask.dim() not in (1, 2) or mask.size(0) not in (nodes, data.num_edges):
            raise ValueError(
                f"data.{name} must be bool, [{nodes}] or [{nodes}, S] (got {list(mask.shape)} {mask.dtype})"
            )
        parts.append((mask if mask.dim() == 1 else mask[:, index % mask.size(1)]).nonzero().view(-1))
    return IndexSplit(*parts)


def full_split(data: Data) -> IndexSplit:
    """The validation and test nodes of :func:`mask_split`, and all others with a label for training.

    The split of `"FastGCN: Fast Learning with Graph Convolutional Networks via Importance Sampling"
    <https://arxiv.org/abs/1801.10247>`_, which PyG calls ``full``.

    Raises:
        ValueError: the graph has no masks.
    """
    split = mask_split(data)
    label = torch.as_tensor(data.y).view(-1)
    train = ~(label.isnan() if label.is_floating_point() else label < 0)
    train[torch.cat([split.valid, split.test])] = False
    return IndexSplit(train.nonzero().view(-1), split.valid, split.test)


def per_class_split(y: Tensor, train: int = 20, valid: int = 30, seed: int = 0) -> IndexSplit:
    """``train`` and ``valid`` random nodes of every class; all other labelled nodes are for test.

    The protocol of `"Pitfalls of Graph Neural Network Evaluation" <https://arxiv.org/abs/1811.05868>`_ for Amazon and
    Coauthor graphs. Nodes with a negative label are left out.

    Raises:
        ValueError: a class has not more than ``train + valid`` nodes.
    """
    place, size, label = _place_in_class(y, seed)
    small = (size <= train + valid) & (label >= 0)
    if bool(small.any()):
        worst = int(label[small][0])
        raise ValueError(
            f"class {worst} has {int((label == worst).sum())} nodes, too few for train={train} and valid={valid} of "
            "each class; use random_node_split or drop the class"
        )
    known = label >= 0
    return IndexSplit(
        (known & (place < train)).nonzero().view(-1),
        (known & (place >= train) & (place < train + valid)).nonzero().view(-1),
        (known & (place >= train + valid)).nonzero().view(-1),
    )


def inductive_split(split: IndexSplit, rate: float = 0.2, seed: int = 0) -> IndexSplit:
    """The same split with a random share ``rate`` of the test nodes hidden from training.

    The production setting of `"Graph-less Neural Networks: Teaching Old MLPs New Tricks via Distillation"
    <https://arxiv.org/abs/2110.08727>`_: a model is trained on the graph without these nodes and scored on the others
    in that graph, and on these in the whole graph.

    Raises:
        ValueError: ``rate`` outside (0, 1), or so few test nodes that none or all would be hidden.
    """
    check_range(rate, "rate", 0, 1, low_open=True)
    count = int(rate * split.test.numel())
    if not 0 < count < split.test.numel():
        raise ValueError(f"rate={rate} of {split.test.numel()} test nodes leaves none to hide or none to see")
    order = torch.randperm(split.test.numel(), generator=stream(seed, 1))
    return IndexSplit(split.train, split.valid, split.test, split.test[order[:count]].sort().values)


def random_node_split(y: Tensor, train: float = 0.48, valid: float = 0.32, seed: int = 0) -> IndexSplit:
    """Random shares of every class, 48/32/20 % as in `"Geom-GCN" <https://arxiv.org/abs/2002.05287>`_.

    A class of ``c`` nodes gives ``round(train * c)`` of them to training and the rest after ``round((train + valid) *
    c)`` to test. Nodes with a negative label are left out.
    """
    check_range(train, "train", 0, 1, low_open=True)
    check_range(valid, "valid", 0, 1)
    if train + valid > 1 + 1e-9:
        raise ValueError(f"train + valid must be at most 1 (got {train} + {valid})")
    place, size, label = _place_in_class(y, seed)
    first, second = (train * size).round(), ((train + valid) * size).round()
    known = label >= 0
    return IndexSplit(
        (known & (place < first)).nonzero().view(-1),
        (known & (place >= first) & (place < second)).nonzero().view(-1),
        (known & (place >= second)).nonzero().view(-1),
    )


def fold_split(y: Tensor, fold: int = 0, num_folds: int = 10, seed: int = 0) -> IndexSplit:
    """Stratified cross-validation: one fold is for test, the next one for validation, the others for training.

    ``fold`` counts through the folds and starts again after the last one; ``seed`` says how the folds are drawn.
    """
    if num_folds < 3:
        raise ValueError(f"num_folds must be at least 3 (got {num_folds})")
    place, _, label = _place_in_class(y, seed)
    # Later classes go on where the class before stopped, so that the folds' sizes differ by at most one.
    counts = torch.bincount(label.clamp(min=0)[label >= 0], minlength=1)
    start = counts.cumsum(0) - counts
    fold_of = (place + start[label.clamp(min=0)]) % num_folds
    fold_of[label < 0] = -1
    test, valid = fold % num_folds, (fold + 1) % num_folds
    train = (fold_of >= 0) & (fold_of != test) & (fold_of != valid)
    return IndexSplit(
        train.nonzero().view(-1), (fold_of == valid).nonzero().view(-1), (fold_of == test).nonzero().view(-1)
    )


def cross_validation_split(
    y: Tensor, fold: int = 0, num_folds: int = 5, valid: float = 0.2, seed: int = 0
) -> IndexSplit:
    """Cross-validation over all labelled nodes: one fold is for test, a share ``valid`` of the others for validation.

    Five folds make 64/16/20 %. ``fold`` counts through the folds of a random order and starts again, with another
    order, after the last one; ``seed`` says which orders. Nodes with a negative label are left out.

    Raises:
        ValueError: fewer than two folds, a share outside (0, 1), or too few nodes for a part.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2 (got {num_folds})")
    check_range(valid, "valid", 0, 1, low_open=True)
    label = y.view(-1)
    known = (~(label < 0) & ~label.isnan()).nonzero().view(-1)
    generator = stream(seed, fold // num_folds)
    order = known[torch.randperm(known.numel(), generator=generator)]
    place = torch.arange(order.numel())
    test = place % num_folds == fold % num_folds
    rest = order[~test]
    rest = rest[torch.randperm(rest.numel(), generator=stream(seed, fold, 1))]
    size = round(valid * rest.numel())
    if min(size, rest.numel() - size, int(test.sum())) == 0:
        raise ValueError(f"y holds {known.numel()} labels, too few for {num_folds} folds with valid={valid}")
    return IndexSplit(rest[size:].sort().values, rest[:size].sort().values, order[test].sort().values)


def _place_in_class(y: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each node its random place among the nodes of its class, the size of that class, and its label."""
    label = y.view(-1)
    if label.numel() != y.size(0):
        raise ValueError(f"y must hold one label for each node (got shape {list(y.shape)})")
    if label.is_floating_point():
        if bool((label.nan_to_num() % 1 != 0).any()):
            raise ValueError(
                f"y must hold class numbers (got {float(label[(label.nan_to_num() % 1 != 0).nonzero()[0, 0]]):g})"
            )
        label = torch.where(label.isnan(), -1, label).long()
    order = torch.randperm(label.numel(), generator=stream(seed))
    by_class = order[label[order].sort(stable=True).indices]
    _, inverse, counts = label.unique(return_inverse=True, return_counts=True)
    start = counts.cumsum(0) - counts
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(label.numel()) - start[inverse[by_class]]
    return place, counts[inverse], label
