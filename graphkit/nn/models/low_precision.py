"""Graph networks whose every tensor has its own few bits, and the space of such networks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import softmax

from graphkit.nn.quantize.fixed_point import BinaryQuantizer, FixedPointQuantizer, MixedQuantizer, make_quantizer
from graphkit.nn.quantize.straight_through import Choice, straight_through, straight_through_mixture
from graphkit.ops import NeighborIndex, spmm
from graphkit.ops.dropout import dropout
from graphkit.utils.checks import check_choice, check_int, check_range, check_rows

# Attention scores with the weights that each needs. Those with weights are followed by a softmax over the neighbours.
ATTENTION: dict[str, tuple[str, ...]] = {
    "const": (),
    "gcn": (),
    "gat": ("left", "right"),
    "sym-gat": ("left", "right"),
    "cos": ("left_map", "right_map"),
    "linear": ("left",),
    "gene-linear": ("left_map", "right_map", "score"),
}
AGGREGATION = ("sum", "mean", "max")
ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "elu": F.elu,
}
_NOT_NEGATIVE = ("sigmoid", "softplus", "relu", "relu6")
_OPERATIONS = ("attention", "aggregation", "activation")
#: Tensors of a block that have a format each.
WEIGHTS = ("linear", "attention", "shortcut")
ACTIVATIONS = ("input", "hidden", "coefficients", "aggregated", "output")
WEIGHT_OPTIONS = ("binary", "ternary", "FIX1.3", "FIX2.4", "FIX2.6", "FIX4.12")
ACTIVATION_OPTIONS = ("FIX2.2", "FIX4.2", "FIX4.4", "FIX4.8", "FIX8.8")

Space = Mapping[str, Sequence[Any]]
Choices = Mapping[str, Choice]


class Source(NamedTuple):
    """What a block reads: ``x [N, width]``, how many of its columns are in use, and their mask (None: all)."""

    x: Tensor | SparseRows
    active: int
    mask: Tensor | None = None


class SparseRows(NamedTuple):
    """A CSR matrix whose values may carry a gradient."""

    rowptr: Tensor
    col: Tensor
    values: Tensor


@dataclass(frozen=True)
class Genotype:
    """A network of the space: what was chosen in each block.

    Args:
        in_channels: width of the features.
        blocks: for each block the option of every decision, see :func:`low_precision_space`.

    Raises:
        ValueError: no blocks, a decision that is missing or unknown, or an option that no space has.
    """

    in_channels: int
    blocks: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        check_int(self.in_channels, "in_channels", 1)
        if not self.blocks:
            raise ValueError("blocks must hold at least one block (got none)")
        for place, block in enumerate(self.blocks):
            check_space({name: (option,) for name, option in block.items()}, place, f"blocks[{place}]")
        last = self.blocks[-1]
        quantised = [name for name in ("format.aggregated", "format.output") if name in last]
        if last["activation"] != "none" or quantised:
            raise ValueError(
                "the last block gives the logits, in full precision and without activation (got "
                f"{', '.join([repr(last['activation']), *quantised])})"
            )

    @property
    def out_channels(self) -> int:
        """Width of the last block."""
        return int(self.blocks[-1]["width"])

    @staticmethod
    def take(in_channels: int, space: Sequence[Space], indices: Sequence[Mapping[str, int]] = ()) -> Genotype:
        """The network of some options of a space: the first ones where ``indices`` gives no other."""
        each = indices or [{}] * len(space)
        blocks = (
            {name: options[taken.get(name, 0)] for name, options in block.items()}
            for block, taken in zip(space, each, strict=True)
        )
        return Genotype(in_channels, tuple(blocks))

    def to_json(self) -> str:
        """As text, which :meth:`from_json` reads."""
        return json.dumps({"in_channels": self.in_channels, "blocks": [dict(block) for block in self.blocks]})

    @staticmethod
    def from_json(text: str) -> Genotype:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is no genotype.
        """
        try:
            content = json.loads(text)
            return Genotype(content["in_channels"], tuple(content["blocks"]))
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"text is no genotype ({type(error).__name__}: {error})") from error


