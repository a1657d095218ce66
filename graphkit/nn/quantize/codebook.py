"""Codebooks after the layers of a network: hidden vectors become a few discrete codes, which can be read and forced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.quantize.vector import METRICS, code_scores, kmeans
from graphkit.utils.checks import (
    INDEX_DTYPES,
    check_choice,
    check_device,
    check_features,
    check_int,
    check_range,
    check_rows,
)

LOSSES = ("aeloss", "base", "vqvae", "fullaeloss")
_BLOCK = 2**24  # scores at once
_NOISE = 1e-4  # of codes that replace dead ones, as a share of the row


class CodebookLayer(nn.Module):
    r"""The bottleneck of `"Codebook Features: Sparse and Discrete Interpretability for Neural Networks"
    <https://arxiv.org/abs/2310.17230>`_: a hidden vector is replaced by the mean of its k most similar codes.

    .. math:: z = \mathrm{LayerNorm}(x), \qquad o = \tfrac{1}{k} \sum_{c \in \mathrm{top}_k(s)} E_c, \qquad
              s_c = z \cdot E_c / \lVert E_c \rVert

    The output has the scale of z and is not brought back to that of x. The gradient passes straight through to z,
    unchanged. What the codes learn from is ``loss``:

    ============== ====================================================== =================================
    loss           gradient of the codes                                  gradient of z besides
    ============== ====================================================== =================================
    ``aeloss``     that of the task, and of mean ‖o - z‖² with z constant none
    ``base``       that of the task                                       none
    ``vqvae``      of mean ‖o - z‖² with z constant                       2 beta (z - o)
    ``fullaeloss`` as ``aeloss``                                          2 beta (z - o)
    ============== ====================================================== =================================

    The mean is over vectors. These gradients join in the backward pass by themselves: no task has to add a loss. Groups
    have codebooks and normalisations of their own.

    O(N C D) for the scores, made in blocks, and O(N k D) for the rest; memory O(N D k).

    Args:
        channels: width D of the vectors.
        num_codes: C, codes of each group.
        k: codes of a vector.
        groups: parts into which a vector is cut, such as the heads of an attention.
        metric: ``"cosine"`` (the order of :math:`s_c` above) or ``"euclidean"``.
        loss: as above.
        beta: weight of the gradient of z in ``vqvae`` and ``fullaeloss``.
        replace_every: training steps after which codes that were not used since are replaced by vectors of the batch; 0
            never.
        kmeans_init: start with the centres of k-means on the first training batch.

    Attributes:
        codebook: ``[groups, C, D / groups]``.
        last_ids: ``[N, groups, k]`` codes of the latest call, best first.

    Shapes:
        - **input:** ``x`` ``[..., channels]``; ``mask`` ``[...]`` bool or None: vectors that count in losses, k-means
          and usage
        - **output:** as ``x``

    Raises:
        ValueError: ``k`` above ``num_codes``, ``channels`` that ``groups`` does not divide, an unknown metric or loss,
            a number out of range; in a call another width; k-means with fewer vectors than codes.

    Example:
        >>> layer = CodebookLayer(8, num_codes=16, k=2)
        >>> layer(torch.randn(5, 8)).shape, layer.last_ids.shape
        (torch.Size([5, 8]), torch.Size([5, 1, 2]))
    """

    counts: Tensor
    since: Tensor
    steps: Tensor
    initialized: Tensor

    def __init__(
        self,
        channels: int,
        num_codes: int,
        k: int = 1,
        groups: int = 1,
        metric: str = "cosine",
        loss: str = "aeloss",
        beta: float = 0.25,
        replace_every: int = 0,
        kmeans_init: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)
        self.num_codes, self.groups = check_int(num_codes, "num_codes", 1), check_int(groups, "groups", 1)
        self.k = check_int(k, "k", 1, num_codes)
        if channels % groups:
            raise ValueError(f"channels must be divisible by groups (got channels={channels}, groups={groups})")
        self.metric = check_choice(metric, "metric", METRICS)
        self.loss = check_choice(loss, "loss", LOSSES)
        self.beta = check_range(beta, "beta", 0)
        self.replace_every = check_int(replace_every, "replace_every", 0)
        self.kmeans_init = kmeans_init
        width = channels // groups
        self.codebook = nn.Parameter(torch.empty(groups, num_codes, width))
        self.norm_weight = nn.Parameter(torch.empty(groups, width))
        self.norm_bias = nn.Parameter(torch.empty(groups, width))
        self.register_buffer("counts", torch.zeros(groups, num_codes, dtype=torch.int64))
        self.register_buffer("since", torch.zeros(groups, num_codes, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("initialized", torch.tensor(True))
        self.last_ids: Tensor | None = None
        self._aux: Tensor | None = None
        self._off = False
        self._forced: tuple[Tensor, Tensor | None] | None = None
        self._blocked: tuple[Tensor, bool] | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the codes anew from a standard normal distribution; usage is forgotten."""
        nn.init.normal_(self.codebook)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)
        for buffer in (self.counts, self.since, self.steps):
            buffer.zero_()
        self.initialized.fill_(not self.kmeans_init)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() == 0 or x.size(-1) != self.in_channels:
            raise ValueError(f"x must have shape [..., {self.in_channels}] (got {list(x.shape)})")
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point (got {x.dtype}); convert with .float()")
        check_device(x=x, weights=self.codebook, mask=mask)
        if mask is not None and (mask.shape != x.shape[:-1] or mask.dtype != torch.bool):
            raise ValueError(f"mask must be bool {list(x.shape[:-1])} (got {list(mask.shape)} {mask.dtype})")
        if self._off:
            return x
        z = self.normalize(x)
        rows = None if mask is None else mask.reshape(-1)
        if self.training:
            self._prepare(z.detach() if rows is None else z.detach()[rows])
        ids = self._choose(z)
        self.last_ids = ids
        if self.training:
            self._count(ids, rows)
        out = self._mean(ids) + (z - z).detach()  # NaN stays NaN, it does not become a code
        self._aux = None
        if self.training and torch.is_grad_enabled() and z.size(0):
            out = self._learn(out, z, rows)
        return out.reshape(x.shape)

    def normalize(self, x: Tensor) -> Tensor:
        """z: ``[N, groups, D / groups]`` of ``[..., D]``."""
        parts = x.reshape(-1, self.groups, self.in_channels // self.groups)
        return F.layer_norm(parts, parts.shape[-1:]) * self.norm_weight + self.norm_bias

    def lookup(self, ids: Tensor) -> Tensor:
        """The means ``[N, D]`` of codes ``[N, groups, k]``.

        Raises:
            ValueError: another shape or type.
            IndexError: a code outside ``[0, num_codes)``.
        """
        if ids.dim() != 3 or ids.size(1) != self.groups or ids.dtype not in INDEX_DTYPES:
            raise ValueError(f"ids must be int64 [N, {self.groups}, k] (got {list(ids.shape)} {ids.dtype})")
        self._check_ids(ids)
        return self._mean(ids).flatten(1)

    def usage(self) -> Tensor:
        """``[groups, num_codes]`` how often each code was chosen in training."""
        return self.counts

    def reset_usage(self) -> None:
        """Count from zero again."""
        self.counts.zero_()

    def aux_loss(self) -> Tensor:
        """mean ‖o - z‖² of the latest training call. Its gradient is already taken care of: to look at, not to add."""
        return self.codebook.new_zeros(()) if self._aux is None else self._aux

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Make the codes the centres of k-means of vectors ``x [N, D]``.

        Raises:
            ValueError: fewer vectors than codes.
        """
        self._start(self.normalize(check_features(check_rows(x, self.in_channels, self.codebook))))

    @torch.no_grad()
    def replace_dead(self, x: Tensor) -> int:
        """Replace codes that were not used since the last time by random vectors of ``x [N, D]``, with a little noise.

        Returns:
            how many.
        """
        if not check_features(check_rows(x, self.in_channels, self.codebook)).size(0):
            raise ValueError("x must hold vectors to replace codes by (got none)")
        return int(self._replace(self.normalize(x)).sum())

    # Inside, rows are [N, groups, width] ------------------------------------------------------------------------------

    @torch.no_grad()
    def _prepare(self, z: Tensor) -> None:
        """What changes the codes before a training step."""
        if self.kmeans_init and not bool(self.initialized):
            self._start(z)
        if self.replace_every:
            if int(self.steps) and int(self.steps) % self.replace_every == 0 and z.size(0):
                self._replace(z)
            self.steps += 1

    def _choose(self, z: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            rows, codes = z.detach().to(self.codebook.dtype).transpose(0, 1), self.codebook.detach()
            size = max(1, _BLOCK // (self.groups * self.num_codes))
            parts = [self._top(code_scores(part, codes, self.metric)) for part in rows.split(size, 1)]
            ids = torch.cat(parts, 1).transpose(0, 1) if parts else z.new_zeros(0, self.groups, self.k).long()
        if self._forced is None:
            return ids
        forced, where = self._forced
        forced = forced.expand(ids.shape)
        return forced if where is None else torch.where(where.reshape(-1, 1, 1), forced, ids)

    def _top(self, scores: Tensor) -> Tensor:
        """``[groups, n, k]`` best codes; of equal ones the lowest."""
        if self._blocked is not None and not self._blocked[1]:
            scores = scores.index_fill(-1, self._blocked[0], -torch.inf)
        # Arg max takes the first of equal ones, top-k any.
        return scores.argmax(-1, keepdim=True) if self.k == 1 else scores.topk(self.k, -1).indices

    def _mean(self, ids: Tensor) -> Tensor:
        group = torch.arange(self.groups, device=ids.device)[:, None]
        chosen = self.codebook[group, ids]  # [N, groups, k, width]
        if self._blocked is not None and self._blocked[1]:
            chosen = chosen.masked_fill(torch.isin(ids, self._blocked[0])[..., None], 0)
        return chosen.mean(2)

    def _learn(self, out: Tensor, z: Tensor, rows: Tensor | None) -> Tensor:
        """``out`` with the gradients of training."""
        weight = z.new_ones(z.size(0)) if rows is None else rows.to(z.dtype)
        count = weight.sum().clamp(min=1)

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return ((a - b).square().sum((1, 2)) * weight).sum()

        error = distance(out, z.detach()) / count
        self._aux = error.detach()
        # The released code divides the gradient of the codes by the number of vectors, and not that of z.
        extra = error if self.loss != "base" else out.new_zeros(())
        if self.loss in ("vqvae", "fullaeloss"):
            extra = extra + self.beta * distance(out.detach(), z)
        value = out.detach() if self.loss == "vqvae" else out
        return _Joined.apply(value + (z - z.detach()), extra)

    @torch.no_grad()
    def _count(self, ids: Tensor, rows: Tensor | None) -> None:
        ids = ids if rows is None else ids[rows]
        place = ids + self.num_codes * torch.arange(self.groups, device=ids.device)[:, None]
        found = torch.bincount(place.reshape(-1), minlength=self.counts.numel()).view_as(self.counts)
        self.counts += found
        self.since += found

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        if z.size(0) < self.num_codes:
            raise ValueError(f"k-means of num_codes={self.num_codes} needs as many vectors (got {z.size(0)})")
        # Cosine centres have length one, as the normalised vectors have not.
        centers, _ = kmeans(z.transpose(0, 1).contiguous(), self.num_codes, "euclidean")
        self.codebook.copy_(centers)
        self.initialized.fill_(True)

    def _replace(self, z: Tensor) -> Tensor:
        dead = self.since == 0
        pick = torch.randint(z.size(0), (self.groups, self.num_codes), device=z.device)
        fresh = z.transpose(0, 1)[torch.arange(self.groups, device=z.device)[:, None], pick]
        fresh = fresh + _NOISE * fresh.norm(dim=-1, keepdim=True) * torch.randn_like(fresh)
        self.codebook.copy_(torch.where(dead[..., None], fresh.to(self.codebook.dtype), self.codebook))
        self.since.zero_()
        return dead

    def _check_ids(self, ids: Tensor) -> None:
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_codes:
            raise IndexError(f"ids must be in [0, {self.num_codes}) (got {int(ids.min())} to {int(ids.max())})")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, num_codes={self.num_codes}, k={self.k}, groups={self.groups})"
        )


class _Joined(torch.autograd.Function):
    """The first argument; in the backward pass the second one gets the gradient 1, as if it were a part of the loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, extra: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0].new_ones(())


