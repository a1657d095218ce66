"""A training epoch of NCN and NCNC on Cora with the paper's settings, against the formulation of the released code.

The peer keeps features dense, makes the batch's input graph anew from the edge list in each step (symmetrised and
sorted), and expands both ends of each pair to sparse rows. It shares our weights and computes the same loss, which is
checked first. It uses torch-sparse where that is installed (extra `sparse`) and plain PyTorch otherwise. Run on a
quiet machine.
"""

from __future__ import annotations

import copy
import importlib.util

import torch
from harness import interleave, parser, report
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn import LinkPredictor, NCNCDecoder, NCNDecoder
from graphkit.recipes import get_recipe
from graphkit.train import LinkPredictionTask


class Matrix:
    """A sparse matrix ``[R, N]`` as sorted keys ``row * N + col``; products through torch-sparse or ``index_add``."""

    def __init__(self, keys: Tensor, rows: int, columns: int, value: Tensor | None = None) -> None:
        self.keys, self.rows, self.columns, self.value = keys, rows, columns, value
        self.row = torch.div(keys, columns, rounding_mode="floor")
        self.col = keys - self.row * columns
        self.pointer = F.pad(torch.bincount(self.row, minlength=rows).cumsum(0), (1, 0))

    def select(self, nodes: Tensor) -> Matrix:
        """The rows of ``nodes``, copied."""
        degree = self.pointer[nodes + 1] - self.pointer[nodes]
        batch = torch.repeat_interleave(torch.arange(nodes.numel()), degree)
        start = F.pad(degree.cumsum(0), (1, 0))[:-1]
        entry = torch.arange(batch.numel()) - start[batch] + self.pointer[nodes][batch]
        return Matrix(batch * self.columns + self.col[entry], nodes.numel(), self.columns)

    def matmul(self, x: Tensor) -> Tensor:
        if HAS_TORCH_SPARSE:
            from torch_sparse import SparseTensor, matmul

            size = (self.rows, self.columns)
            return matmul(SparseTensor(row=self.row, col=self.col, value=self.value, sparse_sizes=size), x)
        message = x[self.col] if self.value is None else x[self.col] * self.value[:, None]
        return x.new_zeros(self.rows, x.size(1)).index_add_(0, self.row, message)


HAS_TORCH_SPARSE = importlib.util.find_spec("torch_sparse") is not None


