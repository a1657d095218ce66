"""Link prediction layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.splits import LinkSplit
from graphkit.nn import ForwardStack
from graphkit.ops import NeighborIndex, pair_product
from graphkit.train.local.local_task import LocalTask, Remembered
from graphkit.train.local.losses import link_logit
from graphkit.train.local.top_down import TopDown, Update
from graphkit.train.tasks.link_prediction import LinkPredictionTask
from graphkit.utils.checks import check_choice, check_range


class ForwardLinkTask(LocalTask, LinkPredictionTask):
    r"""Link prediction layer by layer, from `"Forward Learning of Graph Neural Networks"
    <https://arxiv.org/abs/2403.11004>`_.

    With :math:`o = h_u \odot h_v` of a layer's output, the layer's logit of a link is :math:`\sum_c o_c` with
    ``objective="bce"`` (single forward), and :math:`\sum_c o_c^2 - \theta` with ``"ff"`` (forward-forward, where links
    are the positive inputs and non-links the negative ones). Its loss is the mean of :math:`\mathrm{softplus}(-s)` over
    links plus that of :math:`\mathrm{softplus}(s)` over non-links. No virtual nodes are needed.

    A step takes all training links and the fixed non-links of the split; the message-passing edges are the training
    links. The **last** layer of the model is the one that learns (:func:`layer_by_layer` makes the chain of
    experiments). The score of a link is the mean over layers of :math:`\sigma(s)` with ``"bce"``, and the sum of
    :math:`s` with ``"ff"``.

    Args:
        split: links with ``x`` and ``train_neg``, such as from
            :func:`~graphkit.datasets.splits.random_link_split`.
        metrics: as :class:`~graphkit.train.LinkPredictionTask`.
        objective: ``"bce"`` or ``"ff"``.
        theta: the goodness of a pair that is as likely a link as not, with ``"ff"``.
        eval_batch_size: pairs scored at once in evaluation.

    Raises:
        ValueError: as :class:`~graphkit.train.LinkPredictionTask`; a split without features or fixed non-links, or a
            negative ``theta``.

    Example:
        >>> from graphkit.datasets import load
        >>> ForwardLinkTask(load("digits").split(seed=0, protocol="link-64-16-20")).monitor
        'AUC'
    """

    def __init__(
        self,
        split: LinkSplit,
        metrics: tuple[str, ...] | None = ("AUC",),
        *,
        objective: str = "bce",
        theta: float = 2.0,
        eval_batch_size: int = 65536,
    ) -> None:
        super().__init__(
            split,
            max(split.train_pos.size(1), 1),
            metrics,
            target_link_removal=False,
            negatives="fixed",
            eval_batch_size=eval_batch_size,
        )
        if split.x is None:
            raise ValueError("split.x must hold features (got None)")
        self.objective = check_choice(objective, "objective", ("bce", "ff"))
        self.theta = check_range(theta, "theta", 0)
        self._constant = Remembered()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        stack = self.stack(model)
        prepared, _ = self.constant(stack)
        return self.pair_loss(stack.layers[-1].finish(prepared), *batch)

    def pair_loss(self, h: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        """The loss of a layer's output ``[N, H]`` on links and non-links."""
        logit = link_logit(pair_product(h, torch.cat([pos, neg], dim=1)), self.objective, self.theta)
        return F.softplus(-logit[: pos.size(1)]).mean() + F.softplus(logit[pos.size(1) :]).mean()

    def constant(self, stack: ForwardStack) -> tuple[Any, dict[str, tuple[Tensor, Any]]]:
        """What does not depend on the last layer's weights: its training input, and for a split the scores of its pairs
        by the layers below and the last one's input."""
        layers = list(stack.layers)

        @torch.no_grad()
        def make() -> tuple[Any, dict[str, tuple[Tensor, Any]]]:
            found = {}
            for split in ("valid", "test"):
                h, graph, pairs = self.features(stack), self._graph(split), self._pairs(split)
                below = torch.zeros(pairs.size(1), device=pairs.device)
                for layer in layers[:-1]:
                    h = layer(h, graph)
                    below = below + self._score(h, pairs)
                found[split] = below, layers[-1].prepare([(h, graph)])
            # Validation links are scored in the training graph.
            return found["valid"][1], found

        return self._constant.get(layers, layers[:-1], make)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Scores of the links and of the non-links of a split, by the last layer alone."""
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        stack = self.stack(model)
        below, prepared = self.constant(stack)[1][split]
        found = below + self._score(stack.layers[-1].finish(prepared), self._pairs(split))
        if self.objective == "bce":
            found = found / len(stack.layers)
        return self._apart(found, split)

    def features(self, model: nn.Module) -> Tensor:
        """The features in the type of the model's weights."""
        x = self._features(model)
        assert x is not None
        return x

    def _score(self, h: Tensor, pairs: Tensor) -> Tensor:
        """A layer's part of the score of pairs, in chunks."""
        chunks = pairs.split(self.eval_batch_size, dim=1)
        logit = torch.cat([link_logit(pair_product(h, chunk), self.objective, self.theta) for chunk in chunks])
        return logit.sigmoid() if self.objective == "bce" else logit

    def _graph(self, split: str) -> NeighborIndex:
        return self.test_graph if split == "test" else self.train_graph

    def _pairs(self, split: str) -> Tensor:
        return torch.cat([getattr(self.split, f"{split}_pos"), getattr(self.split, f"{split}_neg")], dim=1)

    def _apart(self, found: Tensor, split: str) -> tuple[Tensor, Tensor]:
        links = getattr(self.split, f"{split}_pos").size(1)
        return found[:links], found[links:]

    def to(self, device: torch.device | str) -> ForwardLinkTask:
        super().to(device)
        self._constant.forget()
        return self


