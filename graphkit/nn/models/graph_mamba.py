"""Graph Mamba networks: neighbourhoods as sequences of tokens, and nodes as a sequence, read by a state space model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.gated_gcn import GatedGCNConv
from graphkit.nn.conv.propagate import graph_for, incoming, propagate
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.nn.mixer.mamba import BiMamba
from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.nn.models.neighborhood_encoders import NeighborhoodSubgraphs, PooledNeighborhoods, RandomWalkFeatures
from graphkit.ops import NeighborIndex, TokenLayout, neighborhood_walks
from graphkit.transforms.sort_tokens import IMPORTANCE, node_importance
from graphkit.utils.checks import INDEX_DTYPES, check_choice, check_int, check_probabilities
from graphkit.utils.seed import stream

ENCODERS = {"pool": PooledNeighborhoods, "rwf": RandomWalkFeatures, "mpnn": NeighborhoodSubgraphs}
ORDERS = (*IMPORTANCE, "random")
HEADS = ("node", "mean", "max", "first")


class _GCN(nn.Module):
    """A layer of GCN with a map of the node's own vector beside, which the tuned ones of `"Classic GNNs are Strong
    Baselines" <https://arxiv.org/abs/2406.08993>`_ have and without which a node is lost among its neighbours."""

    takes_index = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Root and value.
        self.lin = nn.Linear(channels, 2 * channels)

    def reset_parameters(self) -> None:
        self.lin.reset_parameters()

    def forward(self, x: Tensor, graph: NeighborIndex) -> Tensor:
        root, value = self.lin(x).chunk(2, 1)
        return root + propagate(value, graph, "gcn")


CONVS: dict[str, Callable[[int], nn.Module]] = {
    "gatedgcn": lambda channels: GatedGCNConv(channels, channels),
    "gcn": _GCN,
}


class GMNLayer(nn.Module):
    r"""A mixer over all nodes of a graph in order, and message passing beside it:

    .. math:: H \leftarrow H + \mathrm{Mixer}(\mathrm{Norm}(H)) + \mathrm{ReLU}(\mathrm{Conv}(\mathrm{Norm}(H), G))

    With self-attention as the mixer this is a layer of GPS (`"Recipe for a General, Powerful, Scalable Graph
    Transformer" <https://arxiv.org/abs/2205.12454>`_) without its feed-forward part.

    Args:
        channels: width of a node.
        mixer: ``mixer(channels)`` makes the mixer; no mixer if None.
        conv: ``"gatedgcn"``, ``"gcn"`` (with a map of the node itself), or ``conv(channels)`` makes a layer of GraphKit
            or PyG, ``channels`` to ``channels`` wide; no message passing if None.
        dropout: dropout in both branches.

    Shapes:
        - **input:** ``x`` ``[N, channels]``, graph as :class:`~graphkit.ops.NeighborIndex` or ``edge_index``, tokens as
          :class:`~graphkit.nn.TokenMixer`: the order in which the nodes are read
        - **output:** ``[N, channels]``

    Raises:
        ValueError: neither a mixer nor message passing, an unknown name or a probability out of range.

    Example:
        >>> layer = GMNLayer(8)
        >>> layer(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 8])
    """

    takes_index = True

    def __init__(
        self,
        channels: int,
        mixer: Callable[[int], TokenMixer] | None = BiMamba,
        conv: str | Callable[[int], nn.Module] | None = "gatedgcn",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = check_int(channels, "channels", 1)
        check_probabilities(dropout=dropout)
        if mixer is None and conv is None:
            raise ValueError("a layer needs a mixer or message passing (got mixer=None and conv=None)")
        self.mixer = None if mixer is None else mixer(channels)
        self.mixer_norm = None if mixer is None else nn.LayerNorm(channels)
        if isinstance(conv, str):
            conv = CONVS[check_choice(conv, "conv", tuple(CONVS))]
        self.conv = None if conv is None else conv(channels)
        self.conv_norm = None if conv is None else nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.mixer, self.mixer_norm, self.conv, self.conv_norm):
            if part is not None:
                part.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor, graph: NeighborIndex | Tensor, tokens: TokenLayout | Tensor | None = None) -> Tensor:
        out = x
        if self.mixer is not None and self.mixer_norm is not None:
            out = out + self.dropout(self.mixer(self.mixer_norm(x), tokens))
        if self.conv is not None and self.conv_norm is not None:
            passed = self.conv(self.conv_norm(x), graph_for(self.conv, incoming(graph, x.size(0))))
            out = out + self.dropout(F.relu(passed))
        return out

    def __repr__(self) -> str:
        parts = f"mixer={type(self.mixer).__name__}, conv={type(self.conv).__name__}"
        return f"{type(self).__name__}({self.channels}, {parts})"


