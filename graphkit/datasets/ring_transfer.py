"""Rings on which a label must travel half way round."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream


def ring_transfer(num_graphs: int = 1000, num_nodes: int = 40, num_classes: int = 5, seed: int = 0) -> list[Data]:
    """Rings whose first node must tell what stands on the node opposite, as in `"On Over-Squashing in Message Passing
    Neural Networks: The Impact of Width, Depth, and Topology" <https://arxiv.org/abs/2302.02941>`_.

    The label is drawn uniformly, so that guessing is right once in ``num_classes``. It is written on the node opposite
    of the first alone: message passing over fewer than ``num_nodes // 2`` layers never sees it.

    Args:
        num_graphs: number of rings.
        num_nodes: nodes of a ring.
        num_classes: number of labels.
        seed: another seed, other labels.

    Returns:
        Graphs with ``x`` ``[num_nodes, num_classes + 1]``: the label of the opposite node, one-hot, and a one in the
        last column of the first node; ``edge_index`` in both directions; ``y`` ``[1]``.

    Raises:
        ValueError: no rings, fewer than 3 nodes or 2 labels.

    Example:
        >>> ring_transfer(2, num_nodes=6)[0]
        Data(x=[6, 6], edge_index=[2, 12], y=[1])
    """
    for name, value, low in (
        ("num_graphs", num_graphs, 1),
        ("num_nodes", num_nodes, 3),
        ("num_classes", num_classes, 2),
    ):
        check_int(value, name, low)
    label = torch.randint(num_classes, (num_graphs,), generator=stream(check_int(seed, "seed", 0)))
    place = torch.arange(num_nodes)
    after = (place + 1) % num_nodes
    edge_index = torch.stack([torch.cat([place, after]), torch.cat([after, place])])
    x = torch.zeros(num_graphs, num_nodes, num_classes + 1)
    x[:, 0, num_classes] = 1
    x[torch.arange(num_graphs), num_nodes // 2, label] = 1
    return [Data(x=rows, edge_index=edge_index, y=y.view(1)) for rows, y in zip(x, label, strict=True)]