def low_precision_space(
    base_channels: int,
    out_channels: int,
    num_blocks: int = 2,
    *,
    attention: Sequence[str] = tuple(ATTENTION),
    heads: Sequence[int] = (1, 2, 4, 8),
    aggregation: Sequence[str] = AGGREGATION,
    activation: Sequence[str] = tuple(ACTIVATION),
    widths: Sequence[float] = (0.25, 0.5, 1, 2),
    weight_options: Sequence[str] = WEIGHT_OPTIONS,
    activation_options: Sequence[str] = ACTIVATION_OPTIONS,
    shortcuts: bool = True,
) -> tuple[dict[str, tuple[Any, ...]], ...]:
    """The decisions of every block with their options.

    ``width``, ``attention``, ``heads``, ``aggregation``, ``activation``; ``shortcut<j>`` (closed or open) for each
    earlier output j that is not the block before, 0 being the features; ``format.<tensor>`` for the weights ``linear``,
    ``attention`` and ``shortcut`` and for the activations ``input``, ``hidden`` (the linear map's output),
    ``coefficients`` (of attention), ``aggregated`` and ``output``. The last block gives the logits: one head, no
    activation, and what it aggregates stays in full precision.

    Args:
        base_channels: width c of which the others are multiples.
        out_channels: number of classes.
        num_blocks: number of blocks.
        attention: among ``const``, ``gcn``, ``gat``, ``sym-gat``, ``cos``, ``linear`` and ``gene-linear``.
        heads: numbers of heads; each divides the largest, and every width or is a multiple of it.
        aggregation: among ``sum``, ``mean`` and ``max``.
        activation: among ``none``, ``sigmoid``, ``tanh``, ``softplus``, ``relu``, ``leaky_relu``, ``relu6``, ``elu``.
        widths: multiples of ``base_channels``.
        weight_options: formats of weights, see :func:`~graphkit.nn.quantize.make_quantizer`.
        activation_options: formats of activations: fixed point, or ``fp32``.
        shortcuts: whether earlier outputs may come in.

    Raises:
        ValueError: an empty list, an unknown option, or heads that do not fit the widths.

    Example:
        >>> first, last = low_precision_space(16, 7)
        >>> first["width"], last["width"], last["shortcut0"]
        ((4, 8, 16, 32), (7,), ('closed', 'open'))
    """
    check_int(base_channels, "base_channels", 1)
    check_int(out_channels, "out_channels", 1)
    check_int(num_blocks, "num_blocks", 1)
    space = []
    for place in range(num_blocks):
        last = place == num_blocks - 1
        weights = WEIGHTS if shortcuts and place > 0 else WEIGHTS[:-1]
        block: dict[str, tuple[Any, ...]] = {
            "width": (out_channels,) if last else tuple(int(base_channels * factor) for factor in widths),
            "attention": tuple(attention),
            "heads": (1,) if last else tuple(heads),
            "aggregation": tuple(aggregation),
            "activation": ("none",) if last else tuple(activation),
        }
        block |= {f"shortcut{j}": ("closed", "open") for j in range(place) if shortcuts}
        block |= {f"format.{tensor}": tuple(weight_options) for tensor in weights}
        block |= {f"format.{tensor}": tuple(activation_options) for tensor in ACTIVATIONS[: 3 if last else 5]}
        check_space(block, place, f"block {place}")
        space.append(block)
    return tuple(space)


