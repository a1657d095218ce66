"""Vectors of sampled neighbourhoods: what walks from a node visit, as tokens of that node."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.gated_gcn import GatedGCNConv
from graphkit.ops import NeighborIndex, spmm, visited_sets
from graphkit.ops.csr import counts_to_ptr, ptr_to_index
from graphkit.utils.checks import check_int


class RandomWalkFeatures(nn.Module):
    r"""Vectors of groups of walks, by what the walks show of the nodes and of the edges between them, as in `"Walking
    Out of the Weisfeiler Leman Hierarchy: Graph Learning Beyond Message Passing" <https://arxiv.org/abs/2102.08786>`_.

    A place i of a walk has the vector of its node :math:`v_i`, bits that tell whether it is :math:`v_{i-k}` (k = 1 to
    ``window``) and bits that tell whether it is linked to :math:`v_{i-k}` (k = 2 to ``window``). A linear map, a
    depthwise convolution over the last ``window + 1`` places, BatchNorm, ReLU, a linear map and ReLU follow; a token is
    the mean over the places of its walks. O(P (F^2 + window log d)) for P places.

    Args:
        channels: width F of nodes and tokens.
        window: how far back places are compared.

    Shapes:
        - **input:** ``h`` ``[N, channels]``, graph as :class:`~graphkit.ops.NeighborIndex`, walks of
          :func:`~graphkit.ops.neighborhood_walks`
        - **output:** ``[N * L, channels]``: the L - 1 groups of each node, longest walks first, and the node alone

    Raises:
        ValueError: a number below 1.

    Example:
        >>> from graphkit.ops import neighborhood_walks
        >>> graph = NeighborIndex(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> RandomWalkFeatures(4)(torch.randn(2, 4), graph, neighborhood_walks(graph, m=2, s=3, num_walks=5)).shape
        torch.Size([14, 4])
    """

    def __init__(self, channels: int, window: int = 8) -> None:
        super().__init__()
        self.channels, self.window = check_int(channels, "channels", 1), check_int(window, "window", 1)
        self.lin_node = nn.Linear(channels, channels)
        self.lin_bits = nn.Linear(2 * window - 1, channels, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(window + 1, channels))
        self.norm = nn.BatchNorm1d(channels)
        self.lin_out = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.lin_node, self.lin_bits, self.norm, self.lin_out):
            part.reset_parameters()
        bound = (self.window + 1) ** -0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)

    def forward(self, h: Tensor, graph: NeighborIndex, walks: list[Tensor]) -> Tensor:
        return self.encode(h, graph, self.seen(graph, walks))

    def seen(self, graph: NeighborIndex, walks: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the walks show whatever the weights: each tensor of walks, the nodes alone last, and its bits. They take
        O(P window) bytes and serve every call of :meth:`encode`."""
        alone = torch.arange(graph.num_nodes, device=graph.device).view(-1, 1, 1, 1)
        return [(walk, self.bits(graph, walk.flatten(0, 2))) for walk in (*walks, alone)]

    def encode(self, h: Tensor, graph: NeighborIndex, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The tokens of walks that :meth:`seen` has seen."""
        node = self.lin_node(h)
        places = torch.cat([self._convolved(node, walk.flatten(0, 2), bits).flatten(0, 1) for walk, bits in seen])
        places = F.relu(self.lin_out(F.relu(self.norm(places))))
        tokens = [
            part.view(h.size(0), walk.size(1), -1, self.channels).mean(2)
            for (walk, _), part in zip(seen, places.split([walk.numel() for walk, _ in seen]), strict=True)
        ]
        return torch.cat(tokens, 1).flatten(0, 1)

    def bits(self, graph: NeighborIndex, walk: Tensor) -> Tensor:
        """``[R, l + 1, 2 window - 1]`` bools of R walks ``[R, l + 1]``: same node as k places before, then linked."""
        found = torch.zeros(*walk.shape, 2 * self.window - 1, dtype=torch.bool, device=walk.device)
        for k in range(1, min(self.window, walk.size(1) - 1) + 1):
            here, before = walk[:, k:], walk[:, :-k]
            found[:, k:, k - 1] = here == before
            if k > 1:
                linked = graph.has_edge(here.flatten(), before.flatten())
                found[:, k:, self.window + k - 2] = linked.view_as(here)
        return found

    def _convolved(self, node: Tensor, walk: Tensor, bits: Tensor) -> Tensor:
        z = node.index_select(0, walk.flatten()).view(*walk.shape, -1) + self.lin_bits(bits.to(node.dtype))
        out = z * self.conv_weight[0]
        for k in range(1, min(self.window, walk.size(1) - 1) + 1):
            out = out + F.pad(z[:, :-k] * self.conv_weight[k], (0, 0, k, 0))
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, window={self.window})"


class PooledNeighborhoods(nn.Module):
    """Vectors of groups of walks: the mean over the visited nodes of vectors that a :class:`GatedGCNConv` on the whole
    graph gave them. Sees which nodes a group visits, not how they are linked. Shapes of :class:`RandomWalkFeatures`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = GatedGCNConv(channels, channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.conv.reset_parameters()

    def forward(self, h: Tensor, graph: NeighborIndex, walks: list[Tensor]) -> Tensor:
        return self.encode(h, graph, self.seen(graph, walks))

    def seen(self, graph: NeighborIndex, walks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What every call of :meth:`encode` needs of the walks: the visited nodes, once each."""
        return visited_sets(walks, graph.num_nodes, graph.device)

    def encode(self, h: Tensor, graph: NeighborIndex, seen: tuple[Tensor, Tensor]) -> Tensor:
        """The tokens of walks that :meth:`seen` has seen."""
        ptr, member = seen
        z = h + F.relu(self.conv(h, graph))
        return spmm(ptr, member, z) / ptr.diff()[:, None].to(h.dtype)


class NeighborhoodSubgraphs(nn.Module):
    """Vectors of groups of walks: the mean over the visited nodes after a :class:`GatedGCNConv` on the edges between
    them. Shapes of :class:`RandomWalkFeatures`. O(V d) for V visited nodes of degree d."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = GatedGCNConv(channels, channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.conv.reset_parameters()

    def forward(self, h: Tensor, graph: NeighborIndex, walks: list[Tensor]) -> Tensor:
        return self.encode(h, graph, self.seen(graph, walks))

    def seen(self, graph: NeighborIndex, walks: list[Tensor]) -> tuple[Tensor, Tensor, NeighborIndex]:
        """What every call of :meth:`encode` needs of the walks: the visited nodes and the edges between them."""
        ptr, member = visited_sets(walks, graph.num_nodes, graph.device)
        return ptr, member, induced_subgraphs(graph, ptr, member)

    def encode(self, h: Tensor, graph: NeighborIndex, seen: tuple[Tensor, Tensor, NeighborIndex]) -> Tensor:
        """The tokens of walks that :meth:`seen` has seen."""
        ptr, member, edges = seen
        z = h.index_select(0, member)
        z = z + F.relu(self.conv(z, edges))
        everyone = torch.arange(member.numel(), device=h.device)
        return spmm(ptr, everyone, z) / ptr.diff()[:, None].to(h.dtype)


def induced_subgraphs(graph: NeighborIndex, ptr: Tensor, member: Tensor) -> NeighborIndex:
    """The edges within each of many sets of nodes, whose members, one set after the other, are the nodes of the result.

    Args:
        graph: the graph.
        ptr: ``[S + 1]`` int64 offsets of the sets.
        member: ``[n]`` int64 nodes, ascending in each set.

    Example:
        >>> path = NeighborIndex(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> induced_subgraphs(path, torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 2])).edge_index
        tensor([[0, 1],
                [1, 0]])
    """
    owner = ptr_to_index(ptr, member.numel())
    keys = owner * graph.num_nodes + member
    entry, neighbor = graph.expand(member)
    wanted = owner[entry] * graph.num_nodes + neighbor
    place = torch.searchsorted(keys, wanted).clamp(max=max(keys.numel() - 1, 0))
    inside = keys[place] == wanted
    rowptr = counts_to_ptr(torch.bincount(entry[inside], minlength=member.numel()))
    return NeighborIndex.from_csr(rowptr, place[inside], member.numel())