def split(first: Matrix, second: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Common entries of two row selections, and those of each alone."""

    def among(keys: Tensor, others: Tensor) -> Tensor:
        if others.numel() == 0:
            return torch.zeros_like(keys, dtype=torch.bool)
        return others[torch.searchsorted(others, keys).clamp_(max=others.numel() - 1)] == keys

    mask1, mask2 = among(first.keys, second.keys), among(second.keys, first.keys)
    size = first.rows, first.columns
    return Matrix(first.keys[mask1], *size), Matrix(first.keys[~mask1], *size), Matrix(second.keys[~mask2], *size)


class Released(nn.Module):
    """The same network and loss in the released formulation, around the weights of our modules."""

    def __init__(self, model: LinkPredictor, task: LinkPredictionTask) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.x = task.x.to_dense() if task.x.is_sparse_csr else task.x
        self.pos, self.num_nodes = task.split.train_pos, task.num_nodes

    def loss(self, chosen: Tensor, neg: Tensor) -> Tensor:
        keep = torch.ones(self.pos.size(1), dtype=torch.bool)
        keep[chosen] = False
        ends = self.pos[:, keep]
        ends = torch.cat([ends, ends.flip(0)], dim=1)
        graph = Matrix((ends[0] * self.num_nodes + ends[1]).sort().values, self.num_nodes, self.num_nodes)
        z = self.encode(graph)
        pos_score, neg_score = (self.decode(z, graph, pairs) for pairs in (self.pos[:, chosen], neg))
        return F.softplus(-pos_score).mean() + F.softplus(neg_score).mean()

    def encode(self, graph: Matrix) -> Tensor:
        encoder = self.encoder
        h = F.dropout(self.x, encoder.input.dropout, self.training)
        h = F.dropout(F.linear(h, encoder.input.weight, encoder.input.bias), encoder.dropout, self.training)
        norm = (1 + graph.pointer.diff()).float().rsqrt()[:, None]
        h = norm * h
        h = norm * (graph.matmul(h) + h)
        return encoder.layer_weight[0] * F.dropout(h, encoder.tail_dropout, self.training)

    def decode(self, z: Tensor, graph: Matrix, pairs: Tensor) -> Tensor:
        return self.score(z, graph, pairs, self.decoder.depth)

    def thinned(self, graph: Matrix) -> Matrix:
        p = self.decoder.edge_dropout
        if not self.training or p == 0:
            return graph
        return Matrix(graph.keys[torch.rand(graph.keys.numel()) >= p], graph.rows, graph.columns)

    def score(self, z: Tensor, graph: Matrix, pairs: Tensor, depth: int) -> Tensor:
        decoder = self.decoder
        graph = self.thinned(graph)
        features = z + decoder.node_mlp(z)
        common, left, right = split(graph.select(pairs[0]), graph.select(pairs[1]))
        pooled = common.matmul(features)
        if depth > 0:
            for part, other in ((left, pairs[1]), (right, pairs[0])):
                with torch.no_grad():
                    inner = self.score(features, graph, torch.stack([other[part.row], part.col]), depth - 1)
                part.value = decoder.calibrate(inner)
                pooled = pooled + part.matmul(features)
        pair = decoder.pair_mlp(z[pairs[0]] * z[pairs[1]])
        return decoder.head(decoder.common_mlp(pooled) * decoder.beta + pair)[:, 0]


def main() -> None:
    options = parser(__doc__).parse_args()
    recipe = get_recipe("ncnc")
    config = recipe.defaults("Cora")
    rows = []
    for name in ("NCN", "NCNC"):
        experiment = recipe.build(config, name, 0)
        task, model = experiment.task, experiment.model
        assert isinstance(task, LinkPredictionTask)
        assert isinstance(model, LinkPredictor)
        assert isinstance(model.decoder, NCNCDecoder if name == "NCNC" else NCNDecoder)
        peer_model = copy.deepcopy(model)
        peer = Released(peer_model, task)
        peer_optimizer = torch.optim.Adam(
            [
                {"params": peer_model.encoder.parameters(), "lr": config.encoder_lr},
                {"params": peer_model.decoder.parameters(), "lr": config.decoder_lr},
            ]
        )

        def same_loss(model=model, peer=peer, task=task) -> None:
            pos, neg = next(task.batches(0))
            keys = task.split.train_pos[0] * task.num_nodes + task.split.train_pos[1]
            chosen = torch.searchsorted(keys[keys.argsort()], pos[0] * task.num_nodes + pos[1])
            chosen = keys.argsort()[chosen]
            model.eval(), peer.eval()
            with torch.no_grad():
                torch.testing.assert_close(task.loss(model, (pos, neg)), peer.loss(chosen, neg), rtol=1e-4, atol=1e-4)

        same_loss()

        def ours(model=model, task=task, optimizer=experiment.optimizer) -> None:
            model.train()
            for batch in task.batches(1):
                optimizer.zero_grad(set_to_none=True)
                task.loss(model, batch).backward()
                optimizer.step()

        def released(peer=peer, optimizer=peer_optimizer, task=task) -> None:
            peer.train()
            order = torch.randperm(peer.pos.size(1))
            negatives = task.train_graph.sample_non_edges(peer.pos.size(1))
            for step in range(task.num_batches()):
                chosen = order[step * task.batch_size : (step + 1) * task.batch_size]
                optimizer.zero_grad(set_to_none=True)
                peer.loss(chosen, negatives[:, chosen]).backward()
                optimizer.step()

        times = interleave({"ours": ours, "peer": released}, options.repeats)
        rows.append(
            {
                "case": f"{name}, epoch on Cora",
                "ours_ms": times["ours"],
                "peer": "released formulation, " + ("torch-sparse" if HAS_TORCH_SPARSE else "plain PyTorch"),
                "peer_ms": times["peer"],
                "ratio": times["peer"] / times["ours"],
            }
        )
    report("ncn_epoch", rows, options.out)


if __name__ == "__main__":
    main()
