"""Node classification with generated neighbour features beside each node's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import sparsify
from graphkit.nn.conv.sparse_linear import stack_rows
from graphkit.ops import NeighborIndex
from graphkit.train.augment.consistency_task import ConsistencyTask
from graphkit.train.augment.local_augmentation import LocalAugmentation, normalize_rows
from graphkit.utils.checks import NO_FEATURES, check_int
from graphkit.utils.seed import stream


class AugmentedBatch(NamedTuple):
    """A training step.

    Attributes:
        nodes: ids of the training nodes.
        first: number of the first of the step's generated samples.
    """

    nodes: Tensor
    first: int


class AugmentedNetwork(nn.Module):
    """A network together with the number of the generated sample that it is evaluated with, in one state.

    Args:
        network: called as ``network(x_list, graph)``, such as :class:`~graphkit.nn.LocallyAugmented`.

    Attributes:
        sample: number of the first of its generated matrices, for :meth:`LocalAugmentation.generate`.
    """

    sample: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.takes_index = getattr(network, "takes_index", False)
        self.register_buffer("sample", torch.zeros((), dtype=torch.long))

    def reset_parameters(self) -> None:
        """Draw the network's weights anew."""
        self.network.reset_parameters()  # type: ignore[operator]
        self.sample.zero_()

    def forward(self, x_list: list[Tensor], edge_index: NeighborIndex | Tensor) -> Tensor:
        return self.network(x_list, edge_index)