def check_space(block: Space, place: int, name: str = "space") -> None:
    """Raise a ``ValueError`` unless every decision of the block number ``place`` is there, with options that exist."""
    earlier = [f"shortcut{j}" for j in range(place)]
    known: dict[str, Any] = {
        "attention": ATTENTION,
        "aggregation": AGGREGATION,
        "activation": ACTIVATION,
        **dict.fromkeys(earlier, ("closed", "open")),
    }
    formats = [f"format.{tensor}" for tensor in (*WEIGHTS, *ACTIVATIONS)]
    for decision, options in block.items():
        if not options:
            raise ValueError(f"{name} must give at least one option of {decision} (got none)")
        check_choice(decision, f"a decision of {name}", ("width", "heads", *known, *formats))
        for option in options:
            if decision in known:
                check_choice(option, decision, tuple(known[decision]))
            elif decision in formats:
                quantizer = make_quantizer(option)
                fixed = isinstance(quantizer, FixedPointQuantizer) or quantizer.name == "fp32"
                if decision.removeprefix("format.") in ACTIVATIONS and not fixed:
                    raise ValueError(f"{decision} must be FIXi.f or fp32, since it is no weight (got {option!r})")
            else:
                check_int(option, decision, 1)
    missing = [decision for decision in ("width", "heads", *_OPERATIONS, *formats[3:6]) if decision not in block]
    wanted = [decision for decision in ("format.linear", "format.attention") if decision not in block]
    wanted += ["format.shortcut"] * (any(j in block for j in earlier) and "format.shortcut" not in block)
    if missing or wanted:
        raise ValueError(f"{name} lacks {', '.join([*missing, *wanted])}")
    most = max(block["heads"])
    fits = all(width % heads == 0 or heads % width == 0 for width in block["width"] for heads in block["heads"])
    if any(most % heads for heads in block["heads"]) or not fits:
        raise ValueError(
            "heads must divide the largest of them, and every width or be a multiple of it (got heads "
            f"{tuple(block['heads'])} and widths {tuple(block['width'])})"
        )


