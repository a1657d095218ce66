"""Training a graph tokenizer: class labels beside its own losses, and an eye on the codebook."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import TokenizerOutput
from graphkit.train.distill.losses import distillation_kl
from graphkit.train.distill.taught_task import TaughtTask
from graphkit.utils.checks import check_range


class GraphTokenizerTask(TaughtTask):
    """Node classification by a :class:`~graphkit.nn.GraphTokenizer`, whose own losses are added to the cross-entropy.

    The teacher's side of `"VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
    <https://arxiv.org/abs/2308.02117>`_. The history follows how many codes are in use and their perplexity; if fewer
    than a twentieth are at the end, a warning says so, since such codes tell little more than the class.

    The tokenizer may be taught itself: with a ``teacher`` the divergence of its class distributions from the teacher's,
    :func:`~graphkit.train.distillation_kl` over all nodes, is added ``w_soft`` times.

    Evaluation is that of :class:`~graphkit.train.NodeClassificationTask`.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`.
        teacher: any classifier ``teacher(x, graph)`` of this graph's nodes that is trained before; None for none.
        w_soft: weight of what it says.

    Raises:
        ValueError: as :class:`~graphkit.train.NodeClassificationTask`, or ``w_soft`` below zero.
    """

    _code: Tensor | None = None

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
        teacher: Any = None,
        w_soft: float = 1.0,
    ) -> None:
        super().__init__(data, split, teacher, metrics, num_classes=num_classes)
        self.w_soft = check_range(w_soft, "w_soft", 0)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        out = self.outputs(model)
        # Each process sees the whole graph, so these losses are the same on all of them.
        total = self.cross_entropy(out.logits, batch) + sum(out.losses.values())
        if self.teacher is not None:
            total = total + self.w_soft * distillation_kl(out.logits, self.soft_labels())
        return total

    def outputs(self, model: nn.Module) -> Any:
        out = super().outputs(model)
        if not model.training and isinstance(out, TokenizerOutput):  # a teacher may be another network
            self._code = out.tokens.code
        return out

    def observe(self, model: nn.Module) -> dict[str, float]:
        """Codes in use and their perplexity over all nodes, as last evaluated."""
        assert self._code is not None
        counts = self._code.reshape(-1).bincount().double()
        share = counts[counts > 0] / counts.sum()
        return {"codes": float(share.numel()), "perplexity": float(torch.special.entr(share).sum().exp())}

    @torch.no_grad()
    def final_metrics(self, model: Any) -> dict[str, dict[str, float]]:
        self.logits(model)
        used, size = int(self.observe(model)["codes"]), model.quantizer.num_codes
        if used * 20 < size:
            warnings.warn(
                f"only {used} of {size} codes are in use; try kmeans_init, dead_code_threshold or fewer codes",
                stacklevel=2,
            )
        return {}