class AugmentedClassifier(nn.Module):
    """A trained :class:`AugmentedNetwork` together with its generator: a network of plain features, which can teach,
    serve, or take any place where a ``model(x, graph)`` is asked for.

    Its sample is the one that the network was chosen with, so its answers are those of the task's evaluation. Samples
    go by the place of a node, so it answers for the whole graph that it was trained on.

    Args:
        network: the network with the number of its sample.
        augment: the generated features that it was trained with.

    Shapes:
        - **input:** ``x`` ``[N, F]`` as the generator was trained on, without normalisation (dense or sparse CSR),
          graph as the network takes it
        - **output:** that of the network

    Example:
        >>> from graphkit.nn import LAGCN, NeighborCVAE
        >>> network = AugmentedNetwork(LAGCN(4, 8, 3))
        >>> model = AugmentedClassifier(network, LocalAugmentation(NeighborCVAE(in_channels=4)))
        >>> model(torch.rand(2, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, network: AugmentedNetwork, augment: LocalAugmentation) -> None:
        super().__init__()
        self.network, self.cvae = network, augment.cvae
        self.takes_index = network.takes_index
        self._augment = augment

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        own = normalize_rows(x) if self._augment.normalize else x
        generated = self._augment.generate(x, int(self.network.sample), self._augment.num_generated)
        return self.network([own, *generated.to(own.dtype)], edge_index)


class LocalAugmentationTask(ConsistencyTask):
    r"""Node classification from features and generated neighbour features, `"Local Augmentation for Graph Neural
    Networks" <https://arxiv.org/abs/2109.03856>`_.

    In each step ``K`` views are made, each with ``m`` generated matrices of its own, and the loss is that of
    :class:`ConsistencyTask`. Another ``m`` matrices are drawn for the evaluation of the epoch. Their number is kept in
    the model (:class:`AugmentedNetwork`), so that the chosen model and the sample that it was chosen with stay
    together: test values are of the very pair that was best on validation, without another draw or an average. What an
    epoch draws depends on ``seed`` and the epoch alone.

    With ``fixed=True`` the network is one of plain features, such as :class:`~graphkit.nn.GRAND`: ``K`` views are of
    the features and ``K`` of one generated matrix, which stays the same, and the evaluation is on the features.

    The generator is part of the data: it is trained before (:class:`NeighborFeatureTask`), gets no gradient and is not
    in the model's state.

    Args:
        data: the graph, with ``x`` as the generator was trained on; the network gets it with rows of sum one if
            ``augment.normalize``.
        split: ids of training, validation and test nodes; none may be hidden.
        augment: the generated features.
        num_samples: number of views ``K``.
        weight, temperature, num_classes: as :class:`ConsistencyTask`.
        fixed: views of plain features instead, with one generated matrix for all steps.
        seed: seed of the draws.

    Raises:
        ValueError: as :class:`ConsistencyTask`; features that the generator does not admit, or of another width; a pool
            that is too small for a step; nodes that are hidden; ``fixed`` with ``num_generated`` other than 1.
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        augment: LocalAugmentation,
        *,
        num_samples: int = 4,
        weight: float = 1.0,
        temperature: float = 0.5,
        fixed: bool = False,
        seed: int = 0,
        num_classes: int | None = None,
    ) -> None:
        if data.x is None:
            raise ValueError(
                f"data must have node features x, from which neighbours' are generated (got None); {NO_FEATURES}"
            )
        if getattr(split, "hidden", None) is not None:
            raise ValueError("split hides nodes, whose features would be needed; give the graph without them")
        prepared = copy.copy(data)
        if augment.normalize:
            prepared.x = normalize_rows(data.x)
        super().__init__(
            prepared,
            split,
            num_samples=num_samples,
            weight=weight,
            temperature=temperature,
            num_classes=num_classes,
        )
        if data.x.size(1) != augment.cvae.in_channels:
            raise ValueError(
                f"augment generates {augment.cvae.in_channels} features, but data.x has {data.x.size(1)} of them"
            )
        augment.cvae.check_features(data.x, "data.x")
        if fixed and augment.num_generated != 1:
            raise ValueError(f"fixed=True needs augment.num_generated=1 (got {augment.num_generated})")
        self.augment, self.fixed, self.seed = augment, fixed, check_int(seed, "seed", 0)
        self.condition = sparsify(data.x)
        # So that a run with other settings is told apart, and the generator is known to be used here.
        self.cvae, self.num_generated, self.pool_size = augment.cvae, augment.num_generated, augment.pool_size
        self.draw(0)

    def draw(self, epoch: int) -> int:
        """Number of the first sample of an epoch: those of the ``K`` views, matrix by matrix, then the evaluation's."""
        if self.fixed:
            return 0
        return self.augment.draw((self.num_samples + 1) * self.num_generated, stream(self.seed, epoch))

    def batches(self, epoch: int) -> Iterator[Any]:
        """All training nodes, once: an :class:`AugmentedBatch`."""
        yield AugmentedBatch(self.split.train, self.draw(epoch))

    def views(self, model: nn.Module, batch: AugmentedBatch) -> Tensor:
        own = super(ConsistencyTask, self).features(model)
        if self.fixed:
            return self.side_by_side(model, self._both(own), 2 * self.num_samples)
        count = self.num_samples * self.num_generated
        generated = self.augment.generate(self.condition, batch.first, count).to(own.dtype)
        # [m, K N, F]: the samples of one matrix lie together, so that nothing is copied.
        apart = generated.view(self.num_generated, own.size(0) * self.num_samples, own.size(1))
        self._kept(model).fill_(batch.first + count)
        return self.side_by_side(model, [self.copies(own, self.num_samples), *apart], self.num_samples)

    def features(self, model: nn.Module) -> Any:
        own = super().features(model)
        if self.fixed:
            return own
        first = int(self._kept(model))
        return [own, *self.augment.generate(self.condition, first, self.num_generated).to(own.dtype)]

    def to(self, device: torch.device | str) -> LocalAugmentationTask:
        super().to(device)
        self.condition, self.cvae = self.condition.to(device), self.cvae.to(device)
        return self

    def _both(self, own: Tensor) -> Tensor:
        """``K`` copies of the features and ``K`` of the one generated matrix, ``[2 K N, F]``, made once."""
        if "both" not in self._copies:
            generated = self.augment.generate(self.condition, 0, 1)[0].to(own.dtype)
            dense = own.to_dense() if own.is_sparse_csr else own
            parts = [stack_rows(part, self.num_samples) for part in (dense, generated)]
            self._copies["both"] = torch.cat(parts)
        return self._copies["both"]

    @staticmethod
    def _kept(model: nn.Module) -> Tensor:
        sample = getattr(model, "sample", None)
        if not isinstance(sample, Tensor):
            raise TypeError(
                "model must be an AugmentedNetwork, which keeps the number of the sample that it is evaluated with "
                f"(got {type(model).__name__})"
            )
        return sample