class LPGNNBlock(nn.Module):
    r"""Linear map, attention, aggregation and activation, each with options, and a format for every tensor, as in
    `"Learned Low Precision Graph Neural Networks" <https://arxiv.org/abs/2009.09232>`_.

    .. math::
        h = W x, \qquad m_i = \operatorname{aggr}_{j \in N(i) \cup \{i\}} \alpha_{ij} h_j + b, \qquad y = \sigma(m)

    with every tensor but the bias quantised. Attention scores, the starred ones before a softmax over the neighbours:

    ============ ====================================================
    const        1
    gcn          :math:`1 / \sqrt{d_i d_j}`
    gat*         LeakyReLU of :math:`a_l \cdot h_i + a_r \cdot h_j`
    sym-gat*     gat of (i, j) and of (j, i)
    cos*         :math:`\langle W_l h_i, W_r h_j \rangle`
    linear*      :math:`\tanh(a_l \cdot h_j)`
    gene-linear* :math:`w_g \cdot \tanh(W_l h_i + W_r h_j)`
    ============ ====================================================

    A block whose decisions have one option each is a layer. With more options it needs the choices made, computes the
    chosen ones, and passes gradients to the probabilities (see
    :func:`~graphkit.nn.quantize.straight_through_mixture`); the options share weights: a narrower linear map is the
    first rows of the widest, and all attention scores read one h. Column c belongs to head ``c mod heads``, so that a
    column stays in its head whatever the width.

    Time O(N F W + E W), and O(E W) memory for the attentions ``cos`` and ``gene-linear`` and for ``max``; else no
    message is stored.

    Args:
        sources: widths of all earlier outputs, features first; the last one is the block before.
        space: decisions with their options, as :func:`low_precision_space` gives them.
        last: this block gives the logits: what it reads from earlier outputs is concatenated, so to speak (each has a
            linear map of its own to the logits), instead of mapped to the width of the block before and added.
        dropout: of the linear map's input while training.

    Shapes:
        - **input:** ``sources`` list of :class:`Source`, graph with self-loops as
          :class:`~graphkit.ops.NeighborIndex`, ``choices`` by decision (none for one option each)
        - **output:** :class:`Source` of ``[N, max(width)]``

    Raises:
        ValueError: a bad space, or a choice is missing.
    """

    def __init__(self, sources: Sequence[int], space: Space, last: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        check_space(space, len(sources) - 1)
        self.sources, self.last = tuple(sources), last
        self.space = {name: tuple(options) for name, options in space.items()}
        self.dropout = check_range(dropout, "dropout", 0, 1)
        self.width = max(self.space["width"])
        learned = any(ATTENTION[name] for name in self.space["attention"])
        # More heads than columns are as many heads as columns.
        self.heads = min(max(self.space["heads"]), self.width) if learned else 1
        self.linear = nn.Parameter(torch.empty(self.width, self.sources[-1]))
        self.bias = nn.Parameter(torch.empty(self.width))
        rows = self.width if last else self.sources[-1]
        self.shortcuts = nn.ParameterDict(
            {
                str(j): nn.Parameter(torch.empty(rows, width))
                for j, width in enumerate(self.sources[:-1])
                if "open" in self.space.get(f"shortcut{j}", ())
            }
        )
        needed = {weight for name in self.space["attention"] for weight in ATTENTION[name]}
        self.attention = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(self._shape(name))) for name in sorted(needed)}
        )
        formats = {name.removeprefix("format."): name for name in self.space if name.startswith("format.")}
        unused = ({"attention"} if not needed else set()) | ({"shortcut"} if not self.shortcuts else set())
        self.quantizers = nn.ModuleDict(
            {tensor: MixedQuantizer(self.space[name]) for tensor, name in formats.items() if tensor not in unused}
        )
        in_use = torch.arange(self.width) < torch.tensor(self.space["width"])[:, None]
        self.register_buffer("in_use", in_use.to(self.linear.dtype), persistent=False)
        self.reset_parameters()

    def _shape(self, weight: str) -> tuple[int, ...]:
        return (self.width, self.width) if weight.endswith("_map") else (self.width,)

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot, and zero for the bias."""
        for _, weight, _ in self.weights():
            bound = math.sqrt(6 / (weight.size(0) + (weight.size(1) if weight.dim() == 2 else 1)))
            nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def weights(self) -> list[tuple[str, nn.Parameter, str]]:
        """Every quantised weight with its name and the tensor whose format it has."""
        found = [("linear", self.linear, "linear")]
        found += [(f"shortcuts.{name}", weight, "shortcut") for name, weight in self.shortcuts.items()]
        return found + [(f"attention.{name}", weight, "attention") for name, weight in self.attention.items()]

    def forward(
        self,
        sources: Sequence[Source],
        graph: NeighborIndex,
        choices: Choices | None = None,
        sample: bool = False,
    ) -> Source:
        choices = choices or {}
        for name, options in self.space.items():
            if len(options) > 1 and name not in choices:
                raise ValueError(f"choices lacks {name}, which has {len(options)} options")
        run = _Run(self, choices, sample)
        if self.training:
            run.clip_binary_weights()
        *earlier, previous = sources
        x = previous.x
        if earlier:  # the features have been quantised before, see `quantize_features`
            assert isinstance(x, Tensor)
            if not self.last:
                for place, source in enumerate(earlier):
                    x = run.shortcut(x, place, source, previous)
            x = run.quantized("input", x)
        h = run.product(x, run.weight("linear", self.linear, (run.active, previous.active)))
        if self.last:
            for place, source in enumerate(earlier):
                read = source.x if place == 0 else run.quantized("input", source.x)
                h = run.shortcut(h, place, source._replace(x=read), None)
        h = run.quantized("hidden", run.masked(h))
        alpha = run.quantized("coefficients", run.coefficients(h, graph), signed=False)
        branches = [partial(aggregate, h, alpha, graph, how) for how in self.space["aggregation"]]
        summed = run.mixture("aggregation", branches) + self.bias
        aggregated = run.quantized("aggregated", summed) if "aggregated" in self.quantizers else summed
        name = self.space["activation"][run.choice("activation").taken]
        functions = [ACTIVATION[option] for option in self.space["activation"]]
        out = run.mixture("activation", [partial(f, aggregated) for f in functions])
        if "output" in self.quantizers:
            out = run.quantized("output", out, signed=name not in _NOT_NEGATIVE)
        # Once more: some activations of zero are not zero.
        return Source(run.masked(out), run.active, run.mask)

    def quantize_features(self, x: Tensor | SparseRows, choices: Choices | None = None) -> Tensor | SparseRows:
        """The features in the format of this block's input; what is zero stays zero."""
        choice = (choices or {}).get("format.input", Choice())
        if isinstance(x, SparseRows):
            return x._replace(values=self.quantizers["input"](x.values, choice))
        return self.quantizers["input"](x, choice)

    # Sizes ----------------------------------------------------------------------------------------------------------

    def width_of(self, choices: Choices) -> Any:
        """Width of the output, expected over the probabilities."""
        return _expected(self.space["width"], choices.get("width", Choice()))

    def opened(self, source: int, choices: Choices) -> Any:
        """Probability that a shortcut is open."""
        name = f"shortcut{source}"
        if str(source) not in self.shortcuts:
            return 0.0
        return _expected([float(option == "open") for option in self.space[name]], choices.get(name, Choice()))

    def weight_bits(self, choices: Choices, widths: Sequence[Any]) -> Any:
        """Bits of the weights, scales and bias for sources of these widths; expected over the probabilities."""
        width = self.width_of(choices)
        total = 32 * width + self._bits("linear", choices, [width * widths[-1]])
        for place in self.shortcuts:
            rows = width if self.last else widths[-1]
            total += self.opened(int(place), choices) * self._bits("shortcut", choices, [rows * widths[int(place)]])
        sizes = []
        for name in self.space["attention"]:
            shapes = [self._shape(weight) for weight in ATTENTION[name]]
            sizes.append(self._bits("attention", choices, [width ** len(shape) for shape in shapes]) if shapes else 0.0)
        return total + _expected(sizes, choices.get("attention", Choice()))

    def _bits(self, tensor: str, choices: Choices, sizes: Sequence[Any]) -> Any:
        quantizer = self.quantizers[tensor]
        assert isinstance(quantizer, MixedQuantizer)
        choice = choices.get(f"format.{tensor}", Choice())
        return quantizer.bits(choice) * sum(sizes) + quantizer.scale_bits(choice) * len(sizes)

    def live_bits(self, choices: Choices, previous: Any) -> Any:
        """Bits a node of the tensors that are alive together, at most: what a step reads and what it writes."""

        def bits(tensor: str) -> Any:
            return self._bits(tensor, choices, [1]) if tensor in self.quantizers else 32.0

        width = self.width_of(choices)
        read = previous * bits("input") if len(self.sources) > 1 else 0.0  # features are data, not a buffer
        written = width * bits("hidden")
        return _largest([read + written, written + width * bits("aggregated"), width * bits("output")])

    def output_bits(self, choices: Choices, width: Any) -> Any:
        """Bits of the output of a node."""
        return self._bits("output", choices, [width]) if "output" in self.quantizers else 32 * width

    def __repr__(self) -> str:
        several = ", ".join(f"{name}: {len(options)}" for name, options in self.space.items() if len(options) > 1)
        one = ", ".join(str(self.space[name][0]) for name in ("attention", "heads", "aggregation", "activation"))
        return f"{type(self).__name__}({self.sources[-1]}, {self.width}, {several or one})"


