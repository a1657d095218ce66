"""Embeddings from memories: what TGN, JODIE and DyRep have in common, and where they differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from graphkit.nn.temporal.memory import TGNMemory
from graphkit.nn.temporal.neighbor_buffer import NeighborBuffer
from graphkit.nn.temporal.node_embedding import GraphSumEmbedding, TimeProjectionEmbedding
from graphkit.nn.temporal.state import StreamingModule
from graphkit.nn.temporal.temporal_attention import TemporalAttentionEmbedding
from graphkit.ops.last import compact


class MemoryEncoder(StreamingModule):
    """Embeds nodes at any time from a memory of their events and, if the embedding reads them, their neighbours.

    Args:
        memory: the memory.
        embedding: an embedding of memories, which share the memory's time encoder.
        num_neighbors: latest neighbours kept a node.
        x: ``[N, F]`` static features of nodes, added to their memories through a linear map, or None.
        summarize_neighbors: messages tell of an event's ends not their memories, but, as in `"DyRep: Learning
            Representations over Dynamic Graphs" <https://openreview.net/forum?id=HyePrhR5KX>`_, the elementwise maximum
            of their latest neighbours' memories.
    """

    x: Tensor | None

    def __init__(
        self,
        memory: TGNMemory,
        embedding: nn.Module,
        num_neighbors: int = 10,
        x: Tensor | None = None,
        summarize_neighbors: bool = False,
    ) -> None:
        super().__init__()
        self.memory, self.embedding = memory, embedding
        self.summarize_neighbors = summarize_neighbors
        self.reads_neighbors = isinstance(embedding, (TemporalAttentionEmbedding, GraphSumEmbedding))
        self.neighbors = None
        if self.reads_neighbors or summarize_neighbors:
            self.neighbors = NeighborBuffer(memory.num_nodes, num_neighbors)
        self.register_buffer("x", x, persistent=False)
        self.lin_x = None if x is None else nn.Linear(x.size(1), memory.memory_dim, bias=False)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in (self.memory, self.embedding, self.lin_x):
            reset(module)

    def forward(self, n_id: Tensor, row: Tensor, t: Tensor, msg: Tensor | None = None) -> Tensor:
        """Embeddings ``[Q, C]`` of nodes ``n_id[row]`` at times ``t`` (``row`` and ``t`` are ``[Q]``)."""
        if not self.reads_neighbors:
            s, last_update = self.memory(n_id)
            return self.embedding(self._features(s, n_id), last_update, row, t)
        assert self.neighbors is not None
        found = self.neighbors.recent(n_id)
        every = torch.cat([n_id[:, None], found.n_id], 1)
        nodes, inverse = compact(every, self.memory.num_nodes)
        h = self._features(self.memory(nodes)[0], nodes)
        return self.embedding(h, inverse[:, 0], found._replace(n_id=inverse[:, 1:]), row, t, msg)

    def coherence_loss(self) -> Tensor | None:
        return self.memory.coherence_loss()

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        summary = self._summary(torch.stack([src, dst], 1)) if self.summarize_neighbors else None
        if isinstance(self.embedding, TimeProjectionEmbedding):
            ends = torch.stack([src, dst])
            met_before = self.memory.store.count[ends] > 0
            self.memory.update_state(src, dst, t, e_id, msg, summary)
            self.embedding.update_state(t - self.memory.last_update[ends], met_before)
        else:
            self.memory.update_state(src, dst, t, e_id, msg, summary)
        if self.neighbors is not None:
            self.neighbors.insert(src, dst, t, e_id)

    def _features(self, s: Tensor, n_id: Tensor) -> Tensor:
        return s if self.x is None or self.lin_x is None else s + self.lin_x(self.x[n_id])

    def _summary(self, ends: Tensor) -> Tensor:
        """``[B, 2, D]``: the greatest of the memories of the neighbours of ``ends``, by element; 0 if none."""
        assert self.neighbors is not None
        centers, row = compact(ends, self.memory.num_nodes)
        found = self.neighbors.recent(centers)
        nodes, inverse = compact(found.n_id, self.memory.num_nodes)
        near = self.memory.read(nodes).memory[inverse].masked_fill_(~found.mask[..., None], -torch.inf)
        return torch.where(found.mask.any(1, keepdim=True), near.amax(1), 0)[row]
