"""One virtual node for each class, linked to the nodes whose label is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.utils.checks import INDEX_DTYPES, check_choice, check_int, check_pairs
from graphkit.utils.seed import stream

DIRECTIONS = ("both", "to_virtual")


class ClassVirtualNodes(BaseTransform):
    r"""Add a node for each class and link it to the nodes of that class, from `"Forward Learning of Graph Neural
    Networks" <https://arxiv.org/abs/2403.11004>`_.

    The graph of N nodes gets the nodes :math:`N, \dots, N + C - 1` with fixed features from :math:`\mathcal{N}(0, 1)`.
    A node :math:`s` of the chosen set with label :math:`y_s` is linked to node :math:`N + y_s`. So labels enter as
    edges, and the vector of a virtual node stands for its class.

    Args:
        num_classes: number of classes ``C``.
        direction: ``"both"`` directions, or ``"to_virtual"``: only from a node to its class.
        append_label: append a label to the features: one-hot for the chosen and the virtual nodes, :math:`1/C` for
            all others.
        seed: seed of the virtual nodes' features.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]`` and ``edge_index`` ``[2, E]``; ``nodes``,
          a mask ``[N]`` or ids ``[n]`` (``data.train_mask`` if None); ``y``, labels ``[N]``, or of fewer chosen nodes
          ``[n]`` (``data.y`` if None)
        - **output:** ``x`` ``[N + C, F]`` (``F + C`` with ``append_label``), ``edge_index`` with the new edges at the
          end, ``edge_type`` ``[E']`` (0: given; 1 to C: node to class; C + 1 to 2C: class to node), ``real_mask``
          ``[N + C]`` and ``virtual_index`` ``[C]``. ``y`` gets the classes of the virtual nodes; other attributes of
          nodes get zeros there.

    Raises:
        TypeError: labels or ids of a wrong type.
        ValueError: labels outside 0 to C - 1, lengths that do not fit, or a graph with attributes of edges.

    Example:
        >>> data = Data(x=torch.eye(5), edge_index=torch.tensor([[0, 1], [1, 0]]))
        >>> out = ClassVirtualNodes(3)(data, torch.tensor([0, 1]), torch.tensor([0, 2]))
        >>> out.num_nodes, out.edge_type.tolist()
        (8, [0, 0, 1, 3, 4, 6])
    """

    def __init__(self, num_classes: int, direction: str = "both", *, append_label: bool = False, seed: int = 0) -> None:
        self.num_classes = check_int(num_classes, "num_classes", 1)
        self.direction = check_choice(direction, "direction", DIRECTIONS)
        self.append_label = append_label
        self.seed = check_int(seed, "seed", 0)

    def __call__(self, data: Data, nodes: Tensor | None = None, y: Tensor | None = None) -> Data:
        # BaseTransform's own takes the graph alone.
        return self.forward(data, nodes, y)

    def forward(self, data: Data, nodes: Tensor | None = None, y: Tensor | None = None) -> Data:
        if data.x is None or data.edge_index is None:
            raise ValueError("data must have x and edge_index; without features virtual nodes have nothing to resemble")
        size, classes = data.x.size(0), self.num_classes
        check_pairs(data.edge_index, size, "data.edge_index")
        broken = [key for key in data.edge_attrs() if key != "edge_index"]
        if broken:
            raise ValueError(f"data must have no attributes of edges, which new edges lack (got {', '.join(broken)})")
        nodes, y = self._chosen(data, nodes, y)
        out = Data()
        for key, value in data.to_dict().items():
            of_nodes = key in data.node_attrs() and isinstance(value, Tensor)
            out[key] = torch.cat([value, value.new_zeros(classes, *value.shape[1:])]) if of_nodes else value
        virtual = torch.arange(size, size + classes, device=data.x.device)
        if isinstance(data.y, Tensor) and data.y.size(0) == size:
            label = torch.arange(classes, device=data.y.device).to(data.y.dtype)
            out.y = torch.cat([data.y, label.view(-1, *[1] * (data.y.dim() - 1))])
        out.x = torch.cat([data.x, self.features(data.x)])
        if self.append_label:
            out.x = torch.cat([out.x, self.labels(nodes, y, size).to(out.x)], dim=1)
        new, kind = self.edges(nodes, y, size)
        out.edge_index = torch.cat([data.edge_index, new.to(data.edge_index.dtype)], dim=1)
        out.edge_type = torch.cat([kind.new_zeros(data.edge_index.size(1)), kind])
        out.real_mask = torch.arange(size + classes, device=data.x.device) < size
        out.virtual_index = virtual
        out.num_nodes = size + classes
        return out

    def features(self, x: Tensor) -> Tensor:
        """``[C, F]`` features of the virtual nodes, for nodes with features like ``x``."""
        drawn = torch.randn(self.num_classes, x.size(1), generator=stream(self.seed))
        return drawn.to(x.device, x.dtype)

    def edges(self, nodes: Tensor, y: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
        """The new edges and their types, for ids and labels ``[n]`` in a graph of ``num_nodes`` real nodes. O(n)."""
        virtual = y + num_nodes
        to, kind = torch.stack([nodes, virtual]), y + 1
        if self.direction == "to_virtual":
            return to, kind
        return torch.cat([to, to.flip(0)], dim=1), torch.cat([kind, kind + self.num_classes])

    def labels(self, nodes: Tensor, y: Tensor, num_nodes: int) -> Tensor:
        """``[num_nodes + C, C]``: one-hot for ``nodes`` and the virtual nodes, 1/C for all others."""
        out = torch.full((num_nodes + self.num_classes, self.num_classes), 1 / self.num_classes, device=y.device)
        out[nodes] = F.one_hot(y, self.num_classes).to(out.dtype)
        out[num_nodes:] = torch.eye(self.num_classes, device=y.device)
        return out

    def _chosen(self, data: Data, nodes: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids and labels of the chosen nodes."""
        size = data.x.size(0)
        nodes = _tensor(getattr(data, "train_mask", None) if nodes is None else nodes, "nodes")
        y = _tensor(data.y if y is None else y, "y").view(-1)
        if nodes.dtype == torch.bool:
            if nodes.shape != (size,):
                raise ValueError(f"nodes must be a mask [{size}], one value a node (got {list(nodes.shape)})")
            nodes = nodes.nonzero()[:, 0]
        check_pairs(nodes.repeat(2, 1) if nodes.dim() == 1 else nodes, size, "nodes")
        if y.dtype not in INDEX_DTYPES:
            raise TypeError(f"y must hold class numbers as int64 or int32 (got {y.dtype})")
        if y.numel() == size:
            y = y[nodes]
        if y.numel() != nodes.numel():
            raise ValueError(f"y must hold {size} labels, or one for each of {nodes.numel()} nodes (got {y.numel()})")
        bad = y[(y < 0) | (y >= self.num_classes)]
        if bad.numel():
            raise ValueError(f"y must be in 0 to {self.num_classes - 1} (got {int(bad[0])})")
        return nodes.long(), y.long()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_classes}, direction={self.direction!r})"


def _tensor(value: Tensor | None, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, given or among the data (got {type(value).__name__})")
    return value
