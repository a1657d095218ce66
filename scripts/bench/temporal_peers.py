"""What the benchmarks of temporal models share: a training step of ours, and the same models by other means.

The peers are TGN from PyG's modules, TGN from tgm-lib's, and NAT in the formulation of its released code. All train
with one random negative an event and the same loss.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.loader import TemporalDataLoader
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.models import tgn as pyg

from graphkit.datasets import EventStream, RandomNegatives
from graphkit.loader import EventLoader
from graphkit.loader.event_loader import EventBatch
from graphkit.nn import NAT, MemoryDGNN, PredictCorrectFilter, TemporalModel
from graphkit.ops.neighborhood_cache import hash_slot

WIDTH, NEIGHBORS, HEADS, DROPOUT = 100, 10, 2, 0.1
TGN_BATCH, NAT_BATCH = 200, 100
Epoch = Callable[[int], None]


def adam(*modules: nn.Module, capturable: bool = False) -> torch.optim.Optimizer:
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return torch.optim.Adam(parameters.values(), lr=1e-4, fused=True, capturable=capturable)


def link_loss(pos: Tensor, neg: Tensor) -> Tensor:
    return F.softplus(-pos).mean() + F.softplus(neg).mean()


def with_messages(stream: EventStream) -> EventStream:
    """The stream with a message of one zero if it has none, because PyG's memory cannot do without."""
    if stream.msg is not None:
        return stream
    return replace(stream, msg=torch.zeros(len(stream), 1, device=stream.device))


# Ours -----------------------------------------------------------------------------------------------------------------


def tgn(stream: EventStream, pres: bool = False) -> MemoryDGNN:
    nodes = stream.num_nodes
    return MemoryDGNN(
        nodes, stream.msg_dim, "tgn", WIDTH, WIDTH, WIDTH, NEIGHBORS, HEADS, DROPOUT,
        pres=PredictCorrectFilter(nodes, WIDTH) if pres else None,
    )  # fmt: skip


def nat(stream: EventStream, aggr: str = "attention", **options: Any) -> NAT:
    settings = {"cache_sizes": (32, 16), "replace_prob": 0.7, "embed_dim": 172, **options}
    return NAT(stream.num_nodes, stream.msg_dim, heads=HEADS, dropout=DROPOUT, aggr=aggr, **settings)


def train_step(
    model: TemporalModel, optimizer: torch.optim.Optimizer, batch: EventBatch, neg: Tensor, msg: Tensor | None
) -> None:
    """Score a batch, show it to the model, learn from it."""
    optimizer.zero_grad(set_to_none=True)
    score = model(batch.src, torch.cat([batch.dst[:, None], neg], 1), batch.t, msg)
    loss = link_loss(score[:, 0], score[:, 1:])
    extra = model.auxiliary_loss()
    model.update_state(batch.src, batch.dst, batch.t, batch.e_id, msg)
    (loss if extra is None else loss + extra).backward()
    optimizer.step()


def slices(stream: EventStream, stop: int, batch_size: int) -> Iterator[EventBatch]:
    for start in range(0, stop, batch_size):
        part = slice(start, min(start + batch_size, stop))
        e_id = torch.arange(part.start, part.stop, device=stream.device)
        yield EventBatch(stream.src[part], stream.dst[part], stream.t[part], e_id)


def plain_epoch(stream: EventStream, model: TemporalModel, batch_size: int) -> Epoch:
    """A loop over slices; negatives from the range of destinations, as the peers draw them."""
    optimizer = adam(model)
    low, high = int(stream.dst.min()), int(stream.dst.max()) + 1

    def epoch(events: int) -> None:
        model.train()
        model.reset_state()
        for batch in slices(stream, events, batch_size):
            neg = torch.randint(low, high, (batch.src.numel(), 1), device=stream.device)
            train_step(model, optimizer, batch, neg, stream.msg)

    return epoch


def loader_epoch(stream: EventStream, model: TemporalModel, batch_size: int) -> Epoch:
    """The same through the loader."""
    optimizer, negatives = adam(model), RandomNegatives(stream)

    def epoch(events: int) -> None:
        model.train()
        model.reset_state()
        for batch in EventLoader(stream, range(events), batch_size, negatives=negatives):
            assert batch.neg is not None
            train_step(model, optimizer, batch, batch.neg, stream.msg)

    return epoch


# PyG ------------------------------------------------------------------------------------------------------------------


