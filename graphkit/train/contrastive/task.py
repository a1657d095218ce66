"""Contrastive learning of node vectors as a task: two views in each step, judged by a linear probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.datasets.splits import IndexSplit
from graphkit.nn.bounds import AdjacencyBounds, GCNBoundPropagation, contrast_vectors
from graphkit.ops import NeighborIndex
from graphkit.train.contrastive.pot import POTLoss
from graphkit.train.linear_probe import ProbeResult, linear_probe
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.utils.checks import NO_FEATURES, check_choice, check_int, check_range
from graphkit.utils.describe import checksum
from graphkit.utils.seed import stream


class ContrastiveTask(NodeClassificationTask):
    r"""Learn node vectors of one graph without labels, from pairs of views; labels serve to judge the vectors alone.

    An epoch is one step: two transforms draw a view each, and the model's loss compares the vectors of the
    views. With POT, from `"Provable Training for Graph Contrastive Learning" <https://arxiv.org/abs/2309.13944>`_,

    .. math:: L = (1 - \kappa) L_{contrastive} + \kappa L_{POT}

    Evaluation runs :func:`linear_probe` on the vectors of the whole graph. With bounds it also tells, in
    :meth:`final_metrics` and :meth:`histogram`, how surely the nodes obey the contrastive principle: 100 times the mean
    node compactness in the whole graph (``"Compactness"``), the same with each vector at length one
    (``"Unit compactness"``), since scores grow with the vectors, and the share of nodes whose certified bound over all
    views within the budget is above zero (``"Certified"``).

    A model is called as ``model(x, graph)`` for vectors and as ``model(x, graph, other=(x2, graph2), batch_size=...)``
    for loss and both vectors, as :class:`GRACE` is. With several processes all draw the same views; there is
    nothing to gain.

    Args:
        data: as :class:`~graphkit.train.NodeClassificationTask`.
        split: ids of the nodes that the probe is trained, chosen and tested on.
        views: two PyG transforms from the graph to a view, such as :meth:`GRACE.views`; nodes must stay. Their random
            numbers are PyTorch's global ones, seeded here by ``seed`` and epoch.
        pot: the regulariser; its encoder is the model's. It bounds what lost edges do, with the
            features that each view has.
        kappa: :math:`\kappa`, its weight in [0, 1].
        batch_size: nodes whose loss is computed in a step; None takes all.
        bounds: bounds for the measures above, with an encoder that is a :class:`~graphkit.nn.GCNEncoder`; None takes
            those of ``pot`` for the first view.
        probe_epochs: epochs of the probe.
        seed: seed of the views.

    Raises:
        ValueError: an argument out of range, other than two views, or what
            :class:`~graphkit.train.NodeClassificationTask` refuses.

    Example:
        >>> from graphkit.datasets import load
        >>> from graphkit.transforms import EdgeDrop
        >>> dataset = load("digits")
        >>> ContrastiveTask(dataset.data, dataset.split(seed=0), (EdgeDrop(0.4), EdgeDrop(0.3)))
        ContrastiveTask(nodes=1797, features=64, EdgeDrop(p=0.4, undirected=False), EdgeDrop(p=0.3, undirected=False))
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        views: Sequence[BaseTransform],
        *,
        pot: POTLoss | None = None,
        kappa: float = 0.4,
        batch_size: int | None = None,
        bounds: AdjacencyBounds | None = None,
        probe_epochs: int = 3000,
        seed: int = 0,
    ) -> None:
        super().__init__(data, split, ("Accuracy", "F1"))
        if getattr(split, "hidden", None) is not None:
            raise ValueError("split must not hide nodes: contrastive learning is on the graph that is known as a whole")
        if self.x is None:
            raise ValueError(
                f"data must have features x, which contrastive learning starts from (got None); {NO_FEATURES}"
            )
        if len(views) != 2:
            raise ValueError(f"views must hold two transforms (got {len(views)})")
        check_range(kappa, "kappa", 0, 1)
        self.views, self.view_settings = tuple(views), tuple(map(repr, views))
        self.pot, self.kappa = pot, kappa
        self.batch_size = None if batch_size is None else check_int(batch_size, "batch_size", 2)
        self.bounds = pot.bounds[0] if bounds is None and pot is not None else bounds
        if self.bounds is not None and self.bounds.graph.num_nodes != self.num_nodes:
            raise ValueError(f"bounds are of {self.bounds.graph.num_nodes} nodes, the graph has {self.num_nodes}")
        self.probe_epochs, self.seed = check_int(probe_epochs, "probe_epochs", 1), check_int(seed, "seed", 0)
        self._probed: tuple[int, ProbeResult] | None = None

    def batches(self, epoch: int) -> Iterator[Any]:
        """The two views of an epoch."""
        data = Data(x=self.x, edge_index=self.edge_index, num_nodes=self.num_nodes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=stream(self.seed, epoch))))
            pair = [view(data) for view in self.views]
        for view in pair:
            if view.num_nodes != self.num_nodes:
                raise ValueError(f"a view has {view.num_nodes} nodes, the graph {self.num_nodes}; views keep all nodes")
        yield pair

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        (x, view1), (x2, view2) = (self._inputs(model, view) for view in batch)
        contrast, z1, z2 = model(x, view1, other=(x2, view2), batch_size=self.batch_size)
        if self.pot is None:
            return contrast
        if getattr(model, "encoder", None) is not self.pot.encoder:
            raise ValueError("pot bounds another encoder than the model's; make POTLoss with model.encoder")
        return (1 - self.kappa) * contrast + self.kappa * self.pot((x, x2), view1, view2, z1, z2)

    def embed(self, model: nn.Module) -> Tensor:
        """``[N, H]`` vectors in the whole graph, in the mode that the model is in."""
        return self.outputs(model)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        z = self.embed(model)
        if not bool(z.isfinite().all()):
            raise ValueError("model gave node vectors that are not finite; lower the learning rate")
        key = checksum(z)  # validation and test come from one probe
        if self._probed is None or self._probed[0] != key:
            self._probed = key, linear_probe(z, self.y, self.split, epochs=self.probe_epochs)
        return dict(getattr(self._probed[1], split))

    @torch.no_grad()
    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        if self.bounds is None:
            return {}
        score, certified, length = self._compactness(model)
        nodes = {
            "Compactness": score,
            "Unit compactness": score / length.clamp(min=1e-12),
            "Certified": (certified > 0).to(score.dtype),
        }
        return {
            name: {part: 100 * float(value[getattr(self.split, part)].mean()) for part in ("valid", "test")}
            for name, value in nodes.items()
        }

    @torch.no_grad()
    def histogram(self, model: nn.Module) -> dict[str, list[float]]:
        """Shares of all nodes by their compactness in the whole graph and by its certified bound."""
        if self.bounds is None:
            return {}
        score, certified, _ = (values.double().cpu() for values in self._compactness(model))
        low, high = torch.aminmax(torch.cat([score, certified]))
        edges = torch.linspace(float(low), max(float(high), float(low) + 1e-6), 41, dtype=torch.float64)
        shares = {
            "compactness": torch.histogram(score, edges).hist / score.numel(),
            "certified": torch.histogram(certified, edges).hist / score.numel(),
        }
        rounded = {name: [round(float(v), 5) for v in share] for name, share in shares.items()}
        return {"edges": [round(float(e), 5) for e in edges], **rounded}

    def to(self, device: torch.device | str) -> ContrastiveTask:
        super().to(device)
        self.bounds = None if self.bounds is None else self.bounds.to(device)
        return self

    def _compactness(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Of every node the bound in the whole graph, the certified one, and the length of its vector."""
        assert self.bounds is not None
        model.eval()
        z = self.embed(model)
        propagation = GCNBoundPropagation(model.encoder)  # type: ignore[arg-type]
        x, w = self.features(model), contrast_vectors(z)
        score = propagation.score(x, self.graph, w, self.bounds)
        return score, propagation.certified(x, w, self.bounds), z.norm(dim=1)

    def _inputs(self, model: nn.Module, view: Data) -> tuple[Any, NeighborIndex | Tensor]:
        """Features and graph of a view as the model takes them."""
        assert view.edge_index is not None
        x = self.features(model)
        if view.x is not self.x:
            assert view.x is not None
            x = view.x.to(x.dtype)
        if getattr(model, "takes_index", False):
            # Node i hears from the sources of its edges.
            return x, NeighborIndex(view.edge_index.flip(0), self.num_nodes)
        return x, view.edge_index

    def __repr__(self) -> str:
        sizes = f"nodes={self.num_nodes}, features={self.num_features}"
        return f"{type(self).__name__}({sizes}, {', '.join(self.view_settings)})"
