"""Training a graph tokenizer: class labels beside its own losses, and an eye on the codebook."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.train.tasks.node_classification import NodeClassificationTask


class GraphTokenizerTask(NodeClassificationTask):
    """Node classification by a :class:`~graphkit.nn.GraphTokenizer`, whose own losses are added to the cross-entropy.

    The teacher's side of `"VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
    <https://arxiv.org/abs/2308.02117>`_. The history follows how many codes are in use and their perplexity; if fewer
    than a twentieth are at the end, a warning says so, since such codes tell little more than the class.

    Args, errors and evaluation are those of :class:`~graphkit.train.NodeClassificationTask`.
    """

    _code: Tensor | None = None

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        out = self.outputs(model)
        # Each process sees the whole graph, so the tokenizer's losses are the same on all of them.
        return self.cross_entropy(out.logits, batch) + sum(out.losses.values())

    def outputs(self, model: nn.Module) -> Any:
        out = super().outputs(model)
        if not model.training:
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