class Embedding(nn.Module):
    """Attention over a node's events as PyG's TGN has it: the time since the neighbour's last update, and messages."""

    def __init__(self, msg_dim: int, time_encoder: nn.Module) -> None:
        super().__init__()
        self.time_encoder = time_encoder
        self.conv = TransformerConv(WIDTH, WIDTH // HEADS, HEADS, dropout=DROPOUT, edge_dim=msg_dim + WIDTH)

    def forward(self, memory: Tensor, updated: Tensor, edge_index: Tensor, t: Tensor, msg: Tensor) -> Tensor:
        time = self.time_encoder((updated[edge_index[0]] - t).to(msg.dtype))
        return self.conv(memory, edge_index, torch.cat([time, msg], 1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.src, self.dst, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, z_src: Tensor, z_dst: Tensor) -> Tensor:
        return self.out((self.src(z_src) + self.dst(z_dst)).relu())


def pyg_tgn_epoch(stream: EventStream, batch_size: int = TGN_BATCH) -> Epoch:
    """TGN from PyG's memory, neighbour loader, attention and data loader."""
    device, nodes, width = stream.device, stream.num_nodes, stream.msg_dim
    data = stream.to_temporal_data()
    message = pyg.IdentityMessage(width, WIDTH, WIDTH)
    memory = pyg.TGNMemory(nodes, width, WIDTH, WIDTH, message, pyg.LastAggregator()).to(device)
    embedding, decoder = Embedding(width, memory.time_enc).to(device), Decoder().to(device)
    recent = pyg.LastNeighborLoader(nodes, NEIGHBORS, device=device)
    optimizer = adam(memory, embedding, decoder)
    place = torch.empty(nodes, dtype=torch.int64, device=device)

    def epoch(events: int) -> None:
        for module in (memory, embedding, decoder):
            module.train()
        memory.reset_state()
        recent.reset_state()
        for batch in TemporalDataLoader(data[:events], batch_size, neg_sampling_ratio=1.0):
            optimizer.zero_grad(set_to_none=True)
            n_id, edge_index, e_id = recent(batch.n_id)
            place[n_id] = torch.arange(n_id.numel(), device=device)
            z = embedding(*memory(n_id), edge_index, data.t[e_id], data.msg[e_id])
            z_src, z_dst, z_neg = (z[place[ends]] for ends in (batch.src, batch.dst, batch.neg_dst))
            loss = link_loss(decoder(z_src, z_dst), decoder(z_src, z_neg))
            memory.update_state(batch.src, batch.dst, batch.t, batch.msg)
            recent.insert(batch.src, batch.dst)
            loss.backward()
            optimizer.step()
            memory.detach()

    return epoch


# tgm-lib --------------------------------------------------------------------------------------------------------------


def has_tgm() -> bool:
    if importlib.util.find_spec("tgm") and importlib.util.find_spec("tgm.hooks"):
        return True
    print("tgm-lib is not installed (pip install --no-deps tgm-lib): not compared with it")
    return False


def tgm_tgn_epoch(stream: EventStream, batch_size: int = TGN_BATCH) -> Epoch:
    """TGN from tgm-lib's memory, attention and loader, with its hooks for negatives, neighbours and distinct nodes."""
    from tgm import DGraph
    from tgm.constants import PADDED_NODE_ID
    from tgm.data import DGData, DGDataLoader
    from tgm.hooks import DeduplicationHook, HookManager, NegativeEdgeSamplerHook, RecencyNeighborHook
    from tgm.nn import LinkPredictor, TGNMemory
    from tgm.nn.encoder.tgn import GraphAttentionEmbedding, IdentityMessage, LastAggregator

    device, nodes, width = stream.device, stream.num_nodes, stream.msg_dim
    message = IdentityMessage(width, WIDTH, WIDTH)
    memory = TGNMemory(nodes, width, WIDTH, WIDTH, message, LastAggregator()).to(device)
    embedding = GraphAttentionEmbedding(WIDTH, WIDTH, width, memory.time_enc).to(device)
    decoder = LinkPredictor(WIDTH, hidden_dim=WIDTH).to(device)
    optimizer = adam(memory, embedding, decoder)
    hooks = HookManager(["train"])
    low, high = int(stream.dst.min()), int(stream.dst.max()) + 1
    hooks.register("train", NegativeEdgeSamplerHook(low, high))
    seeds, times = ["edge_src", "edge_dst", "neg"], ["edge_time", "edge_time", "neg_time"]
    hooks.register("train", RecencyNeighborHook(nodes, [NEIGHBORS], seeds, times))
    hooks.register("train", DeduplicationHook())
    assert stream.msg is not None
    # Ids are int32 there.
    ends = torch.stack([stream.src, stream.dst], 1).int().cpu()
    data = DGData.from_raw(stream.t.cpu(), ends, stream.msg.cpu(), time_delta="s")
    graph = DGraph(data, device)

    def epoch(events: int) -> None:
        for module in (memory, embedding, decoder):
            module.train()
        memory.reset_state()
        hooks.reset_state()
        with hooks.activate("train"):
            for batch in DGDataLoader(graph.slice_events(0, events), batch_size, hook_manager=hooks):
                optimizer.zero_grad(set_to_none=True)
                near, real = batch.nbr_nids[0], batch.nbr_nids[0] != PADDED_NODE_ID
                owner = batch.seed_nids[0][:, None].expand_as(near)
                edge_index = torch.stack([batch.global_to_local(part[real]) for part in (near, owner)]).long()
                state = memory(batch.unique_nids)
                z = embedding(*state, edge_index, batch.nbr_edge_time[0][real], batch.nbr_edge_x[0][real])
                z_src, z_dst, z_neg = (
                    z[batch.global_to_local(part)] for part in (batch.edge_src, batch.edge_dst, batch.neg)
                )
                loss = link_loss(decoder(z_src, z_dst), decoder(z_src, z_neg))
                memory.update_state(batch.edge_src, batch.edge_dst, batch.edge_time, batch.edge_x)
                loss.backward()
                optimizer.step()
                memory.detach()

    return epoch


# NAT as released ------------------------------------------------------------------------------------------------------


class ReleasedNAT(nn.Module):
    """NAT in the formulation of its released code, around a copy of our weights.

    Each hop is a float32 table of columns key, event, time and vector, key 0 being empty and node 0 the place for what
    is dropped, so that ids begin at 1. A batch fetches all entries of sources, destinations and negatives, each time a
    node is asked for, and folds events into them one by one. Entries are joined by ``unique`` over the rows
    ``(pair, key)``; W is applied to each joint entry, and the entries of a pair are summed: the attention weights are
    left out of the result there, and here not computed. Our hash of slots stands in for the released one.
    """

    def __init__(self, model: NAT, msg: Tensor | None) -> None:
        super().__init__()
        self.net, self.msg = copy.deepcopy(model), msg
        device = model.self_rep.device
        self.sizes, self.alpha = (1, *model.cache.sizes), model.cache.replace_prob
        columns, nodes = 3 + model.cache.rep_dim, model.num_nodes + 1
        self.tables = [torch.zeros(nodes, size, columns, device=device) for size in self.sizes]
        self.self_rep = torch.zeros(nodes, model.self_dim, device=device)
        self.latest = torch.zeros(nodes, 3, device=device)

    def reset_state(self) -> None:
        for table in (*self.tables, self.self_rep, self.latest):
            table.zero_()

    def event(self, e_id: Tensor, t: Tensor) -> Tensor:
        time = self.net.time_encoder(t.reshape(-1)).view(*t.shape, -1)
        return time if self.msg is None else torch.cat([self.msg[e_id], time], -1)

    def forward(self, src: Tensor, dst: Tensor, neg: Tensor, t: Tensor, e_id: Tensor) -> Tensor:
        """Scores ``[B, 2]`` of destinations and negatives; then the batch is written into the tables."""
        net, number = self.net, src.numel()
        nodes = torch.cat([src, dst, neg]) + 1
        self.tables[0][nodes, 0, 0] = nodes.float()
        entries = []
        for table in self.tables:
            rows = table[nodes]
            key, event, time, rep = rows[..., 0].long(), rows[..., 1].long(), rows[..., 2], rows[..., 3:]
            x = net.neighbor_input(torch.cat([self.self_rep[key], self.event(event, time)], -1))
            new = net.neighbor_cell(x.flatten(0, 1), rep.flatten(0, 1)).view_as(rep)
            entries.append((key, event, time, new * (time != 0)[..., None]))
        other, event, time = self.latest[nodes].unbind(1)
        x = net.self_input(torch.cat([self.self_rep[other.long()], self.event(event.long(), time)], 1))
        old = self.self_rep[nodes]
        own = torch.where((other > 0)[:, None], net.self_cell(x, old), old)

        row = torch.arange(number, device=src.device)
        u, v = row.repeat(2), torch.cat([row + number, row + 2 * number])
        joint = self.join(
            torch.cat([part[0] for part in entries], 1), torch.cat([part[3] for part in entries], 1), u, v
        )
        hidden = net.score_hidden(torch.cat([joint, own[u], own[v]], 1)).relu()
        score = net.score_out(hidden).view(2, number).t()
        with torch.no_grad():
            self.write(nodes[: 2 * number], entries, own, t.repeat(2).float(), e_id.repeat(2).float())
        return score

    def join(self, key: Tensor, rep: Tensor, u: Tensor, v: Tensor) -> Tensor:
        joint = self.net.joint
        keys, reps = torch.cat([key[u], key[v]], 1), torch.cat([rep[u], rep[v]], 1)
        bits = [2 ** (hop + 3 * side) for side in (0, 1) for hop, size in enumerate(self.sizes) for _ in range(size)]
        held = keys > 0
        pair = torch.arange(u.numel(), device=key.device)[:, None].expand_as(keys)[held]
        found, place = torch.unique(torch.stack([pair, keys[held]], 1), dim=0, return_inverse=True)
        total = rep.new_zeros(found.size(0), rep.size(2)).index_add(0, place, reps[held])
        code = place.new_zeros(found.size(0)).index_add(0, place, place.new_tensor(bits).expand_as(keys)[held])
        feature = joint.dropout(torch.cat([total, joint.embedding[code]], 1))
        hidden = joint.dropout(feature @ joint.weight.flatten(0, 1).t())
        pooled = rep.new_zeros(u.numel(), hidden.size(1)).index_add(0, found[:, 0], hidden)
        return pooled.view(u.numel(), joint.heads, -1).mean(1) + joint.bias

    def write(self, nodes: Tensor, entries: list, own: Tensor, t: Tensor, e_id: Tensor) -> None:
        number = nodes.numel() // 2
        flip = torch.cat([torch.arange(number, 2 * number), torch.arange(number)]).to(nodes.device)
        other = nodes[flip]
        self.self_rep[nodes] = own[: 2 * number]
        self.latest[nodes] = torch.stack([other.float(), e_id, t], 1)
        key, event, time, rep = (part[: 2 * number] for part in entries[1])
        if len(self.sizes) == 3:
            self.offer(2, nodes, key[flip], event[flip].float(), time[flip], rep[flip])
        column = hash_slot(other - 1, self.sizes[1])
        row = torch.arange(2 * number, device=nodes.device)
        known = (key[row, column] == other)[:, None]
        self.offer(1, nodes, other[:, None], e_id[:, None], t[:, None], (rep[row, column] * known)[:, None])
        self.offer(0, nodes, nodes[:, None], e_id[:, None], t[:, None], entries[0][3][: 2 * number])

    def offer(self, hop: int, owner: Tensor, key: Tensor, e_id: Tensor, t: Tensor, rep: Tensor) -> None:
        table, size = self.tables[hop], self.sizes[hop]
        slot = hash_slot((key - 1).clamp(min=0), size)
        held = table[owner, :, 0].gather(1, slot).long()
        chance = torch.rand(key.shape, device=key.device) < self.alpha
        taken = (key > 0) & ((held == 0) | (held == key) | chance)
        place = torch.where(taken, owner[:, None] * size + slot, 0)
        value = torch.cat([torch.stack([key.float(), e_id, t], -1), rep], -1)
        table.view(-1, table.size(2))[place.view(-1)] = value.flatten(0, 1)
        table[0] = 0


def check_released() -> None:
    """The scores of :class:`ReleasedNAT` are ours, shown one event at a time and with every new key taken."""
    generator = torch.Generator().manual_seed(0)
    src, dst = torch.randint(8, (2, 60), generator=generator)
    dst = torch.where(src == dst, (dst + 1) % 8, dst)
    stream = EventStream(src, dst, torch.arange(1, 61), torch.randn(60, 3, generator=generator))
    model = nat(stream, "sum", cache_sizes=(4, 4), replace_prob=1.0).eval()
    peer = ReleasedNAT(model, stream.msg).eval()
    with torch.no_grad():
        for batch in slices(stream, 60, 1):
            neg = (batch.dst + 3) % 8
            ours = model(batch.src, torch.stack([batch.dst, neg], 1), batch.t, stream.msg)
            theirs = peer(batch.src, batch.dst, neg, batch.t, batch.e_id)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            model.update_state(batch.src, batch.dst, batch.t, batch.e_id, stream.msg)


def released_nat_epoch(stream: EventStream, batch_size: int = NAT_BATCH) -> Epoch:
    model = ReleasedNAT(nat(stream, "sum").to(stream.device), stream.msg)
    optimizer = adam(model)
    low, high = int(stream.dst.min()), int(stream.dst.max()) + 1

    def epoch(events: int) -> None:
        model.train()
        model.reset_state()
        for batch in slices(stream, events, batch_size):
            neg = torch.randint(low, high, batch.src.shape, device=stream.device)
            optimizer.zero_grad(set_to_none=True)
            score = model(batch.src, batch.dst, neg, batch.t, batch.e_id)
            link_loss(score[:, 0], score[:, 1]).backward()
            optimizer.step()

    return epoch
