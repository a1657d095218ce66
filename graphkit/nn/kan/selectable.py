"""A Kolmogorov-Arnold layer that holds several families of activations and learns which to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from graphkit.nn.kan.basis import FAMILIES, Basis, basis
from graphkit.utils.checks import (
    INDEX_DTYPES,
    check_choice,
    check_finite,
    check_int,
    check_like,
    check_range,
    check_rows,
)

PHASES = ("full", "selective", "pruned")
_BASES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}
# Values of the basis at once: 16 MB in float32.
_BLOCK = 2**22


class SelectableKANLinear(nn.Module):
    r"""A layer of `"Activation Space Selectable Kolmogorov-Arnold Networks" <https://arxiv.org/abs/2408.08338>`_: a
    learned function on every edge from an input to an output, made of several families of functions of which each input
    keeps one.

    .. math:: y_o = b_o + \sum_i \Big( w_{oi} \, \mathrm{SiLU}(x_i) +
              \sum_m \mathrm{softmax}_m(A_i / T) \sum_g c_{oimg} B^m_g(x_i) \Big)

    Training has three phases. *Full*: everything learns. *Selective*, after :meth:`select`: coefficients of families
    whose weight is below a threshold stand still, while the temperature T sinks. *Pruned*, after :meth:`prune`: each
    input has its heaviest family alone, the weight is folded into the coefficients, and the others are gone. With one
    family it is a Kolmogorov-Arnold layer (`"KAN: Kolmogorov-Arnold Networks" <https://arxiv.org/abs/2404.19756>`_).

    How the selection works is ours within what the paper's abstract says: a weighted combination of all families,
    phases, a decision for each input.

    With S functions of all families together: O(N I S (O + 1)) time and, since the ``[N, I, S]`` values of the
    functions are made in blocks of rows and made again for the gradient, O(N (I + O)) memory and a block of 16 MB.
    Nothing is computed for each pair of an input and an output and row. After pruning S is the number of functions of
    one family.

    Families live on about [-1, 1]. Outside, splines and wavelets are zero and polynomials constant: normalise the
    inputs, or call :meth:`fit_range`.

    Args:
        in_channels: I.
        out_channels: O.
        families: names of :func:`~graphkit.nn.kan.basis`.
        grid: every family has ``grid + order`` functions.
        order: order of the B-splines.
        per: what chooses a family: every input (``"node"``) or the whole layer (``"layer"``).
        base: ``"silu"`` or ``"gelu"``, the function beside the families.
        bias: add a bias.

    Attributes:
        phase: ``"full"``, ``"selective"`` or ``"pruned"``.
        temperature: T, a buffer.

    Shapes:
        - **input:** ``[..., in_channels]``
        - **output:** ``[..., out_channels]``

    Raises:
        TypeError: in a call, features of another type than the weights, or sparse ones.
        ValueError: no family, an unknown one or one twice, a size below 1, ``order`` below 0, ``prune`` before
            ``select``; in a call another width, or values that are not finite (splines would silently be zero).

    Example:
        >>> layer = SelectableKANLinear(2, 3, families=("bspline", "cheby"))
        >>> layer(torch.rand(5, 2)).shape
        torch.Size([5, 3])
        >>> layer.select()
        >>> layer.prune()
        >>> layer.kept_families()
        ['bspline', 'bspline']
    """

    logits: Tensor | None
    temperature: Tensor
    frozen: Tensor
    kept: Tensor
    center: Tensor
    scale: Tensor
    phase_number: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        families: Sequence[str] = ("bspline", "rbf", "cheby", "wavelet"),
        grid: int = 5,
        order: int = 3,
        per: str = "node",
        base: str = "silu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.families = (families,) if isinstance(families, str) else tuple(families)
        if not self.families:
            raise ValueError("families must name at least one family (got none)")
        for name in self.families:
            check_choice(name, "families", FAMILIES)
        if len({*self.families}) < len(self.families):
            raise ValueError(f"families must name each family once (got {', '.join(self.families)})")
        self.per = check_choice(per, "per", ("node", "layer"))
        self.base = check_choice(base, "base", tuple(_BASES))
        self.bases = nn.ModuleDict({name: basis(name, grid, order) for name in self.families})
        self.grid, self.order = grid, order
        size = grid + order
        self.base_weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.coefficients = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(in_channels, size, out_channels)) for name in self.families}
        )
        choosers = in_channels if per == "node" else 1
        several = len(self.families) > 1
        self.logits = nn.Parameter(torch.empty(choosers, len(self.families))) if several else None
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("frozen", torch.zeros(choosers, len(self.families), dtype=torch.bool))
        # Number of the family that each input has kept; -1 before pruning.
        self.register_buffer("kept", torch.full((in_channels,), -1))
        self.register_buffer("center", torch.zeros(in_channels))
        self.register_buffer("scale", torch.ones(in_channels))
        self.register_buffer("phase_number", torch.tensor(0))
        self._enter("full")
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew; all families weigh the same. What was pruned stays pruned."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for name, weight in self.coefficients.items():
            self._basis(name).reset_parameters()
            self._basis(name).init(weight)
        if self.logits is not None:
            nn.init.zeros_(self.logits)

    def forward(self, x: Tensor) -> Tensor:
        rows = check_input(x, self.in_channels, self.base_weight).reshape(-1, self.in_channels)
        out = F.linear(_BASES[self.base](rows), self.base_weight, self.bias)
        for inputs, names, weight in self._groups():
            part = rows if inputs is None else rows[:, inputs]
            center, scale = (v if inputs is None else v[inputs] for v in (self.center, self.scale))
            out = out + self._sum((part - center) * scale, names, weight)
        return out.view(*x.shape[:-1], self.out_channels)

    # Selection --------------------------------------------------------------------------------------------------------

    def selection_probs(self) -> Tensor:
        """``[in_channels, families]`` weights of the families; one-hot after pruning."""
        if self.phase == "pruned":
            return F.one_hot(self.kept, len(self.families)).to(self.base_weight.dtype)
        if self.logits is None:
            return self.base_weight.new_ones(self.in_channels, 1)
        return (self.logits / self.temperature).softmax(-1).expand(self.in_channels, -1)

    @torch.no_grad()
    def select(self, threshold: float = 0.5) -> None:
        """Begin the selective phase: coefficients of families of a weight below ``threshold / families`` stand still.

        Raises:
            ValueError: the layer is pruned, or ``threshold`` is not in [0, 1].
        """
        check_range(threshold, "threshold", 0, 1)
        if self.phase == "pruned":
            raise ValueError("select must come before prune (got a pruned layer)")
        if self.logits is not None:
            weight = (self.logits / self.temperature).softmax(-1)
            self.frozen.copy_(weight < threshold / len(self.families))
        self._enter("selective")

    @torch.no_grad()
    def prune(self, families: Tensor | None = None) -> None:
        """End the selective phase: each input keeps its heaviest family, at the weight that it has.

        Args:
            families: ``[in_channels]`` numbers of the families to keep instead.

        Raises:
            TypeError: ``families`` that are no numbers.
            ValueError: before :meth:`select`, or ``families`` of another shape.
            IndexError: a number that no family has.
        """
        if self.phase != "selective":
            raise ValueError(f"prune needs select before it (got a layer in phase {self.phase!r})")
        if families is not None and (not isinstance(families, Tensor) or families.dtype not in INDEX_DTYPES):
            got = families.dtype if isinstance(families, Tensor) else type(families).__name__
            raise TypeError(f"families must be a tensor of int64 numbers of families (got {got})")
        weight = self.selection_probs()
        kept = weight.argmax(1) if families is None else families.to(self.kept.device)
        if kept.shape != (self.in_channels,):
            raise ValueError(f"families must have shape [{self.in_channels}] (got {list(kept.shape)})")
        if int(kept.min()) < 0 or int(kept.max()) >= len(self.families):
            raise IndexError(f"families must be in [0, {len(self.families)}) (got {kept.tolist()})")
        folded = {
            name: (self.coefficients[name] * weight[:, m, None, None])[kept == m]
            for m, name in enumerate(self.families)
        }
        self._restructure(kept)
        for name, weight in self.coefficients.items():
            weight.copy_(folded[name])

    def kept_families(self) -> list[str]:
        """Name of the heaviest family of each input."""
        return [self.families[m] for m in self.selection_probs().argmax(1).tolist()]

    def regularization(self) -> Tensor:
        """Mean size of the coefficients plus mean entropy of the selection: an optional term of the loss."""
        total = sum(weight.abs().sum() for weight in self.coefficients.values())
        count = sum(weight.numel() for weight in self.coefficients.values())
        return total / count + torch.special.entr(self.selection_probs()).sum(-1).mean()

    @torch.no_grad()
    def fit_range(self, x: Tensor, quantile: float = 0.01) -> None:
        """Map each input from its range in ``x [N, in_channels]``, between two quantiles, to [-1, 1] from now on.

        Raises:
            TypeError: another type than the weights.
            ValueError: another shape, values that are not finite, or a quantile outside [0, 0.5).
        """
        check_range(quantile, "quantile", 0, 0.499)
        check_finite(check_rows(x, self.in_channels, self.base_weight))
        if not x.size(0):
            raise ValueError(f"x must have shape [N, {self.in_channels}], N > 0 (got {list(x.shape)})")
        low, high = torch.quantile(x, torch.tensor([quantile, 1 - quantile]).to(self.center), dim=0)
        self.center.copy_((low + high) / 2)
        self.scale.copy_(2 / (high - low).clamp(min=1e-6))

    @torch.no_grad()
    def activation(self, input: int, output: int, x: Tensor) -> Tensor:
        """The learned function on one edge, at the points ``x [P]``: what to plot.

        Raises:
            TypeError: points of another type than the weights.
            ValueError: points that are not finite.
            IndexError: no such input or output.
        """
        check_finite(check_like(x, self.base_weight))
        for name, value, size in (("input", input, self.in_channels), ("output", output, self.out_channels)):
            if not 0 <= check_int(value, name) < size:
                raise IndexError(f"{name} must be in [0, {size}) (got {value})")
        total = self.base_weight[output, input] * _BASES[self.base](x)
        for inputs, names, weight in self._groups():
            if inputs is None:
                row = weight[input]
            elif bool((inputs == input).any()):
                row = weight[int((inputs == input).nonzero())]
            else:
                continue
            values = self._values((x - self.center[input]) * self.scale[input], names)
            total = total + values @ row[:, output]
        return total

    # Evaluation -------------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[Tensor | None, tuple[str, ...], Tensor]]:
        """Which inputs (None: all) have which families, and their coefficients ``[inputs, functions, out]``."""
        if self.phase == "pruned":
            for m, name in enumerate(self.families):
                if name in self.coefficients:
                    yield (self.kept == m).nonzero()[:, 0], (name,), self.coefficients[name]
            return
        parts = []
        probs = self.selection_probs()
        for m, name in enumerate(self.families):
            weight: Tensor = self.coefficients[name]
            if self.phase == "selective":
                still = self.frozen[:, m].expand(self.in_channels)[:, None, None]
                weight = torch.where(still, weight.detach(), weight)
            parts.append(weight if self.logits is None else weight * probs[:, m, None, None])
        yield None, self.families, torch.cat(parts, 1)

    def _values(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """``[..., functions]`` of some families at every entry."""
        return torch.cat([self._basis(name)(x) for name in names], -1)

    def _sum(self, x: Tensor, names: tuple[str, ...], weight: Tensor) -> Tensor:
        """``[N, out]`` sums over inputs and functions, a block of rows at a time."""
        flat = weight.flatten(0, 1)

        def product(part: Tensor, flat: Tensor) -> Tensor:
            return self._values(part, names).flatten(1) @ flat

        size = max(1, _BLOCK // flat.size(0))
        if x.size(0) <= size:
            return product(x, flat)
        parts = x.split(size)
        if not torch.is_grad_enabled():
            return torch.cat([product(part, flat) for part in parts])
        # Each block forgets its values and makes them again in the backward pass.
        return torch.cat(
            [checkpoint(product, part, flat, use_reentrant=False, preserve_rng_state=False) for part in parts]
        )

    def _basis(self, name: str) -> Basis:
        family = self.bases[name]
        assert isinstance(family, Basis)
        return family

    # Structure --------------------------------------------------------------------------------------------------------

    def _restructure(self, kept: Tensor) -> None:
        """The parts of a pruned layer, without values."""
        self.kept = kept.to(self.kept)
        old = self.base_weight
        bases, self.bases, self.coefficients = self.bases, nn.ModuleDict(), nn.ParameterDict()
        for m, name in enumerate(self.families):
            count = int((kept == m).sum())
            if count:
                shape = (count, self.grid + self.order, self.out_channels)
                self.coefficients[name] = nn.Parameter(old.new_empty(shape))
                self.bases[name] = bases[name] if name in bases else basis(name, self.grid, self.order).to(old)
        self.logits = None
        self._enter("pruned")

    def _enter(self, phase: str) -> None:
        # A number beside the name, so that a state dict holds it.
        self.phase = phase
        self.phase_number.fill_(PHASES.index(phase))

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **kwargs: Any) -> None:
        # A pruned layer has other shapes than a new one.
        kept: Tensor = state_dict.get(f"{prefix}kept", self.kept)
        pruned = kept.shape == self.kept.shape and bool((kept >= 0).all())
        if pruned and not torch.equal(self.kept.cpu(), kept.cpu()):
            self._restructure(kept)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.phase = PHASES[int(self.phase_number)]

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, families={self.families}, phase={self.phase!r}"


def check_input(x: Tensor, channels: int, weight: Tensor) -> Tensor:
    """``x`` if it is a dense tensor ``[..., channels]`` of finite numbers that layers with ``weight`` take."""
    check_like(x, weight)
    if x.layout != torch.strided:
        raise TypeError(f"x must be dense (got {x.layout}); convert with .to_dense()")
    if x.dim() == 0 or x.size(-1) != channels:
        raise ValueError(f"x must have shape [..., {channels}] (got {list(x.shape)})")
    if x.is_cuda or torch.compiler.is_compiling():  # asserted there, so that a step need not wait
        torch._assert_async(torch.isfinite(x.detach()).all(), "x holds values that are not finite")
    return check_finite(x)