class _Run:
    """One forward pass of a block with the choices made."""

    def __init__(self, block: LPGNNBlock, choices: Choices, sample: bool) -> None:
        self.block, self.choices, self.sample = block, choices, sample
        choice = self.choice("width")
        self.active: int = block.space["width"][choice.taken]
        self.mask: Tensor | None = None
        if len(block.space["width"]) > 1:
            in_use = block.in_use
            assert isinstance(in_use, Tensor)
            hard = in_use[choice.taken]
            soft = None if choice.probs is None else choice.probs.to(in_use.dtype) @ in_use
            self.mask = hard if soft is None else straight_through(hard, soft)

    def choice(self, name: str) -> Choice:
        return self.choices.get(name, Choice())

    def mixture(self, name: str, branches: Sequence[Callable[[], Tensor]], chosen: Tensor | None = None) -> Tensor:
        return straight_through_mixture(branches, self.choice(name), chosen, self.sample)

    def quantized(self, tensor: str, x: Any, signed: bool = True) -> Tensor:
        return self.block.quantizers[tensor](x, self.choice(f"format.{tensor}"), signed=signed, sample=self.sample)

    def weight(self, tensor: str, weight: Tensor, active: Sequence[int]) -> Tensor:
        """A quantised weight; its scale is that of the part in use."""
        part = weight[tuple(slice(size) for size in active)]
        choice = self.choice(f"format.{tensor}")
        return self.block.quantizers[tensor](weight, choice, reference=part, sample=self.sample)

    @torch.no_grad()
    def clip_binary_weights(self) -> None:
        """Beyond one the gradient of a binary weight is zero, and it would never come back."""
        for _, weight, tensor in self.block.weights():
            quantizer = self.block.quantizers[tensor]
            assert isinstance(quantizer, MixedQuantizer)
            if isinstance(quantizer.taken(self.choice(f"format.{tensor}")), BinaryQuantizer):
                weight.clamp_(-1, 1)

    def masked(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask

    def product(self, x: Tensor | SparseRows, weight: Tensor) -> Tensor:
        p, training = self.block.dropout, self.block.training
        if isinstance(x, SparseRows):
            return spmm(x.rowptr, x.col, weight.t().contiguous(), dropout(x.values, p, training))
        return F.linear(dropout(x, p, training), weight)

    def shortcut(self, x: Tensor, place: int, source: Source, previous: Source | None) -> Tensor:
        """``x`` plus an earlier output, mapped to the width of the block before (in the last block, to the logits)."""
        if str(place) not in self.block.shortcuts:
            return x
        weight = self.block.shortcuts[str(place)]

        def mapped() -> Tensor:
            rows = self.active if previous is None else previous.active
            out = self.product(source.x, self.weight("shortcut", weight, (rows, source.active)))
            mask = None if previous is None else previous.mask
            return out if mask is None else out * mask

        options = {"closed": lambda: torch.zeros_like(x), "open": mapped}
        return x + self.mixture(
            f"shortcut{place}", [options[option] for option in self.block.space[f"shortcut{place}"]]
        )

    def coefficients(self, h: Tensor, graph: NeighborIndex) -> Tensor:
        """``[E, heads]`` attention coefficients, with as many columns as the most heads have."""
        space = self.block.space
        name = space["attention"][self.choice("attention").taken]
        numbers = [min(heads, self.block.width) for heads in space["heads"]]
        heads = numbers[self.choice("heads").taken]
        scores = [partial(self._coefficients, option, heads, h, graph) for option in space["attention"]]
        alpha = self.mixture("attention", scores)
        return self.mixture("heads", [partial(self._coefficients, name, number, h, graph) for number in numbers], alpha)

    def _coefficients(self, name: str, heads: int, h: Tensor, graph: NeighborIndex) -> Tensor:
        row, col = graph.row, graph.col
        if name == "const":
            alpha = h.new_ones(row.numel(), 1)
        elif name == "gcn":
            scale = graph.degree.to(h.dtype).rsqrt()
            alpha = (scale[row] * scale[col])[:, None]
        else:
            alpha = softmax(self._scores(name, heads, h, row, col), row, num_nodes=h.size(0))
        if alpha.size(1) == self.block.heads:
            return alpha
        # Column c of the most heads is in head c mod n of n heads.
        return alpha.repeat(1, self.block.heads // alpha.size(1))

    def _scores(self, name: str, heads: int, h: Tensor, row: Tensor, col: Tensor) -> Tensor:
        part = {
            weight: self.weight(
                "attention", self.block.attention[weight], (self.active,) * len(self.block._shape(weight))
            )
            for weight in ATTENTION[name]
        }

        def by_head(values: Tensor) -> Tensor:
            return values.unflatten(-1, (-1, heads)).sum(-2)

        if name == "linear":
            return torch.tanh(by_head(h * part["left"]))[col]
        if name in ("gat", "sym-gat"):
            left, right = by_head(h * part["left"]), by_head(h * part["right"])
            score = F.leaky_relu(left[row] + right[col], 0.2)
            return score if name == "gat" else score + F.leaky_relu(left[col] + right[row], 0.2)
        query, key = (self.masked(F.linear(h, part[weight])) for weight in ("left_map", "right_map"))
        if name == "cos":
            return by_head(query[row] * key[col])
        return by_head(torch.tanh(query[row] + key[col]) * part["score"])


def aggregate(h: Tensor, alpha: Tensor, graph: NeighborIndex, how: str) -> Tensor:
    """Sum, mean or maximum of ``alpha_ij h_j`` over the neighbours j of i; column c has those of head ``c mod heads``.
    O(E W) time; messages are stored for the maximum alone, of one head at a time."""
    heads = alpha.size(1)
    parts = []
    for head, weight in enumerate(alpha.t().contiguous()):
        part = h[:, head::heads].contiguous()
        if how == "max":
            messages = part[graph.col] * weight[:, None]
            row = graph.row[:, None].expand_as(messages)
            parts.append(part.new_zeros(part.shape).scatter_reduce(0, row, messages, "amax", include_self=False))
        else:
            parts.append(spmm(graph.rowptr, graph.col, part, weight))
    out = parts[0] if heads == 1 else torch.stack(parts, 2).flatten(1)
    return out / graph.degree.clamp(min=1).to(out.dtype)[:, None] if how == "mean" else out


def _expected(values: Sequence[Any], choice: Choice) -> Any:
    if choice.probs is None:
        return values[choice.taken]
    return sum(p * value for p, value in zip(choice.probs.double(), values, strict=True))


def _largest(values: Sequence[Any]) -> Any:
    if any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in values]).max()
    return max(values)


