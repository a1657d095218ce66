"""Single forward with a view from above: all layers learn within a time step, and see the layer above as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import ForwardStack
from graphkit.nn.models.forward_stack import Graph, unit_rows
from graphkit.train.local.local_task import LocalTask
from graphkit.train.local.losses import with_states_above
from graphkit.train.local.single_forward import SingleForwardTask
from graphkit.utils.checks import check_choice, check_int


class Update(NamedTuple):
    """One layer's step: ``first`` of the training, ``last`` of the layers that read the same states."""

    layer: int
    first: bool
    last: bool


class TopDown(LocalTask):
    """Time steps as epochs, layers as batches: what the top-down tasks for nodes and for links share.

    The layers' outputs of the previous time step are buffers of the model, so a run can be resumed.
    """

    num_layers: int
    top_down: str
    infer_steps: int
    skip_steps: int
    alternating: bool

    def _set(self, num_layers: int, top_down: str, infer_steps: int, skip_steps: int, alternating: bool) -> None:
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.top_down = check_choice(top_down, "top_down", ("input", "loss"))
        self.skip_steps = check_int(skip_steps, "skip_steps", 0)
        self.infer_steps = check_int(infer_steps, "infer_steps", 1)
        if infer_steps <= skip_steps:
            raise ValueError(f"infer_steps must be more than skip_steps={skip_steps} (got {infer_steps})")
        self.alternating = alternating
        self._fresh: dict[int, Tensor] = {}

    def phases(self) -> list[list[int]]:
        """The layers in the order of their updates; those of one list read the same states."""
        layers = list(range(self.num_layers))
        if self.top_down == "loss":
            return [[layer] for layer in layers]
        phases = [layers[::2], layers[1::2]] if self.alternating else [layers]
        return [phase for phase in phases if phase]

    def num_batches(self) -> int:
        return self.num_layers

    def batches(self, epoch: int) -> Iterator[Any]:
        if self.world_size > 1:
            raise ValueError(f"{type(self).__name__} trains in one process (got {self.world_size} processes)")
        self._fresh.clear()
        first = epoch == 1
        for phase in self.phases():
            for layer in phase:
                yield Update(layer, first, layer == phase[-1])
                first = False

    def output(self, stack: ForwardStack, update: Update, x: Tensor, graph: Graph, top: Tensor | None) -> Tensor:
        """The layer's output, with gradient; what it is told of the others has none."""
        if (len(stack.layers), stack.num_nodes) != (self.num_layers, x.size(0)):
            raise ValueError(
                f"model must have {self.num_layers} layers and num_nodes={x.size(0)} "
                f"(got {len(stack.layers)} and {stack.num_nodes})"
            )
        if (stack.top_channels is not None) != (self.top_down == "input"):
            raise ValueError(f"model must have top_channels with top_down='input' only (got {stack.top_channels})")
        states = stack.states
        if update.first:
            with torch.no_grad():
                for state, value in zip(states, stack.outputs(x, graph, top), strict=True):
                    state.copy_(value)
        h = stack.step(update.layer, x, graph, states, top)
        self._fresh[update.layer] = h.detach()
        if update.last:
            for layer, value in self._fresh.items():
                states[layer].copy_(value)
            self._fresh.clear()
        return self.told(h, states, update.layer)

    def told(self, h: Tensor, states: list[Tensor], layer: int) -> Tensor:
        """What a layer is judged by: its output, or with ``"loss"`` its mean with the layers above."""
        if self.top_down == "input":
            return h
        return with_states_above(h, [unit_rows(state) for state in states[layer + 1 :]])

    def settled(self, stack: ForwardStack, x: Tensor, graph: Graph, top: Tensor | None) -> Iterator[list[Tensor]]:
        """The layers' outputs in the time steps of inference that count."""
        states = stack.outputs(x, graph, top)
        if self.top_down == "loss":
            yield [self.told(h, states, layer) for layer, h in enumerate(states)]
            return
        for step in range(self.infer_steps):
            for phase in self.phases():
                fresh = {layer: stack.step(layer, x, graph, states, top) for layer in phase}
                states = [fresh.get(layer, state) for layer, state in enumerate(states)]
            if step >= self.skip_steps:
                yield states


