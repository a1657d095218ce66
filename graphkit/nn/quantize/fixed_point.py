"""Quantisers of few bits: fixed point, binary and ternary, the choice among several, and the bits in bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.nn.quantize.straight_through import Choice, straight_through, straight_through_mixture
from graphkit.utils.checks import check_int

_FIXED = re.compile(r"FIX(\d+)\.(\d+)")
# Whole numbers up to here are exact in float32.
_MOST_BITS = 24
# Whole numbers in the type of the values, their scale, and where the gradient passes (None: everywhere).
Encoded = tuple[Tensor, Tensor | float, Tensor | None]


class Quantizer(nn.Module):
    """What all quantisers share: real values in, values of few bits out, with a straight-through gradient.

    ``forward(x)`` returns ``codes * scale``, the codes being whole numbers; scales count as constants. All take the
    same arguments, so that one can replace another.

    Attributes:
        name: as :func:`make_quantizer` understands it.
        bits: bits of a value.
        scale_bits: bits kept for the whole tensor besides.
    """

    name = ""
    bits = 32
    scale_bits = 0

    def forward(self, x: Tensor, signed: bool = True, reference: Tensor | None = None) -> Tensor:
        """Quantised ``x``.

        Args:
            x: any shape.
            signed: whether values may be negative; without, a fixed-point format spends no bit on the sign.
            reference: the values from which a scale is taken, where it depends on values; ``x`` if None.
        """
        codes, scale, passes = self.encode(x, signed, reference)
        return straight_through(codes * scale, x, passes)

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        """What ``x`` becomes."""
        raise NotImplementedError

    @torch.no_grad()
    def to_int(self, x: Tensor, signed: bool = True) -> tuple[Tensor, Tensor]:
        """Integers of the smallest type that holds them, and the scale: ``integers * scale`` is ``forward(x)``.

        Raises:
            RuntimeError: this format has no integers.
        """
        codes, scale, _ = self.encode(x, signed, None)
        low, high = torch.aminmax(codes) if codes.numel() else (codes.sum(), codes.sum())
        kind = next((k for k in (torch.int8, torch.int16) if _holds(k, low, high)), torch.int32)
        return codes.to(kind), torch.as_tensor(scale, dtype=x.dtype, device=x.device)

    def extra_repr(self) -> str:
        return self.name


class FullPrecision(Quantizer):
    """No quantisation: the 32 bits of a float."""

    name = "fp32"

    def forward(self, x: Tensor, signed: bool = True, reference: Tensor | None = None) -> Tensor:
        return x

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        raise RuntimeError("fp32 has no integers; choose a quantised format for every weight")


class FixedPointQuantizer(Quantizer):
    r"""Fixed point with i integer bits, sign included, and f fraction bits, written FIXi.f.

    .. math::
        q = clamp(round(x \, 2^f), -2^{b-1}, 2^{b-1} - 1) \, / \, 2^f, \qquad b = i + f

    and from 0 to :math:`2^b - 1` where values are not negative. Rounds half to even. The gradient passes where the
    clamp changed nothing.

    Args:
        integer_bits: i, from 0.
        fraction_bits: f, from 0.

    Shapes:
        - **input:** any
        - **output:** the same

    Raises:
        ValueError: fewer than one bit in all, or more than 24.

    Example:
        >>> FixedPointQuantizer(2, 2)(torch.tensor([0.3, 0.375, 5.0, -5.0]))
        tensor([ 0.2500,  0.5000,  1.7500, -2.0000])
    """

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        super().__init__()
        self.integer_bits = check_int(integer_bits, "integer_bits", 0)
        self.fraction_bits = check_int(fraction_bits, "fraction_bits", 0)
        self.bits = check_int(self.integer_bits + self.fraction_bits, "bits", 1, _MOST_BITS)
        self.name = f"FIX{self.integer_bits}.{self.fraction_bits}"

    def limits(self, signed: bool = True) -> tuple[int, int]:
        """The smallest and the largest code."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if signed else (0, 2**self.bits - 1)

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        rounded = (x * 2.0**self.fraction_bits).round()
        codes = rounded.clamp(*self.limits(signed))
        return codes, 2.0**-self.fraction_bits, codes == rounded

    @torch.no_grad()
    def saturation(self, x: Tensor, signed: bool = True) -> float:
        """The share of values that the clamp changes."""
        inside = self.encode(x, signed, None)[2]
        assert inside is not None
        return 1 - float(inside.float().mean()) if x.numel() else 0.0