# Networks -------------------------------------------------------------------------------------------------------------


def make_blocks(in_channels: int, space: Sequence[Space], dropout: float = 0.0) -> nn.ModuleList:
    """The blocks of a space, each reading all outputs before it."""
    widths, blocks = [in_channels], nn.ModuleList()
    for place, options in enumerate(space):
        block = LPGNNBlock(widths, options, place == len(space) - 1, dropout)
        blocks.append(block)
        widths.append(block.width)
    return blocks


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    edge_index: NeighborIndex | Tensor,
    choices: Sequence[Choices],
    sample: bool = False,
) -> Tensor:
    """The logits ``[N, C]`` of a stack of blocks."""
    first = blocks[0]
    assert isinstance(first, LPGNNBlock)
    check_rows(x, first.sources[0])
    graph = NeighborIndex.of(edge_index, x.size(0)).with_self_loops()
    rows = SparseRows(x.crow_indices(), x.col_indices(), x.values()) if x.is_sparse_csr else x
    sources = [Source(first.quantize_features(rows, choices[0]), first.sources[0])]
    for block, chosen in zip(blocks, choices, strict=True):
        sources.append(block(sources, graph, chosen, sample))
    out = sources[-1].x
    assert isinstance(out, Tensor)
    return out


def model_bits(blocks: nn.ModuleList, choices: Sequence[Choices]) -> Any:
    """Bits of all weights, scales and biases; expected, and differentiable, where choices have probabilities."""
    total: Any = 0
    for block, chosen, widths in _with_widths(blocks, choices):
        total = total + block.weight_bits(chosen, widths)
    return total