class TopDownTask(TopDown, SingleForwardTask):
    r"""Single forward for nodes in which all layers learn within a time step and see those above as they were, from
    `"Forward Learning of Graph Neural Networks" <https://arxiv.org/abs/2403.11004>`_.

    - ``top_down="input"``: layer l takes :math:`[n(h_{l-1}) \Vert n(h_{l+1})]`, and the last one the labels (one-hot
      for training and virtual nodes, 1/C for others) as what comes from above. With ``alternating``, layers 1, 3, ...
      are updated first, then 2, 4, ... with their fresh outputs. To predict, the layers settle in ``infer_steps`` time
      steps, and class probabilities are the mean over layers and over the steps after ``skip_steps``.
    - ``top_down="loss"``: the loss of layer l is that of the mean of :math:`h_l` and :math:`n(h_{l+1}), \dots, n(h_L)`.
      Layers are updated from below in a time step. To predict takes one pass.

    An epoch is a time step and a batch one layer's update, so that one layer's graph is in memory at a time. The
    outputs of the previous time step are buffers of the model.

    Args:
        data, split, metrics, num_classes, tau, direction, seed: as :class:`SingleForwardTask`.
        num_layers: layers of the model.
        top_down: ``"input"`` or ``"loss"``.
        infer_steps: time steps of a prediction, with ``"input"``.
        skip_steps: the first of them, which do not count.
        alternating: update odd and even layers in turn, with ``"input"``; False: all from the same states.

    Raises:
        ValueError: as :class:`SingleForwardTask`; ``infer_steps`` not more than ``skip_steps``.

    Example:
        >>> from graphkit.datasets import load
        >>> dataset = load("digits")
        >>> task = TopDownTask(dataset.data, dataset.split(seed=0), num_layers=2, top_down="input")
        >>> stack = ForwardStack([64, 16, 16], top_channels=10, num_nodes=task.num_nodes)
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_layers: int,
        top_down: str,
        infer_steps: int = 10,
        skip_steps: int = 2,
        alternating: bool = True,
        num_classes: int | None = None,
        tau: float = 1.0,
        direction: str = "both",
        seed: int = 0,
    ) -> None:
        self._set(num_layers, top_down, infer_steps, skip_steps, alternating)
        super().__init__(data, split, metrics, num_classes=num_classes, tau=tau, direction=direction, seed=seed)
        labels = self._transform.labels(split.train, self.y[split.train], self.num_real)
        self.top = labels if top_down == "input" else None

    def loss(self, model: nn.Module, batch: Update) -> Tensor:  # type: ignore[override]
        h = self.output(self.stack(model), batch, self.features(model), self.graph, self._top(model))
        train = self.split.train
        return F.cross_entropy(self.layer_logits(h[torch.cat([train, self.virtual_index])]), self.y[train])

    def logits(self, model: nn.Module) -> Tensor:
        """``[N, C]`` class probabilities of the real nodes, the mean over layers and time steps."""
        found = [
            self.layer_logits(h).softmax(-1)
            for states in self.settled(self.stack(model), self.features(model), self.graph, self._top(model))
            for h in states
        ]
        return torch.stack(found).mean(0)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> Tensor:
        """:meth:`logits` of the nodes of a split."""
        return self.logits(model)[getattr(self.split, split)]

    def _top(self, model: nn.Module) -> Tensor | None:
        return None if self.top is None else self.top.to(next(model.parameters()).dtype)

    def to(self, device: torch.device | str) -> TopDownTask:
        super().to(device)
        self.top = None if self.top is None else self.top.to(device)
        return self