class DynamicFixedPointQuantizer(Quantizer):
    """Fixed point whose fraction bits follow the values: the step is the power of two with which the largest
    magnitude is in the upper half of the range, or less than a step above it.

    Values of which none is negative use the unsigned range. The gradient passes where the clamp changed nothing.

    Args:
        bits: bits of a value.
        per_channel: a step for each row (each output channel of a weight) instead of one for all.

    Shapes:
        - **input:** any; ``[C, ...]`` with ``per_channel``
        - **output:** the same

    Raises:
        ValueError: fewer than 2 bits, or more than 24.

    Example:
        >>> DynamicFixedPointQuantizer(4)(torch.tensor([0.3, -0.06, 0.01]))
        tensor([ 0.3125, -0.0625,  0.0000])
    """

    def __init__(self, bits: int, per_channel: bool = False) -> None:
        super().__init__()
        self.bits = check_int(bits, "bits", 2, _MOST_BITS)
        self.per_channel = per_channel
        self.scale_bits = 8  # a step's exponent
        self.name = f"dynamic {self.bits}"

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        known = (x if reference is None else reference).detach()
        if known.numel() == 0:
            return x, 1.0, None
        rows = known.flatten(1) if self.per_channel else known.reshape(1, -1)
        low, high = torch.aminmax(rows, dim=1)
        mantissa, _ = torch.frexp(-low)
        # The range reaches down to a power of two, and up to less than it.
        power = torch.maximum(_power_above(high), _power_above(-low) * torch.where(mantissa == 0.5, 0.5, 1.0))
        power, negative = torch.where(power > 0, power, 1.0), low < 0
        step = power * torch.where(negative, 2.0 ** (1 - self.bits), 2.0**-self.bits)
        low = torch.where(negative, -(2.0 ** (self.bits - 1)), 0.0)
        high = torch.where(negative, 2.0 ** (self.bits - 1) - 1, 2.0**self.bits - 1)
        shape = (-1, *[1] * (x.dim() - 1)) if self.per_channel else ()
        step, low, high = (part.to(x.dtype).reshape(shape) for part in (step, low, high))
        rounded = (x / step).round()
        codes = torch.minimum(torch.maximum(rounded, low), high)
        return codes, step, codes == rounded


class BinaryQuantizer(Quantizer):
    """Two values, plus and minus the mean magnitude: ``mean|x| * sign(x)``, zero counting as positive.

    As in `"XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks"
    <https://arxiv.org/abs/1603.05279>`_. The gradient passes where ``|x| <= 1``.

    Shapes:
        - **input:** any
        - **output:** the same

    Example:
        >>> BinaryQuantizer()(torch.tensor([1.0, -3.0, 0.0, 4.0]))
        tensor([ 2., -2.,  2.,  2.])
    """

    name = "binary"
    bits = 1
    scale_bits = 32

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        scale = _mean((x if reference is None else reference).detach().abs())
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype), scale, x.abs() <= 1


class TernaryQuantizer(Quantizer):
    r"""Three values, as in `"Ternary Weight Networks" <https://arxiv.org/abs/1605.04711>`_: :math:`a \, sign(x)` where
    :math:`|x| > T = 0.7 \, mean|x|`, else zero; a is the mean magnitude of those above T. All gradients pass.

    Shapes:
        - **input:** any
        - **output:** the same

    Example:
        >>> TernaryQuantizer()(torch.tensor([3.0, -1.0, 0.1, -0.1]))
        tensor([ 2., -2.,  0.,  0.])
    """

    name = "ternary"
    bits = 2
    scale_bits = 32

    def encode(self, x: Tensor, signed: bool, reference: Tensor | None) -> Encoded:
        size = (x if reference is None else reference).detach().abs()
        threshold = 0.7 * _mean(size)
        above = (size > threshold).to(x.dtype)
        scale = (size * above).sum() / above.sum().clamp(min=1)
        return torch.where(x.abs() > threshold, x.sign(), 0.0), scale, None


def _holds(kind: torch.dtype, low: Tensor, high: Tensor) -> bool:
    return torch.iinfo(kind).min <= float(low) and float(high) <= torch.iinfo(kind).max


def _power_above(x: Tensor) -> Tensor:
    """The least power of two above each positive value; 0 for others."""
    mantissa, _ = torch.frexp(x)
    # x = mantissa * 2^e with a mantissa from a half to one: the quotient of the two is exact.
    return torch.where(x > 0, x / mantissa, 0.0)


def _mean(x: Tensor) -> Tensor:
    return x.mean() if x.numel() else x.new_zeros(())


def make_quantizer(option: str | Quantizer) -> Quantizer:
    """The quantiser of a name: ``"fp32"``, ``"binary"``, ``"ternary"`` or ``"FIXi.f"``.

    Raises:
        ValueError: another name.

    Example:
        >>> make_quantizer("FIX4.4").bits
        8
    """
    if isinstance(option, Quantizer):
        return option
    known = {"fp32": FullPrecision, "binary": BinaryQuantizer, "ternary": TernaryQuantizer}
    if option in known:
        return known[option]()
    found = _FIXED.fullmatch(option) if isinstance(option, str) else None
    if found is None:
        raise ValueError(f"option must be fp32, binary, ternary or FIXi.f, such as FIX4.4 (got {option!r})")
    return FixedPointQuantizer(int(found[1]), int(found[2]))