class TopDownLinkTask(TopDown, ForwardLinkTask):
    r"""Link prediction in which all layers learn within a time step and take the output of the layer above as a further
    input, from `"Forward Learning of Graph Neural Networks" <https://arxiv.org/abs/2403.11004>`_.

    As :class:`TopDownTask` with ``top_down="input"``, with the layers' logits of :class:`ForwardLinkTask`; there is
    nothing above the last layer. The score of a link is the mean of :math:`\sigma(s)` over layers and over the time
    steps of inference after ``skip_steps``.

    Args:
        split, metrics, eval_batch_size: as :class:`ForwardLinkTask`.
        num_layers: layers of the model.
        infer_steps, skip_steps, alternating: as :class:`TopDownTask`.

    Raises:
        ValueError: as :class:`ForwardLinkTask`; ``infer_steps`` not more than ``skip_steps``.

    Example:
        >>> from graphkit.datasets import load
        >>> split = load("digits").split(seed=0, protocol="link-64-16-20")
        >>> task = TopDownLinkTask(split, num_layers=2)
        >>> stack = ForwardStack([64, 16, 16], top_channels=0, num_nodes=split.num_nodes)
    """

    def __init__(
        self,
        split: LinkSplit,
        metrics: tuple[str, ...] | None = ("AUC",),
        *,
        num_layers: int,
        infer_steps: int = 10,
        skip_steps: int = 2,
        alternating: bool = True,
        eval_batch_size: int = 65536,
    ) -> None:
        self._set(num_layers, "input", infer_steps, skip_steps, alternating)
        super().__init__(split, metrics, eval_batch_size=eval_batch_size)

    def loss(self, model: nn.Module, batch: Update) -> Tensor:  # type: ignore[override]
        assert self.split.train_neg is not None
        h = self.output(self.stack(model), batch, self.features(model), self.train_graph, None)
        return self.pair_loss(h, self.split.train_pos, self.split.train_neg)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Scores of the links and of the non-links of a split."""
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        pairs = self._pairs(split)
        settled = self.settled(self.stack(model), self.features(model), self._graph(split), None)
        found = torch.stack([self._score(h, pairs) for states in settled for h in states]).mean(0)
        return self._apart(found, split)
