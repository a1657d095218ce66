"""Training of a generator of neighbours' features on the edges of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn import sparsify
from graphkit.nn.conv.sparse_linear import select_rows
from graphkit.nn.models.neighbor_cvae import negative_elbo
from graphkit.train.augment.prediction_uncertainty import PredictionUncertainty
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice, check_features, check_int, check_pairs, check_range
from graphkit.utils.seed import stream


class NeighborFeatureTask(Task):
    r"""Generate the features of a neighbour, given a node's own: the pre-training of `"Local Augmentation for Graph
    Neural Networks" <https://arxiv.org/abs/2109.03856>`_.

    Every edge is a pair of a centre (the target of PyG's ``edge_index``) and a neighbour (its source); an undirected
    edge is two. Self-loops and repeated edges are left out. An epoch is a pass over the training pairs in an order
    drawn by seed and epoch. Nothing of size ``[E, F]`` is ever made: features are looked up for a batch at a time,
    sparse ones as sparse rows.

    A share of the edges, both directions of each, is held out. The metric ``"ELBO"`` is the mean evidence lower bound
    of held-out pairs in nats, the noise being the same each time: it needs no labels, and half of the held-out edges
    (``"valid"``) choose the epoch. ``selector`` chooses by another score instead.

    Args:
        x: ``[N, F]`` features as they are, not normalised: dense, or sparse CSR.
        edge_index: ``[2, E]``; the training graph's alone if some nodes are unknown in training.
        batch_size: pairs a step.
        held_out: share of the edges that is held out, half for validation and half for test.
        selector: a score of generated features, whose largest value chooses the epoch.
        seed: seed of the held-out edges, of the order and of the noise of the evaluation.

    Raises:
        ValueError: a graph without edges, or with too few to hold any out; features that are not finite.
        IndexError: a node id outside the graph.

    Example:
        >>> x, edge_index = torch.rand(4, 8), torch.tensor([[0, 1, 1, 2, 2, 3, 3, 0], [1, 0, 2, 1, 3, 2, 0, 3]])
        >>> NeighborFeatureTask(x, edge_index, held_out=0.5)
        NeighborFeatureTask(nodes=4, features=8, train=4, valid=2, test=2)
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        *,
        batch_size: int = 64,
        held_out: float = 0.1,
        selector: PredictionUncertainty | None = None,
        seed: int = 0,
    ) -> None:
        self.x = sparsify(check_features(x))
        self.batch_size = check_int(batch_size, "batch_size", 1)
        self.held_out = check_range(held_out, "held_out", 0, 1, low_open=True)
        self.seed = check_int(seed, "seed", 0)
        self.selector = selector
        self._checked = False
        self.monitor = "ELBO" if selector is None else selector.name
        neighbor, centre = check_pairs(edge_index, x.size(0), "edge_index").long()
        key = (neighbor * x.size(0) + centre)[neighbor != centre].unique()
        if key.numel() == 0:
            raise ValueError("edge_index has no edges between two nodes; a generator of neighbours needs some to learn")
        neighbor, centre = key // x.size(0), key % x.size(0)
        # Both directions share a number, so that neither tells what the other holds out.
        edge = torch.minimum(neighbor, centre) * x.size(0) + torch.maximum(neighbor, centre)
        number = edge.unique(return_inverse=True)[1]
        count = int(number.max()) + 1
        half = max(round(self.held_out * count / 2), 1)
        if count < 2 * half + 1:
            raise ValueError(
                f"held_out={held_out} of {count} edges leaves none to train on; a generator needs more edges"
            )
        place = torch.empty(count, dtype=torch.long)
        place[torch.randperm(count, generator=stream(self.seed, 0))] = torch.arange(count)
        part = place[number]
        pairs = torch.stack([neighbor, centre])
        self.pairs = {
            "valid": pairs[:, part < half],
            "test": pairs[:, (part >= half) & (part < 2 * half)],
            "train": pairs[:, part >= 2 * half],
        }

    def num_batches(self) -> int:
        return -(-self.pairs["train"].size(1) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """``[2, B]`` pairs: neighbours and their centres."""
        train = self.pairs["train"]
        order = torch.randperm(train.size(1), generator=stream(self.seed, 1, epoch)).to(train.device)
        for chosen in order.split(self.batch_size):
            yield train[:, chosen]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[:, self.rank :: self.world_size]
        return self._loss(model, share) * (self.world_size / batch.size(1))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        pairs, total = self.pairs[split], 0.0
        for number, chosen in enumerate(pairs.split(4096, dim=1)):
            width: Any = model.latent_channels
            noise = torch.randn(chosen.size(1), width, generator=stream(self.seed, 2, number))
            total -= float(self._loss(model, chosen, noise.to(chosen.device)))
        found = {"ELBO": total / pairs.size(1)}
        if self.selector is not None:
            generated = model.sample(self.x, stream(self.seed, 3))  # type: ignore[operator]
            found[self.selector.name] = self.selector(generated)
        return found

    def to(self, device: torch.device | str) -> NeighborFeatureTask:
        self.x = self.x.to(device)
        self.pairs = {name: pairs.to(device) for name, pairs in self.pairs.items()}
        self.selector = None if self.selector is None else self.selector.to(device)
        return self

    def _loss(self, model: nn.Module, pairs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Summed over the pairs."""
        cvae: Any = model
        if not self._checked:
            cvae.check_features(self.x)
            self._checked = True
        x, cond = (select_rows(self.x, nodes).to(cvae.mean.weight.dtype) for nodes in pairs)
        return negative_elbo(x, *model(x, cond, noise), likelihood=cvae.likelihood)

    def __repr__(self) -> str:
        sizes = f"nodes={self.x.size(0)}, features={self.x.size(1)}"
        parts = ", ".join(f"{name}={self.pairs[name].size(1)}" for name in ("train", "valid", "test"))
        return f"{type(self).__name__}({sizes}, {parts})"