class MixedQuantizer(nn.Module):
    """A choice among quantisers that learns which to take.

    The output is that of the most probable option. The gradient of the probability of option o is the inner product of
    the output's gradient with ``q_o(x)``, which is computed in the backward pass: one tensor is kept, however many
    options there are. See :func:`~graphkit.nn.quantize.straight_through_mixture`.

    Args:
        options: quantisers or their names.

    Shapes:
        - **input:** ``x`` of any shape; ``probs`` ``[num_options]`` (or a
          :class:`~graphkit.nn.quantize.Choice`), not needed for one option
        - **output:** as ``x``

    Raises:
        ValueError: no options, or probabilities of another length.

    Example:
        >>> mixed = MixedQuantizer(["binary", "FIX2.2"])
        >>> mixed(torch.tensor([0.3, -0.9]), torch.tensor([0.1, 0.9]))
        tensor([ 0.2500, -1.0000])
    """

    def __init__(self, options: Sequence[str | Quantizer]) -> None:
        super().__init__()
        if not options:
            raise ValueError("options must name at least one quantiser (got none)")
        made = [make_quantizer(option) for option in options]
        self.options = nn.ModuleList(made)
        self._bits = [quantizer.bits for quantizer in made]
        self._scale_bits = [quantizer.scale_bits for quantizer in made]

    def forward(
        self,
        x: Tensor,
        probs: Tensor | Choice | None = None,
        signed: bool = True,
        reference: Tensor | None = None,
        sample: bool = False,
    ) -> Tensor:
        if probs is None and len(self.options) > 1:
            raise ValueError(f"probs must be given for {len(self.options)} options (got None)")
        choice = _choice(probs)
        # One option at a time keeps x alone; the one that is taken keeps a mask besides.
        branches = [partial(option, x, signed, reference) for option in self.options]
        return straight_through_mixture(branches, choice, sample=sample)

    def taken(self, choice: Choice) -> Quantizer:
        """The quantiser of a decision."""
        option = self.options[choice.taken]
        assert isinstance(option, Quantizer)
        return option

    def bits(self, choice: Choice) -> Tensor | int:
        """Expected bits of a value."""
        return _expected(self._bits, choice)

    def scale_bits(self, choice: Choice) -> Tensor | int:
        """Expected bits of the scale."""
        return _expected(self._scale_bits, choice)


def _choice(probs: Tensor | Choice | None) -> Choice:
    if isinstance(probs, Tensor):
        return Choice(probs, int(probs.argmax()))
    return Choice() if probs is None else probs


def _expected(values: list[int], choice: Choice) -> Tensor | int:
    return values[choice.taken] if choice.probs is None else choice.probs @ choice.probs.new_tensor(values)


@torch.no_grad()
def saturation_rates(model: nn.Module, *inputs: Any) -> dict[str, float]:
    """The share of values outside the range of their fixed-point format, by the name of each :class:`MixedQuantizer`.

    Sums over many neighbours are what saturates first: a rate of more than a few percent at what a layer aggregates
    says that the format needs integer bits.

    Args:
        model: the network; called once in eval mode as ``model(*inputs)``.
        inputs: what it is called with.
    """
    found: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, MixedQuantizer):

            def record(quantizers: MixedQuantizer, args: tuple, options: dict[str, Any], name: str = name) -> None:
                taken = quantizers.taken(_choice(args[1] if len(args) > 1 else options.get("probs")))
                if isinstance(taken, FixedPointQuantizer):
                    found[name] = taken.saturation(args[0], options.get("signed", True))

            handles.append(module.register_forward_pre_hook(record, with_kwargs=True))
    was_training = model.training
    try:
        model.eval()(*inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers as a stream of ``bits`` bits each: ``ceil(numel * bits / 8)`` bytes, uint8.

    Args:
        codes: integers from ``-2**(bits-1)`` on (two's complement), or from 0 up to ``2**bits - 1``.
        bits: from 1.

    Raises:
        ValueError: a code that does not fit.

    Example:
        >>> pack_bits(torch.tensor([1, -1, 0]), bits=4)
        tensor([241,   0], dtype=torch.uint8)
    """
    flat = codes.reshape(-1).long()
    if flat.numel() and (int(flat.min()) < -(2 ** (bits - 1)) or int(flat.max()) >= 2**bits):
        raise ValueError(f"codes must fit into {bits} bits (got {int(flat.min())} to {int(flat.max())})")
    stream = (flat[:, None] >> torch.arange(bits, device=flat.device)) & 1
    stream = torch.nn.functional.pad(stream.reshape(-1), (0, -flat.numel() * bits % 8)).reshape(-1, 8)
    return (stream << torch.arange(8, device=flat.device)).sum(1).to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int, shape: Sequence[int], signed: bool = True) -> Tensor:
    """The int64 codes of :func:`pack_bits`.

    Example:
        >>> unpack_bits(pack_bits(torch.tensor([1, -1, 0]), bits=4), 4, (3,))
        tensor([ 1, -1,  0])
    """
    size = int(torch.Size(shape).numel())
    stream = (packed.long()[:, None] >> torch.arange(8, device=packed.device)) & 1
    flat = stream.reshape(-1)[: size * bits].reshape(size, bits)
    codes = (flat << torch.arange(bits, device=packed.device)).sum(1)
    if signed:
        codes = torch.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes)
    return codes.reshape(tuple(shape))
