"""Neighbour features, generated for every node, beside the features that it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphkit.nn import NeighborCVAE
from graphkit.ops.csr import ptr_to_index
from graphkit.utils.checks import check_features, check_int
from graphkit.utils.seed import stream

_NUMBERS = 2**40  # fresh samples are numbered below it


class LocalAugmentation(BaseTransform):
    r"""The features of each node and ``m`` matrices of generated neighbour features, one row a node: local augmentation
    of `"Local Augmentation for Graph Neural Networks" <https://arxiv.org/abs/2109.03856>`_.

    .. math:: \bar X_v = \mathrm{normalize}(\mathrm{Dec}(z_v, X_v)), \qquad z_v \sim \mathcal N(0, I)

    A sample has a number, and is a function of number, ``seed``, generator and features alone. So a model that was
    chosen with a sample is stored with its number, and gets the same numbers again, bit for bit.

    A sample costs O(N H (F + d)). On a CPU that is most of a training step; with ``pool_size`` the first so many
    samples are made once, kept (``4 N F`` bytes each) and drawn from.

    Args:
        cvae: the trained generator; used without gradients and never changed.
        num_generated: number of generated matrices ``m``.
        normalize: scale every row to sum one, the features' own as well; rows of zeros stay.
        pool_size: draw from so many samples that are made once; None makes new ones each time.
        seed: seed of the samples.

    Shapes:
        - **input:** :class:`~torch_geometric.data.Data` with ``x`` ``[N, F]`` as the generator was trained on, without
          normalisation (dense or sparse CSR)
        - **output:** a list of ``m + 1`` matrices ``[N, F]``, the features first

    Raises:
        TypeError: ``cvae`` is no :class:`~graphkit.nn.NeighborCVAE`.
        ValueError: a number out of range, ``normalize`` with a Gaussian generator, whose features may be negative, or
            features that the generator does not admit.

    Example:
        >>> augment = LocalAugmentation(NeighborCVAE(in_channels=4), num_generated=2)
        >>> [x.shape[0] for x in augment(Data(x=torch.eye(4)))]
        [4, 4, 4]
    """

    def __init__(
        self,
        cvae: NeighborCVAE,
        num_generated: int = 1,
        *,
        normalize: bool = True,
        pool_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(cvae, NeighborCVAE):
            raise TypeError(f"cvae must be a graphkit.nn.NeighborCVAE (got {type(cvae).__name__})")
        if normalize and cvae.likelihood == "gaussian":
            raise ValueError(
                "normalize=True scales rows to sum one, which needs features >= 0; use normalize=False with a "
                "generator of likelihood='gaussian'"
            )
        self.cvae = cvae
        self.num_generated = check_int(num_generated, "num_generated", 0)
        self.normalize = normalize
        self.pool_size = None if pool_size is None else check_int(pool_size, "pool_size", max(num_generated, 1))
        self.seed = check_int(seed, "seed", 0)
        self._kept: tuple[Tensor, Any, Tensor, Tensor | None] | None = None

    def forward(self, data: Data) -> list[Tensor]:
        x = check_features(data.x, "data.x")
        self.cvae.check_features(x, "data.x")
        own = normalize_rows(x) if self.normalize else x
        return [own, *self.generate(x, self.draw(self.num_generated), self.num_generated)]

    def draw(self, count: int, generator: torch.Generator | None = None) -> int:
        """The first number of ``count`` consecutive samples, at random; all in the pool if there is one."""
        if self.pool_size is not None and count > self.pool_size:
            raise ValueError(f"pool_size must be at least the {count} samples of a step (got {self.pool_size})")
        last = _NUMBERS if self.pool_size is None else self.pool_size
        return int(torch.randint(last - count + 1, (), generator=generator))

    @torch.no_grad()
    def generate(self, x: Tensor, first: int, count: int) -> Tensor:
        """Samples number ``first`` to ``first + count - 1`` for features ``x``: ``[count, N, F]``, which may be a part
        of the pool and must not be written to."""
        training = self.cvae.training
        self.cvae.eval()
        try:
            context, pool = self._prepared(x)
            if pool is not None and first + count <= pool.size(0):
                return pool[first : first + count]
            return self._made(context, first, count)
        finally:
            self.cvae.train(training)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What all samples for ``x`` share; made anew for other features, or if the generator was trained since."""
        versions = tuple((id(part), part._version) for part in (x, *self.cvae.state_dict(keep_vars=True).values()))
        if self._kept is None or self._kept[0] is not x or self._kept[1] != versions:
            context = self.cvae.context(x)
            pool = None if self.pool_size is None else self._made(context, 0, self.pool_size)
            self._kept = (x, versions, context, pool)
        return self._kept[2], self._kept[3]

    def _made(self, context: Tensor, first: int, count: int) -> Tensor:
        made = context.new_empty(count, context.size(0), self.cvae.in_channels)
        for place in range(count):
            # Drawn on the CPU, so that every device gets the same ones.
            generator = stream(self.seed, first + place)
            latent = torch.randn(context.size(0), self.cvae.latent_channels, generator=generator)
            sample = self.cvae.decode(latent.to(context), context)
            made[place] = normalize_rows(sample) if self.normalize else sample
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cvae}, num_generated={self.num_generated}, pool_size={self.pool_size})"


class AugmentedView(BaseTransform):
    """A view of a graph for contrastive learning: the features become the mean of each node's own and ``m`` generated
    ones, another sample in each call.

    The mean is what the mode ``"average"`` of :class:`~graphkit.nn.LocallyAugmented` sees, and as wide as the features,
    so that the vectors of the whole graph can be asked for with the features alone. Put it before a transform of edges,
    ``Compose([AugmentedView(augment), EdgeDrop(0.4)])``.

    Args:
        augment: the generated features; numbers of samples come from PyTorch's global generator.

    Example:
        >>> view = AugmentedView(LocalAugmentation(NeighborCVAE(in_channels=4)))
        >>> view(Data(x=torch.eye(4), edge_index=torch.tensor([[0, 1], [1, 0]]))).x.shape
        torch.Size([4, 4])
    """

    def __init__(self, augment: LocalAugmentation) -> None:
        self.augment = augment

    def forward(self, data: Data) -> Data:
        own, *generated = self.augment(data)
        dense = own.to_dense() if own.is_sparse_csr else own
        data.x = torch.stack([dense, *generated]).mean(0)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.augment!r})"


def normalize_rows(x: Tensor) -> Tensor:
    """Rows of non-negative features (dense or sparse CSR) scaled to sum one; rows of zeros stay.

    Example:
        >>> normalize_rows(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.0000, 0.0000]])
    """
    if not x.is_sparse_csr:
        total = x.sum(dim=1, keepdim=True)
        return x / torch.where(total > 0, total, 1)
    pointer = x.crow_indices()
    row = ptr_to_index(pointer, x.values().numel())
    total = x.values().new_zeros(x.size(0)).index_add_(0, row, x.values())
    values = x.values() / torch.where(total > 0, total, 1)[row]
    return torch.sparse_csr_tensor(pointer, x.col_indices(), values, x.shape, check_invariants=False)