def buffer_bits(blocks: nn.ModuleList, choices: Sequence[Choices]) -> Any:
    """Bits a node of the activations that are alive together, in the block where they are most.

    What a step reads and writes, and outputs of earlier blocks that a later shortcut reads. The features are data and
    coefficients of edges pass by one at a time; neither counts.
    """
    each, all_blocks = [], _with_widths(blocks, choices)
    for place, (block, chosen, widths) in enumerate(all_blocks):
        live = block.live_bits(chosen, widths[-1])
        for source in range(1, place + 1):
            # The block before is read here anyway, and stays only for those after this one.
            readers = all_blocks[place + 1 :] if source == place else all_blocks[place:]
            kept = _largest([0.0, *(reader.opened(source, c) for reader, c, _ in readers)])
            live = live + kept * all_blocks[source - 1][0].output_bits(choices[source - 1], widths[source])
        each.append(live)
    return _largest(each)


def _with_widths(blocks: nn.ModuleList, choices: Sequence[Choices]) -> list[tuple[LPGNNBlock, Choices, list[Any]]]:
    first = blocks[0]
    assert isinstance(first, LPGNNBlock)
    widths: list[Any] = [first.sources[0]]
    found = []
    for block, chosen in zip(blocks, choices, strict=True):
        assert isinstance(block, LPGNNBlock)
        found.append((block, chosen, list(widths)))
        widths.append(block.width_of(chosen))
    return found


