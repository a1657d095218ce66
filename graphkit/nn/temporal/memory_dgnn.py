"""Models of event streams that keep a memory of each node: TGN, JODIE, DyRep and APAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.temporal.apan import APANEncoder
from graphkit.nn.temporal.link_decoder import TemporalLinkDecoder
from graphkit.nn.temporal.memory import TGNMemory
from graphkit.nn.temporal.memory_encoder import MemoryEncoder
from graphkit.nn.temporal.node_embedding import GraphSumEmbedding, IdentityEmbedding, TimeProjectionEmbedding
from graphkit.nn.temporal.pres import PredictCorrectFilter
from graphkit.nn.temporal.state import TemporalModel
from graphkit.nn.temporal.temporal_attention import TemporalAttentionEmbedding
from graphkit.ops.last import compact
from graphkit.utils.checks import check_choice, check_features, check_int, check_range

KINDS = ("tgn", "jodie", "dyrep", "apan")
_EMBEDDING = {"tgn": "attention", "jodie": "time", "dyrep": "identity"}


class MemoryDGNN(TemporalModel):
    """Memory-based dynamic graph neural networks, as settings of one model.

    ========  ==========  =================  ========================================================================
    kind      memory by   embedding          paper
    ========  ==========  =================  ========================================================================
    tgn       GRU         attention          `"Temporal Graph Networks for Deep Learning on Dynamic Graphs"
                                             <https://arxiv.org/abs/2006.10637>`_
    jodie     RNN         drift in time      `"Predicting Dynamic Embedding Trajectory in Temporal Interaction
                                             Networks" <https://arxiv.org/abs/1908.01207>`_
    dyrep     RNN, told   the memory         `"DyRep: Learning Representations over Dynamic Graphs"
              neighbours                     <https://openreview.net/forum?id=HyePrhR5KX>`_
    apan      mailbox     attention          `"APAN: Asynchronous Propagation Attention Network for Real-time Temporal
                                             Graph Embedding" <https://arxiv.org/abs/2011.11545>`_
    ========  ==========  =================  ========================================================================

    All are scored by :class:`~graphkit.nn.temporal.link_decoder.TemporalLinkDecoder`, and any can be corrected by
    :class:`~graphkit.nn.temporal.pres.PredictCorrectFilter`. The events of a batch are seen after all of it is scored.
    Costs of a batch do not grow with the number of nodes or events seen.

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        msg_dim: width of the events' messages; 0 for none.
        kind: ``"tgn"``, ``"jodie"``, ``"dyrep"`` or ``"apan"``.
        memory_dim: width of a memory.
        time_dim: width of the encoded time; APAN's is ``embedding_dim``.
        embedding_dim: width of an embedding; ``memory_dim`` where embeddings are memories.
        num_neighbors: latest neighbours of a node that are read; with APAN, the size of a mailbox.
        heads: of the attention.
        dropout: in the attention; with APAN, after it.
        message: ``"identity"`` or ``"mlp"``; not for APAN.
        aggr: ``"last"`` or ``"mean"`` of a node's messages of one batch; not for APAN.
        embedding: ``"attention"``, ``"sum"``, ``"time"`` or ``"identity"`` in place of the kind's; not for APAN.
        x: ``[num_nodes, F]`` static features, or None; not for APAN.
        pres: a filter of the memory, or None.
        beta: weight of the memory coherence in :meth:`auxiliary_loss`, if there is a filter.

    Raises:
        ValueError: an unknown kind or choice, a width or weight out of range; in a call, shapes that do not fit, a
            message matrix of another width, or events that are not in order of time.
        IndexError: a node id out of range.

    Example:
        >>> model = MemoryDGNN(num_nodes=10, msg_dim=0)
        >>> src, dst, t, e_id = torch.tensor([[0, 1], [2, 3], [5, 6], [0, 1]])
        >>> model.update_state(src, dst, t, e_id)
        >>> model(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([7])).shape
        torch.Size([1, 3])
    """

    msg_dim: int

    def __init__(
        self,
        num_nodes: int,
        msg_dim: int,
        kind: str = "tgn",
        memory_dim: int = 100,
        time_dim: int = 100,
        embedding_dim: int = 100,
        num_neighbors: int = 10,
        heads: int = 2,
        dropout: float = 0.1,
        message: str = "identity",
        aggr: str = "last",
        embedding: str | None = None,
        x: Tensor | None = None,
        pres: PredictCorrectFilter | None = None,
        beta: float = 0.1,
    ) -> None:
        super().__init__(num_nodes)
        self.kind = check_choice(kind, "kind", KINDS)
        self.msg_dim = check_int(msg_dim, "msg_dim", 0)
        self.embedding_dim = check_int(embedding_dim, "embedding_dim", 1)
        self.beta = check_range(beta, "beta", 0)
        if kind == "apan":
            for name, value in (("embedding", embedding), ("x", x)):
                if value is not None:
                    raise ValueError(f"{name} must be None with kind='apan', whose mailboxes it does not enter")
        else:
            embedding = check_choice(embedding or _EMBEDDING[kind], "embedding", tuple(_BUILD))
        if embedding in (None, "time", "identity") and embedding_dim != memory_dim:
            raise ValueError(
                f"embedding_dim must be memory_dim={memory_dim} where embeddings are memories (got {embedding_dim})"
            )
        if x is not None and check_features(x).size(0) != num_nodes:
            raise ValueError(f"x must have one row for each of {num_nodes} nodes (got {list(x.shape)})")
        self.encoder: APANEncoder | MemoryEncoder
        if embedding is None:
            self.encoder = APANEncoder(
                num_nodes, msg_dim, embedding_dim, num_neighbors, heads=heads, dropout=dropout, filter=pres
            )
        else:
            cell = "gru" if kind == "tgn" else "rnn"
            memory = TGNMemory(num_nodes, msg_dim, memory_dim, time_dim, message, aggr, cell, pres)
            layer = _BUILD[embedding](memory, embedding_dim, heads, dropout)
            self.encoder = MemoryEncoder(memory, layer, num_neighbors, x, summarize_neighbors=kind == "dyrep")
        self.decoder = TemporalLinkDecoder(embedding_dim)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.encoder.reset_parameters()
        self.decoder.reset_parameters()

    def forward(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_query(src, dst, t, msg)
        asked = torch.cat([src, dst.reshape(-1)])
        times = torch.cat([t, t[:, None].expand_as(dst).reshape(-1)])
        z = self._embed(asked, times, msg)
        return self.decoder(z[: src.numel()], z[src.numel() :].view(*dst.shape, self.embedding_dim))

    def embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        self.check_nodes(n_id, t, msg)
        return self._embed(n_id, t, msg)

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.check_events(src, dst, t, e_id, msg)
        if src.numel():
            self.encoder.update_state(src, dst, t, e_id, msg)
        super().update_state(src, dst, t, e_id, msg)

    def auxiliary_loss(self) -> Tensor | None:
        """``beta`` times the memory coherence loss of the last ``forward``; None without a filter."""
        coherence = self.encoder.coherence_loss() if self.beta else None
        return None if coherence is None else self.beta * coherence

    def _embed(self, n_id: Tensor, t: Tensor, msg: Tensor | None) -> Tensor:
        nodes, row = compact(n_id, self.num_nodes)
        return self.encoder(nodes, row, t, msg)

    def __repr__(self) -> str:
        return f"MemoryDGNN({self.num_nodes}, msg_dim={self.msg_dim}, kind={self.kind!r}, {self.embedding_dim})"


def _attention(memory: TGNMemory, width: int, heads: int, dropout: float) -> nn.Module:
    return TemporalAttentionEmbedding(memory.memory_dim, memory.msg_dim, width, memory.time_encoder, heads, dropout)


def _sum(memory: TGNMemory, width: int, heads: int, dropout: float) -> nn.Module:
    return GraphSumEmbedding(memory.memory_dim, memory.msg_dim, width, memory.time_encoder)


def _time(memory: TGNMemory, width: int, heads: int, dropout: float) -> nn.Module:
    return TimeProjectionEmbedding(width)


def _identity(memory: TGNMemory, width: int, heads: int, dropout: float) -> nn.Module:
    return IdentityEmbedding()


_BUILD = {"attention": _attention, "sum": _sum, "time": _time, "identity": _identity}
