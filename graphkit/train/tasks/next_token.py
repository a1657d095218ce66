"""Language models: the next token of a text from those before it, scored in bits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets.splits import IndexSplit
from graphkit.ops.tokens import TokenLayout
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice, check_int
from graphkit.utils.seed import stream


class NextTokenTask(Task):
    r"""Predict each token of one long text from those before it.

    A model is called as ``model(x, tokens)`` with windows of ids, a chain of tokens each, and returns logits
    ``[N, num_tokens]`` for the tokens that come next (:class:`~graphkit.nn.TokenModel` with ``head="token"`` and causal
    mixers). It learns from windows of ``context`` tokens side by side, which begin at another place in each epoch.

    Every token of a split is scored once: windows overlap by half, and of each the second half is scored, so that a
    prediction knows between ``context / 2`` and ``context`` tokens. Those before the split's first one are read, too.
    No state is carried from window to window, so that mixers with and without one are compared alike. The metrics are

    .. math:: \mathrm{bits} = -\frac{1}{n} \sum_t \log_2 p(x_t \mid x_{<t}), \qquad \mathrm{perplexity} =
              2^{\mathrm{bits}}

    Args:
        ids: ``[N]`` the text.
        split: consecutive places for training, validation and test, in this order.
        context: tokens of a window.
        batch_size: windows a step.
        num_tokens: number of different tokens; one more than the largest id if None.
        seed: places and order of the windows.
        name: what a token is, for the name of the metric.

    Raises:
        TypeError, ValueError: ids that are no vector of whole numbers, a split with gaps, a training part of fewer than
            two windows.

    Example:
        >>> from graphkit.datasets.text import character_tokens, position_split
        >>> data = character_tokens("to be or not to be " * 20)
        >>> NextTokenTask(data.x, position_split(data.num_nodes), context=16)
        NextTokenTask(tokens=380 of 7, context=16, IndexSplit(train=304, valid=38, test=38))
    """

    unit = "token"

    def __init__(
        self,
        ids: Tensor,
        split: IndexSplit,
        context: int = 256,
        batch_size: int = 32,
        num_tokens: int | None = None,
        seed: int = 0,
        name: str = "character",
    ) -> None:
        if ids.dim() != 1 or ids.dtype != torch.int64 or ids.numel() == 0 or int(ids.min()) < 0:
            raise ValueError(f"ids must be a vector of int64 numbers from 0 on (got {list(ids.shape)} {ids.dtype})")
        self.context, self.batch_size = check_int(context, "context", 2), check_int(batch_size, "batch_size", 1)
        self.num_tokens = int(ids.max()) + 1
        if num_tokens is not None:
            self.num_tokens = check_int(num_tokens, "num_tokens", self.num_tokens)
        for part in ("train", "valid", "test"):
            places: Tensor = getattr(split, part)
            if places.numel() == 0 or bool((places.diff() != 1).any()) or int(places[-1]) >= ids.numel():
                raise ValueError(f"split.{part} must be consecutive places of {ids.numel()} tokens (got {places})")
        if not int(split.train[-1]) < int(split.valid[0]) or not int(split.valid[-1]) < int(split.test[0]):
            raise ValueError("split must have training before validation, and that before the test")
        if split.train.numel() < 2 * context:
            raise ValueError(f"context must fit twice into the {split.train.numel()} training tokens (got {context})")
        self.split, self.seed, self.ids = split, check_int(seed, "seed", 0), ids
        self.monitor = f"Bits per {name}"
        self.lower_is_better = (self.monitor, "Perplexity")
        self._begin = int(split.train[0])
        self._spans = {
            part: (int(getattr(split, part)[0]), int(getattr(split, part)[-1]) + 1) for part in ("valid", "test")
        }

    @property
    def _num_windows(self) -> int:
        return self.split.train.numel() // self.context - 1

    def num_batches(self) -> int:
        return -(-self._num_windows // self.batch_size)

    def size(self, batch: Tensor) -> int:
        return batch.numel() * self.context

    def epoch_size(self) -> int:
        return self._num_windows * self.context

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """First places of the windows."""
        random = stream(self.seed, epoch)
        first = self._begin + int(torch.randint(self.context, (1,), generator=random))
        order = torch.randperm(self._num_windows, generator=random)
        yield from (first + self.context * order).to(self.ids.device).split(self.batch_size)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a window of its own takes part all the same, with a loss of nothing.
        first = share if share.numel() else batch[:1]
        place = first[:, None] + torch.arange(self.context, device=first.device)
        logit = self._logits(model, place.view(-1), torch.arange(first.numel() + 1) * self.context)
        total = F.cross_entropy(logit, self.ids[place.view(-1) + 1], reduction="sum")
        return total * (share.numel() > 0) * (self.world_size / (batch.numel() * self.context))

    def _logits(self, model: nn.Module, place: Tensor, ptr: Tensor) -> Tensor:
        out = model(self.ids[place], TokenLayout(ptr.to(place.device)))
        wanted = (place.numel(), self.num_tokens)
        if out.shape != wanted:
            raise ValueError(f"model must return logits {list(wanted)}, a row a token (got {list(out.shape)})")
        return out

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.ids.device)
        first, stop = self._spans[split]
        for place, ptr, scored in self.windows(first, stop):
            logit = self._logits(model, place, ptr)[scored]
            total += F.cross_entropy(logit, self.ids[place[scored] + 1], reduction="none").double().sum()
        bits = float(total) / (stop - first) / math.log(2)
        return {self.monitor: bits, "Perplexity": 2**bits}

    def windows(self, first: int, stop: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Windows that score each of the tokens ``first`` to ``stop - 1`` once.

        Yields:
            places of the tokens to read, ``ptr`` of the windows, and which of the places are those before a token that
            is scored.
        """
        device, stride = self.ids.device, self.context - self.context // 2
        # A token is predicted at the place before it; nothing predicts the text's first one.
        first = max(first, 1)
        if first >= stop:
            return
        target = torch.arange(first, stop, stride, device=device)
        end = (target + stride).clamp(max=stop)  # beyond the last token that a window scores
        begin = (target - 1 - self.context // 2).clamp(min=0)
        for part in torch.arange(target.numel(), device=device).split(4 * self.batch_size):
            length = end[part] - 1 - begin[part]
            ptr = F.pad(length.cumsum(0), (1, 0))
            owner = torch.repeat_interleave(part, length)
            place = torch.arange(int(ptr[-1]), device=device) - ptr[owner - part[0]] + begin[owner]
            yield place, ptr, place >= target[owner] - 1

    def to(self, device: torch.device | str) -> NextTokenTask:
        self.ids, self.split = self.ids.to(device), self.split.to(device)
        return self

    def __repr__(self) -> str:
        size = f"tokens={self.ids.numel()} of {self.num_tokens}, context={self.context}"
        return f"{type(self).__name__}({size}, {self.split})"