class LowPrecisionGNN(nn.Module):
    """A graph network of a genotype: options of every block and a format for every tensor, as found by `"Learned Low
    Precision Graph Neural Networks" <https://arxiv.org/abs/2009.09232>`_.

    Training is aware of the quantisation: the weights are real numbers, and every forward pass rounds them, with
    straight-through gradients. Self-loops are added. See :class:`LPGNNBlock` for the layers and their cost.

    Args:
        genotype: the network, see :class:`Genotype`.
        dropout: of the input of every linear map while training.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex`
          (row i: the nodes that i hears from) or ``edge_index`` ``[2, E]`` with both directions of each edge
        - **output:** ``[N, out_channels]`` logits in full precision

    Raises:
        ValueError: the genotype is none of the space, or ``x`` has another width.

    Example:
        >>> one = {"attention": ["gat"], "heads": [2], "aggregation": ["sum"], "activation": ["relu"], "widths": [1]}
        >>> formats = {"weight_options": ["FIX1.3"], "activation_options": ["FIX4.4"]}
        >>> space = low_precision_space(8, 4, num_blocks=2, shortcuts=False, **one, **formats)
        >>> model = LowPrecisionGNN(Genotype.take(5, space))
        >>> model(torch.randn(3, 5), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 4])
        >>> model.model_bytes()  # 96 weights of 4 bits, 12 biases of 32 bits
        96
    """

    takes_index = True

    def __init__(self, genotype: Genotype, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(genotype, Genotype):
            raise TypeError(f"genotype must be a Genotype (got {type(genotype).__name__})")
        self.genotype, self.dropout = genotype, dropout
        self.in_channels, self.out_channels = genotype.in_channels, genotype.out_channels
        space = [{name: (option,) for name, option in block.items()} for block in genotype.blocks]
        self.blocks = make_blocks(genotype.in_channels, space, dropout)

    @classmethod
    def from_genotype(cls, text: str, dropout: float = 0.0) -> LowPrecisionGNN:
        """The network of :meth:`Genotype.to_json`'s text.

        Raises:
            ValueError: the text is no genotype.
        """
        return cls(Genotype.from_json(text), dropout)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        return run_blocks(self.blocks, x, edge_index, [{}] * len(self.blocks))

    def model_bytes(self) -> int:
        """Bytes of the weights in their formats, of their scales, and of the biases in full precision."""
        return math.ceil(model_bits(self.blocks, [{}] * len(self.blocks)) / 8)

    def buffer_bytes(self, num_nodes: int) -> int:
        """Bytes of the largest set of activations that are alive together, see :func:`buffer_bits`."""
        return math.ceil(check_int(num_nodes, "num_nodes", 0) * buffer_bits(self.blocks, [{}] * len(self.blocks)) / 8)

    @torch.no_grad()
    def export(self) -> dict[str, Any]:
        """The network in integers: ``genotype`` as text, ``weights`` (integers and scale by name) and ``biases``.

        :meth:`from_export` makes a network of them whose outputs are exactly those of this one. Integers come in the
        smallest type that torch has; :func:`~graphkit.nn.quantize.pack_bits` writes them in the bits of their format.

        Raises:
            RuntimeError: a weight is in full precision, which has no integers.
        """
        weights, biases = {}, {}
        for place, block in enumerate(self.blocks):
            assert isinstance(block, LPGNNBlock)
            for name, weight, tensor in block.weights():
                quantizer = block.quantizers[tensor]
                assert isinstance(quantizer, MixedQuantizer)
                weights[f"blocks.{place}.{name}"] = quantizer.taken(Choice()).to_int(weight)
            biases[f"blocks.{place}.bias"] = block.bias.detach().clone()
        return {"genotype": self.genotype.to_json(), "weights": weights, "biases": biases}

    @classmethod
    def from_export(cls, exported: Mapping[str, Any]) -> LowPrecisionGNN:
        """The network of :meth:`export`: weights are ``integers * scale``, activations are quantised as before."""
        genotype = Genotype.from_json(exported["genotype"])
        weights = {f"format.{tensor}" for tensor in WEIGHTS}
        blocks = ({name: "fp32" if name in weights else o for name, o in b.items()} for b in genotype.blocks)
        model = cls(Genotype(genotype.in_channels, tuple(blocks)))
        real = {name: codes.to(scale.dtype) * scale for name, (codes, scale) in exported["weights"].items()}
        model.load_state_dict({**real, **exported["biases"]})
        return model

    def __repr__(self) -> str:
        inside = "".join(f"\n  {block}" for block in self.blocks)
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels},{inside}\n)"