class _Settings(NamedTuple):
    """What a plan is made for."""

    m: int
    s: int
    num_walks: int
    seed: int
    order: str
    encoder: type[nn.Module] | None
    num_graphs: int | None


class _Plan:
    """What the graphs alone decide, whatever the weights: which nodes walks visit, which nodes are read before which.

    It is kept with the graph, so that steps on one :class:`~graphkit.ops.NeighborIndex` neither walk nor rank its nodes
    anew, and none after the first waits for a GPU.
    """

    def __init__(self, graph: NeighborIndex, batch: Tensor | None, settings: _Settings) -> None:
        self.batch, self.version, self.settings = batch, _version(batch), settings
        self.nodes = TokenLayout(_graph_ptr(batch, graph.num_nodes, settings.num_graphs, graph.device))
        self._seen: Any = None
        self._levels: Tensor | None = None
        self._still: TokenLayout | None = None

    def fits(self, batch: Tensor | None, settings: _Settings) -> bool:
        """Whether it is a model's plan for these graphs."""
        return self.batch is batch and self.version == _version(batch) and self.settings == settings

    def seen(self, graph: NeighborIndex, encoder: Any) -> Any:
        """What the encoder needs to know of the walks of the seed."""
        if self._seen is None:
            m, s, num_walks, seed = self.settings[:4]
            walks = neighborhood_walks(graph, m, s, num_walks, seed=seed, rank=self.nodes.rank)
            self._seen = encoder.seen(graph, walks)
        return self._seen

    @cached_property
    def sequences(self) -> TokenLayout:
        """The tokens of each node."""
        length = self.settings.s * self.settings.m + 1
        return TokenLayout(torch.arange(self.nodes.num_tokens + 1, device=self.nodes.ptr.device) * length)

    def order(self, graph: NeighborIndex, training: bool) -> TokenLayout:
        """The nodes as they are read: by importance, equal ones in a new order each time or, in evaluation, in one that
        does not depend on other graphs of the batch."""
        if not training and self._still is not None:
            return self._still
        device, rank = self.nodes.ptr.device, self.nodes.rank
        if training:
            key = torch.rand(rank.numel(), dtype=torch.float64, device=device)
        else:
            generator = stream(self.settings.seed, 1)
            key = torch.rand(self.nodes.max_length, dtype=torch.float64, generator=generator).to(device)[rank]
        if self.settings.order != "random":
            if self._levels is None:
                self._levels = node_importance(graph, self.settings.order).unique(return_inverse=True)[1]
            key = self._levels + key
        found = self.nodes.reordered(key)
        if not training:
            self._still = found
        return found


def _version(batch: Tensor | None) -> int | None:
    """How often it was written to."""
    return None if batch is None else batch._version