# In other models ------------------------------------------------------------------------------------------------------

_NAME = "codebook"


def wrap_codebooks(
    model: nn.Module,
    targets: str | type | Sequence[str | type],
    num_codes: int,
    *,
    at: str = "output",
    channels: int | None = None,
    **options: Any,
) -> dict[str, CodebookLayer]:
    """Put a :class:`CodebookLayer` after (or before) layers of any model, of PyG or plain PyTorch too, in place.

    Each becomes a part ``codebook`` of its layer, so that the model's parameters and state dict hold it, and a hook
    calls it. :func:`unwrap_codebooks` undoes it.

    Args:
        model: the model.
        targets: names of its modules, as ``named_modules`` lists them, or classes.
        num_codes: codes of each group.
        at: ``"output"``, or ``"input"``: before the layer, such as before the output map of an attention.
        channels: width of the vectors; read from the layer if None.
        options: of :class:`CodebookLayer`.

    Returns:
        the codebooks by the name of their layers.

    Raises:
        ValueError: no module of that name or class, one that has a codebook already, a container that would run it by
            itself, a width that the layer does not tell.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> model = GCN(4, 8, num_layers=2)
        >>> list(wrap_codebooks(model, "convs.0", num_codes=16, k=2))
        ['convs.0']
        >>> model(torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 8])
    """
    check_choice(at, "at", ("output", "input"))
    wanted = [targets] if isinstance(targets, (str, type)) else list(targets)
    layers: dict[str, nn.Module] = {}
    for target in wanted:
        found = {
            name: part
            for name, part in model.named_modules()
            if (name == target if isinstance(target, str) else isinstance(part, target))
        }
        if not found:
            known = ", ".join(name for name, _ in model.named_modules() if name)
            raise ValueError(f"targets has {target!r}, which is no module or class of the model (it has {known})")
        layers |= found
    for name, layer in layers.items():
        if hasattr(layer, _NAME) or isinstance(layer, CodebookLayer):
            raise ValueError(f"{name} has a codebook already; unwrap_codebooks takes it off")
        if isinstance(layer, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            raise ValueError(f"{name} is a container; name one of its layers (got {type(layer).__name__})")
        if channels is None:
            _width(layer, at, name)
    made = {}
    for name, layer in layers.items():
        codebook = CodebookLayer(_width(layer, at, name) if channels is None else channels, num_codes, **options)
        parameter = next(iter([*layer.parameters(), *model.parameters()]), None)
        made[name] = codebook if parameter is None else codebook.to(parameter.device, parameter.dtype)
        made[name].train(layer.training)
        layer.add_module(_NAME, made[name])
        hook: Any = layer.register_forward_hook(_after) if at == "output" else layer.register_forward_pre_hook(_before)
        layer._codebook_hook = hook
    return made


def unwrap_codebooks(model: nn.Module) -> None:
    """Take off all codebooks that :func:`wrap_codebooks` put on."""
    for layer in [*model.modules()]:
        hook = layer.__dict__.pop("_codebook_hook", None)
        if hook is not None:
            # A copied model has hooks of its own, which the copied handle does not know.
            for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
                for key in [key for key, function in hooks.items() if function in (_after, _before)]:
                    del hooks[key]
            delattr(layer, _NAME)


def codebooks(model: nn.Module) -> dict[str, CodebookLayer]:
    """All codebooks of a model by the name of the layer that they belong to."""
    return {
        name.removesuffix(f".{_NAME}"): part for name, part in model.named_modules() if isinstance(part, CodebookLayer)
    }


# Functions, not closures: a copied or pickled model calls its own codebooks.
def _after(layer: nn.Module, inputs: Any, output: Any) -> Any:
    return layer.codebook(output)  # type: ignore[operator]


def _before(layer: nn.Module, inputs: Any) -> Any:
    return (layer.codebook(inputs[0]), *inputs[1:])  # type: ignore[operator]


def _width(layer: nn.Module, at: str, name: str) -> int:
    names = ("out_channels", "out_features") if at == "output" else ("in_channels", "in_features")
    for attribute in names:
        width = getattr(layer, attribute, None)
        if isinstance(width, int) and width > 0:
            heads = getattr(layer, "heads", 1) if at == "output" and getattr(layer, "concat", False) is True else 1
            return width * heads
    raise ValueError(f"channels must be given: {name} ({type(layer).__name__}) does not tell its width")


@contextmanager
def codebooks_off(model: nn.Module) -> Iterator[None]:
    """Inside, codebooks pass their inputs through unchanged: the model is what it was without them.

    Example:
        >>> model, x = nn.Linear(4, 8), torch.randn(5, 4)
        >>> plain = model(x)
        >>> _ = wrap_codebooks(nn.Sequential(model), "0", num_codes=16)
        >>> with codebooks_off(model):
        ...     bool((model(x) == plain).all())
        True
    """
    layers = list(codebooks(model).values())
    before = [layer._off for layer in layers]
    for layer in layers:
        layer._off = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._off = value


@contextmanager
def codes_forced(model: nn.Module, ids: Mapping[str, Tensor], where: Tensor | None = None) -> Iterator[None]:
    """Inside, layers take these codes, whatever their input is.

    Args:
        model: a model with codebooks, in eval mode.
        ids: for each layer by name its codes: ``[groups, k]`` for all vectors, or ``[N, groups, k]``.
        where: ``[N]`` bool, the vectors that are changed; all if None.

    Raises:
        ValueError: a model in training mode, no codebook of that name, or ids of another shape.
        IndexError: a code out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
        >>> _ = wrap_codebooks(model, "0", num_codes=16)
        >>> with codes_forced(model, {"0": torch.tensor([[3]])}):
        ...     out = model(torch.randn(5, 4))
        >>> bool((out == out[0]).all())
        True
    """
    chosen = _named(model, ids)
    for name, layer in chosen.items():
        layer._check_ids(ids[name])
        if ids[name].shape[-2:] != (layer.groups, layer.k):
            shape = list(ids[name].shape)
            raise ValueError(f"ids of {name} must end with [groups, k] = [{layer.groups}, {layer.k}] (got {shape})")
    for name, layer in chosen.items():
        layer._forced = (ids[name], where)
    try:
        yield
    finally:
        for layer in chosen.values():
            layer._forced = None


@contextmanager
def codes_blocked(model: nn.Module, ids: Mapping[str, Tensor], replace: bool = True) -> Iterator[None]:
    """Inside, these codes are not used.

    Args:
        model: a model with codebooks, in eval mode.
        ids: for each layer by name the codes ``[M]`` that are forbidden.
        replace: take the next best code instead; otherwise there is nothing in its place.

    Raises:
        ValueError: a model in training mode, no codebook of that name, or not k codes left.
        IndexError: a code out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
        >>> layer = wrap_codebooks(model, "0", num_codes=3)["0"].eval()
        >>> with codes_blocked(model, {"0": torch.tensor([0, 2])}):
        ...     _ = model(torch.randn(5, 4))
        >>> layer.last_ids.unique()
        tensor([1])
    """
    chosen = _named(model, ids)
    for name, layer in chosen.items():
        layer._check_ids(ids[name])
        left = layer.num_codes - ids[name].unique().numel()
        if replace and left < layer.k:
            raise ValueError(f"ids of {name} must leave k={layer.k} codes (got {left} left)")
    for name, layer in chosen.items():
        layer._blocked = (ids[name].reshape(-1), not replace)
    try:
        yield
    finally:
        for layer in chosen.values():
            layer._blocked = None


def _named(model: nn.Module, ids: Mapping[str, Tensor]) -> dict[str, CodebookLayer]:
    known = codebooks(model)
    for name in ids:
        check_choice(name, "layer", tuple(known))
    chosen = {name: known[name] for name in ids}
    if any(layer.training for layer in chosen.values()):
        raise ValueError("model must be in eval mode to change its codes (got training mode)")
    return chosen
