"""An MLP of few bits: trained with rounding in every step, stored and served in whole numbers."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.nn.models.code_distill_mlp import CodeDistillMLP
from graphkit.nn.quantize.fixed_point import DynamicFixedPointQuantizer, pack_bits, unpack_bits
from graphkit.nn.quantize.straight_through import straight_through
from graphkit.ops import spmm
from graphkit.ops.dropout import dropout as drop
from graphkit.utils.checks import check_int, check_probabilities
from graphkit.utils.io import atomic_write

VERSION = 1
# float32 adds whole numbers exactly up to here, in any order.
_EXACT = 2**24


class IntegerLayer(NamedTuple):
    """A linear map in whole numbers; ``codes @ weight.T + bias`` times ``2 ** (input_exponent + exponent)``.

    Attributes:
        weight: ``[out, in]`` integers.
        exponent: ``[out]``: a weight is its integer times ``2 ** exponent``.
        bias: ``[out]`` integers.
        low, high: the least and the largest integer of an input.
        input_exponent: an input is its integer times ``2 ** input_exponent``.
    """

    weight: np.ndarray
    exponent: np.ndarray
    bias: np.ndarray
    low: int
    high: int
    input_exponent: int


class IntegerMLP(nn.Module):
    r"""An MLP whose weights and activations are whole numbers of a few bits times powers of two, 4 and 8 bits unless
    told otherwise, as `"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    <https://arxiv.org/abs/1712.05877>`_ trains and serves them.

    .. math::
        q_x = \text{clamp}(\text{round}(x / s_x)), \qquad
        y_c = s_x s_c \Big( \sum_f Q_{cf} \, q_{x,f} + b_c \Big), \qquad x \leftarrow \text{ReLU}(y)

    Each output channel of a weight has a step :math:`s_c` that follows its values, each layer's input a step
    :math:`s_x` from the range that :meth:`calibrate` saw. That range is fixed, so what a row gets does not depend on
    the others. Biases are whole numbers on the grid of the sums, of 32 bits. While training, the weights are real
    numbers and every pass rounds them, with straight-through gradients.

    :meth:`save` writes the whole numbers and :func:`load_integer_mlp` serves them. Its answers are those of this module
    in eval mode, bit for bit, as long as sums of products stay below 2²⁴, where float32 is exact: with 4 and 8 bits
    that holds for 8,000 features. O(N F H) for dense features, O(nnz H) for sparse ones.

    Args:
        in_channels: width of the features.
        hidden_channels: width of the hidden layers.
        out_channels: number of classes.
        num_layers: number of linear maps.
        dropout: dropout after each hidden layer.
        w_bits: bits of a weight.
        a_bits: bits of an activation.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, dense or sparse CSR; a graph may follow and is not looked at
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a size out of range; bits outside 2 to 8 for weights, or 2 to 16 for activations.

    Example:
        >>> model = IntegerMLP(8, 16, 3)
        >>> model(torch.rand(5, 8)).shape
        torch.Size([5, 3])
        >>> IntegerMLP.from_student(CodeDistillMLP(8, 16, 3), torch.rand(5, 8))
        IntegerMLP(8, 3, layers=2, w_bits=4, a_bits=8)
    """

    takes_index = True
    ranges: Tensor

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        *,
        w_bits: int = 4,
        a_bits: int = 8,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = check_int(in_channels, "in_channels", 1), out_channels
        check_int(hidden_channels, "hidden_channels", 1)
        check_int(out_channels, "out_channels", 1)
        check_int(num_layers, "num_layers", 1)
        check_probabilities(dropout=dropout)
        self.dropout = dropout
        self.w_bits, self.a_bits = check_int(w_bits, "w_bits", 2, 8), check_int(a_bits, "a_bits", 2, 16)
        self.weight_quantizer = DynamicFixedPointQuantizer(w_bits, per_channel=True)
        self.activation_quantizer = DynamicFixedPointQuantizer(a_bits)
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(SparseLinear(a, b) for a, b in pairwise(widths))
        self.register_buffer("ranges", torch.tensor([[-1.0, 1.0]]).repeat(num_layers, 1))

    @classmethod
    def from_student(cls, student: CodeDistillMLP, x: Tensor, w_bits: int = 4, a_bits: int = 8) -> IntegerMLP:
        """A trained student with rounded weights, and ranges from the features ``x``; its code head is left out.

        Raises:
            ValueError: the student has norms.
        """
        linears = [block[0] for block in student.hidden] + [student.lin_out]  # type: ignore[index]
        if any(not isinstance(block[1], nn.Identity) for block in student.hidden):  # type: ignore[index]
            raise ValueError("student must have no norms, which are no whole numbers (norm=None)")
        dropout = student.hidden[0][3].p if len(student.hidden) else 0.0  # type: ignore[index]
        hidden = linears[0].out_features
        model = cls(
            student.in_channels, hidden, student.out_channels, len(linears), dropout, w_bits=w_bits, a_bits=a_bits
        ).to(linears[0].weight)
        for own, given in zip(model.layers, linears, strict=True):
            own.load_state_dict(given.state_dict())
        model.calibrate(x)
        return model

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for layer in self.layers:
            layer.reset_parameters()  # type: ignore[operator]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Take the range of every layer's input for the features ``x``, with weights that are not rounded.

        Raises:
            ValueError: no rows.
        """
        if x.size(0) == 0:
            raise ValueError("x must have at least one row to take ranges from (got none)")
        h = x
        for place, layer in enumerate(self.layers):
            # With the zeros that sparse features do not store.
            values = F.pad(h.values() if h.is_sparse_csr else h.flatten(), (0, 1))
            self.ranges[place] = torch.stack(torch.aminmax(values))
            h = F.relu(layer(h))

    def forward(self, x: Tensor, graph: Any = None) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}] (got {list(x.shape)})")
        for place, layer in enumerate(self.layers):
            values, x_step = self._rounded(x.values() if x.is_sparse_csr else x, place)
            if place:
                # After the rounding, so that the range is that of an evaluation.
                values = drop(values, self.dropout, self.training)
            codes, steps, passes = self.weight_quantizer.encode(layer.weight, True, None)  # type: ignore[arg-type]
            weight = straight_through(codes * steps, layer.weight, passes)  # type: ignore[arg-type]
            steps = torch.as_tensor(steps)[:, 0] * x_step
            bias = straight_through(_bias_codes(layer.bias, steps) * steps, layer.bias)  # type: ignore[arg-type]
            if x.is_sparse_csr:
                h = spmm(x.crow_indices(), x.col_indices(), weight.t().contiguous(), values)
            else:
                h = values @ weight.t()
            x = h + bias
            x = F.relu(x) if place < len(self.layers) - 1 else x
        return x

    @torch.no_grad()
    def integers(self) -> list[IntegerLayer]:
        """Every layer in whole numbers."""
        found = []
        for place, layer in enumerate(self.layers):
            assert isinstance(layer, SparseLinear)
            codes, steps, _ = self.weight_quantizer.encode(layer.weight, True, None)
            _, x_step = self._rounded(self.ranges[place], place)
            exponent = _exponent(torch.as_tensor(steps)[:, 0])
            bias = _bias_codes(layer.bias, torch.as_tensor(steps)[:, 0] * x_step).to(torch.int32)
            unsigned = bool(self.ranges[place, 0] >= 0)
            size = 2**self.a_bits
            low, high = (0, size - 1) if unsigned else (-size // 2, size // 2 - 1)
            found.append(
                IntegerLayer(
                    codes.to(torch.int16).cpu().numpy(),
                    exponent.cpu().numpy(),
                    bias.cpu().numpy(),
                    low,
                    high,
                    int(_exponent(x_step)),
                )
            )
        return found

    def to_bytes(self) -> bytes:
        """The file that :meth:`save` writes: an npz archive of plain arrays, weights packed in their bits.

        ``layout``: version, bits of weights and activations, widths. ``weight``: the integers as one stream of bits.
        ``bias``: int32. ``exponent``: int8, of all output channels, then of the layers' inputs. ``unsigned``: one bit
        for each of these: whether the integers start from zero.
        """
        layers = self.integers()
        widths = [self.in_channels, *(len(layer.bias) for layer in layers)]
        packed = pack_bits(torch.cat([torch.from_numpy(layer.weight).flatten() for layer in layers]), self.w_bits)
        unsigned = [(layer.weight >= 0).all(1) for layer in layers] + [np.array([layer.low == 0 for layer in layers])]
        exponents = [layer.exponent for layer in layers] + [np.array([layer.input_exponent for layer in layers])]
        content = io.BytesIO()
        np.savez(
            content,
            layout=np.array([VERSION, self.w_bits, self.a_bits, *widths], np.int32),
            weight=packed.numpy(),
            bias=np.concatenate([layer.bias for layer in layers]),
            exponent=np.concatenate(exponents).astype(np.int8),
            unsigned=np.packbits(np.concatenate(unsigned)),
        )
        return content.getvalue()

    def save(self, path: str | os.PathLike) -> Path:
        """Write the whole numbers to a file, wholly or not at all; :func:`load_integer_mlp` serves it.

        Raises:
            ValueError: the path does not end with ``.npz``.
        """
        place = Path(path)
        if place.suffix != ".npz":
            raise ValueError(f"path must end with .npz (got {str(path)!r})")
        content = self.to_bytes()
        with atomic_write(place, "wb") as file:
            file.write(content)
        return place

    def model_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.to_bytes())

    def _rounded(self, values: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """A layer's input in its format, and the step of that."""
        codes, step, passes = self.activation_quantizer.encode(values, True, self.ranges[place])
        return straight_through(codes * step, values, passes), torch.as_tensor(step)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, layers={len(self.layers)}"
        return f"{type(self).__name__}({sizes}, w_bits={self.w_bits}, a_bits={self.a_bits})"


def load_integer_mlp(path: str | os.PathLike) -> Callable[[Any], np.ndarray]:
    """The function that a file of :meth:`IntegerMLP.save` holds: features ``[N, F]`` to logits ``[N, C]``, in NumPy.
    Features may be a sparse matrix of SciPy.

    Features are rounded to whole numbers; products, sums and biases are whole numbers, which floats hold exactly as far
    as they are needed here, so that the fast products of floats serve. The weights are unpacked once, four or eight
    bytes each.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or none of :meth:`IntegerMLP.save`. Nothing in it is run.

    Example:
        >>> answer = load_integer_mlp(model.save("student.npz"))  # doctest: +SKIP
        >>> answer(x.numpy()).argmax(1)  # doctest: +SKIP
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
        layers = _layers(content)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, IndexError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or no file of IntegerMLP.save ({error})") from error
    ready = []
    for layer in layers:
        most = np.abs(layer.weight).sum(1, dtype=np.int64) * max(-layer.low, layer.high) + np.abs(layer.bias)
        kind: Any = np.float32 if int(most.max()) < _EXACT else np.float64
        scale = np.ldexp(np.ones(1, kind), layer.exponent + layer.input_exponent)
        ready.append((layer, layer.weight.T.astype(kind, order="C"), layer.bias.astype(kind), scale, kind))

    def answer(x: Any) -> np.ndarray:
        if x.ndim != 2 or x.shape[1] != layers[0].weight.shape[1]:
            raise ValueError(f"x must have shape [N, {layers[0].weight.shape[1]}] (got {list(x.shape)})")
        h = (
            scipy.sparse.csr_array(x).astype(np.float32)
            if scipy.sparse.issparse(x)
            else x.astype(np.float32, copy=False)
        )
        for place, (layer, weight, bias, scale, kind) in enumerate(ready):
            if place:
                h = np.maximum(h, 0)
            step = kind(2.0**-layer.input_exponent)
            codes = h.astype(kind, copy=False)
            if scipy.sparse.issparse(codes):  # zero is the whole number zero
                codes = codes.copy()
                codes.data = np.clip(np.rint(codes.data * step), layer.low, layer.high)
            else:
                codes = np.clip(np.rint(codes * step), layer.low, layer.high)
            h = ((codes @ weight + bias) * scale).astype(np.float32, copy=False)
        return h

    return answer


def _layers(content: dict[str, np.ndarray]) -> list[IntegerLayer]:
    """The layers of a file; a ``ValueError`` if its parts do not fit together."""
    version, w_bits, a_bits, *widths = (int(value) for value in content["layout"])
    if version != VERSION or not 2 <= w_bits <= 8 or not 2 <= a_bits <= 16 or len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"layout {content['layout'].tolist()}")
    outs, depth = widths[1:], len(widths) - 1
    sizes = [a * b for a, b in pairwise(widths)]
    count = sum(outs) + depth
    wanted = {
        "weight": (np.uint8, -(-sum(sizes) * w_bits // 8)),
        "bias": (np.int32, sum(outs)),
        "exponent": (np.int8, count),
        "unsigned": (np.uint8, -(-count // 8)),
    }
    for name, (kind, size) in wanted.items():
        if content[name].dtype != kind or content[name].shape != (size,):
            raise ValueError(f"{name} has {content[name].dtype} {list(content[name].shape)}, not [{size}]")
    unsigned = np.unpackbits(content["unsigned"], count=count).astype(bool)
    signed = unpack_bits(torch.from_numpy(content["weight"]), w_bits, (sum(sizes),)).numpy().astype(np.int16)
    found, begin, row = [], 0, 0
    for place, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        weight = signed[begin : begin + size].reshape(out, -1)
        weight = np.where(unsigned[row : row + out, None], weight & (2**w_bits - 1), weight)
        low, high = (0, 2**a_bits - 1) if unsigned[sum(outs) + place] else (-(2 ** (a_bits - 1)), 2 ** (a_bits - 1) - 1)
        exponent = content["exponent"][row : row + out].astype(np.int64)
        found.append(
            IntegerLayer(
                weight,
                exponent,
                content["bias"][row : row + out].astype(np.int64),
                low,
                high,
                int(content["exponent"][sum(outs) + place]),
            )
        )
        begin, row = begin + size, row + out
    return found


def _bias_codes(bias: Tensor, steps: Tensor) -> Tensor:
    return (bias / steps).round().clamp(-_EXACT // 2, _EXACT // 2)


def _exponent(step: Tensor) -> Tensor:
    """The whole number e of a step 2^e."""
    return torch.frexp(step)[1] - 1