class GraphMambaNet(nn.Module):
    r"""The network of `"Graph Mamba: Towards Learning on Graphs with State Space Models"
    <https://arxiv.org/abs/2402.08678>`_.

    1. *Tokens of a node*: for each length l = m, ..., 1 and each of ``s`` repeats the nodes that ``num_walks`` uniform
       walks of length l from the node visit, and the node itself last: L = s m + 1 tokens from far to near, each with a
       vector of a local ``encoder``.
    2. ``token_layers`` blocks :math:`T \leftarrow T + \mathrm{Mixer}(\mathrm{Norm}(T))` read each node's sequence; its
       last token goes on.
    3. ``num_layers`` :class:`GMNLayer` read the nodes of each graph from the least important to the most, with message
       passing beside.
    4. A linear head for nodes or graphs.

    With ``m=0`` there are no neighbourhoods, and what is left is GPS with the mixer in place of attention. Nodes that
    are equally important are read at random: in a new order at each call in training, in one order in evaluation. Walks
    are those of ``seed`` (or new ones at each call in training) and do not depend on other graphs of the batch.

    Walks, and places in the order of importance, are made once for a :class:`~graphkit.ops.NeighborIndex` and kept with
    it, so that later calls with it wait for no GPU (but with ``resample``, whose walks are new). Of ``edge_index`` they
    are made at each call.

    O(N L) tokens: N L times the mixer's cost of a token, and N s m^2 ``num_walks`` steps of walks. Memory is that of
    N L ``hidden_channels`` numbers for each token layer, times what the mixer keeps (about 10 for a Mamba).

    Args:
        in_channels: width of ``x``, structural encodings (:class:`~graphkit.transforms.RandomWalkEncoding`) included.
        hidden_channels: width within.
        out_channels: width of the output.
        num_layers: layers over the nodes.
        m: length of the longest walks.
        s: tokens of each length.
        num_walks: walks of a token.
        token_layers: layers over the tokens of a node.
        encoder: ``"pool"`` (mean over the visited nodes), ``"rwf"`` (:class:`RandomWalkFeatures`) or ``"mpnn"``
            (message passing on the visited nodes' own edges).
        mixer: ``mixer(channels)`` makes each layer's mixer; None: no layers over tokens and no mixer over nodes, that
            is message passing alone.
        conv: as :class:`GMNLayer`.
        order: what is important: ``"degree"``, ``"zagreb"``, ``"core"``, ``"pagerank"`` (see
            :class:`~graphkit.transforms.SortTokens`) or ``"random"``.
        head: ``"node"`` (a row a node), or a row a graph from its nodes' ``"mean"``, ``"max"`` or its ``"first"`` node.
        dropout: dropout after the first map and in all branches.
        resample: draw new walks at each call in training. Otherwise they stay, and the tokens of equal length change
            places.
        seed: seed of the walks, and of the order of equals in evaluation.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex`
          whose row ``i`` lists the nodes that ``i`` hears from, or PyG's ``edge_index`` ``[2, E]``; ``batch`` ``[N]``
          ascending and ``num_graphs`` for several graphs; ``walks``, those of
          :func:`~graphkit.ops.neighborhood_walks`, to give them
        - **output:** ``[N, out_channels]``, or ``[num_graphs, out_channels]``

    Raises:
        ValueError: a number out of range, an unknown name, a batch that is not ascending, tensors on several devices.
        IndexError: an edge outside the graph.

    Example:
        >>> model = GraphMambaNet(8, 16, 3, m=2, s=1)
        >>> model(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 3])
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 3,
        m: int = 4,
        s: int = 4,
        num_walks: int = 4,
        *,
        token_layers: int = 1,
        encoder: str = "pool",
        mixer: Callable[[int], TokenMixer] | None = BiMamba,
        conv: str | Callable[[int], nn.Module] | None = "gatedgcn",
        order: str = "degree",
        head: str = "node",
        dropout: float = 0.1,
        resample: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.hidden_channels = check_int(hidden_channels, "hidden_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.m, self.s = check_int(m, "m", 0), check_int(s, "s", 1 if m > 0 else 0)
        self.num_walks = check_int(num_walks, "num_walks", 1)
        self.order, self.head = check_choice(order, "order", ORDERS), check_choice(head, "head", HEADS)
        check_choice(encoder, "encoder", tuple(ENCODERS))
        check_int(token_layers, "token_layers", 1)
        check_probabilities(dropout=dropout)
        self.resample, self.seed = resample, check_int(seed, "seed", 0)
        channels = hidden_channels
        self.embed = SparseLinear(in_channels, channels)
        self.dropout = nn.Dropout(dropout)
        levels = token_layers if m > 0 and mixer is not None else 0
        self.encoder = ENCODERS[encoder](channels) if levels else None
        self.token_mixers = nn.ModuleList(mixer(channels) for _ in range(levels) if mixer is not None)
        self.token_norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(levels))
        self.layers = nn.ModuleList(GMNLayer(channels, mixer, conv, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)
        self.lin_out = nn.Linear(channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        parts = [self.embed, self.encoder, *self.token_mixers, *self.token_norms, *self.layers, self.norm, self.lin_out]
        for part in parts:
            if part is not None:
                part.reset_parameters()

    def forward(
        self,
        x: Tensor,
        graph: NeighborIndex | Tensor,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
        *,
        walks: list[Tensor] | None = None,
    ) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"x must be a matrix [N, {self.in_channels}] (got {type(x).__name__})")
        for name, other in (("graph", graph), ("batch", batch)):
            if other is not None and other.device != x.device:
                raise ValueError(f"{name} is on {other.device}, x on {x.device}; move one with .to(...)")
        index = incoming(graph, x.size(0))
        plan = self._plan(index, batch, num_graphs)
        h = self.dropout(self.embed(x))
        if self.encoder is not None:
            h = self._read_neighborhoods(self._tokens(h, index, plan, walks), plan.sequences)
        tokens = None if self.layers[0].mixer is None else plan.order(index, self.training)
        for layer in self.layers:
            h = layer(h, index, tokens)
        return self.lin_out(self._readout(self.norm(h), plan.nodes))

    def _plan(self, graph: NeighborIndex, batch: Tensor | None, num_graphs: int | None) -> _Plan:
        """The plan that is kept with the graph, a new one if that is of another model or of other graphs."""
        encoder = None if self.encoder is None else type(self.encoder)
        settings = _Settings(self.m, self.s, self.num_walks, self.seed, self.order, encoder, num_graphs)
        plan = graph.kept.get("graph_mamba")
        if not isinstance(plan, _Plan) or not plan.fits(batch, settings):
            plan = graph.kept["graph_mamba"] = _Plan(graph, batch, settings)
        return plan

    def _tokens(self, h: Tensor, graph: NeighborIndex, plan: _Plan, walks: list[Tensor] | None) -> Tensor:
        """Vectors of all tokens, node after node."""
        encoder: Any = self.encoder
        if walks is not None:
            return encoder(h, graph, walks)
        if self.training and self.resample:
            return encoder(h, graph, neighborhood_walks(graph, self.m, self.s, self.num_walks))
        t = encoder.encode(h, graph, plan.seen(graph, encoder))
        if not self.training or self.s == 1:
            return t
        places = [level * self.s + torch.randperm(self.s, device=h.device) for level in range(self.m)]
        places.append(torch.full((1,), self.m * self.s, device=h.device))
        return t.view(h.size(0), -1, t.size(1)).index_select(1, torch.cat(places)).flatten(0, 1)

    def _read_neighborhoods(self, t: Tensor, layout: TokenLayout) -> Tensor:
        """The last token of each node's sequence, after the layers over tokens. The last layer writes no other."""
        for norm, mixer in zip(self.token_norms[:-1], self.token_mixers[:-1], strict=True):
            t = t + self.dropout(mixer(norm(t), layout))
        final: Any = self.token_mixers[-1]
        return layout.last(t) + self.dropout(final.last(self.token_norms[-1](t), layout))

    def _readout(self, h: Tensor, nodes: TokenLayout) -> Tensor:
        if self.head == "node":
            return h
        if self.head == "mean":
            return nodes.mean(h)
        if self.head == "first":
            rows = torch.cat([h, h.new_zeros(1, h.size(1))])  # zeros for a graph without nodes
            return rows[torch.where(nodes.length > 0, nodes.ptr[:-1], h.size(0))]
        zeros = h.new_zeros(nodes.num_graphs, h.size(1))
        return zeros.scatter_reduce(0, nodes.batch[:, None].expand_as(h), h, "amax", include_self=False)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.out_channels}, {self.num_layers}"
        mixer = type(self.layers[0].mixer).__name__
        walks = f"m={self.m}, s={self.s}, num_walks={self.num_walks}, encoder={type(self.encoder).__name__}"
        return f"{type(self).__name__}({sizes}, {walks}, mixer={mixer}, order={self.order!r}, head={self.head!r})"


def _graph_ptr(batch: Tensor | None, num_nodes: int, num_graphs: int | None, device: torch.device) -> Tensor:
    """Where each graph's nodes begin."""
    if batch is None:
        return torch.tensor([0, num_nodes], device=device)
    if batch.shape != (num_nodes,):
        raise ValueError(f"batch must hold the graph of each of {num_nodes} nodes (got {list(batch.shape)})")
    if batch.dtype not in INDEX_DTYPES:
        raise TypeError(f"batch must hold int64 ids of graphs (got {batch.dtype})")
    if batch.device.type == "cpu" and num_nodes:
        if int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any()):
            raise ValueError("batch must be ascending from 0, each graph's nodes together; sort the nodes by it")
        if num_graphs is not None and int(batch[-1]) >= num_graphs:
            raise ValueError(f"num_graphs must be above the ids in batch (got {num_graphs}, ids to {int(batch[-1])})")
    if num_graphs is None:
        num_graphs = int(batch[-1]) + 1 if num_nodes else 0
    return torch.searchsorted(batch, torch.arange(num_graphs + 1, device=device))
