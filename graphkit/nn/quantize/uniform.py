"""One bit width for all weights and one for all activations of any model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense import Linear

from graphkit.nn.quantize.fixed_point import DynamicFixedPointQuantizer, FullPrecision, Quantizer, make_quantizer

_LAYERS = (nn.Linear, Linear, MessagePassing)


def uniform_quantize(model: nn.Module, w_bits: int | str = 4, a_bits: int | str = 8) -> UniformQuantizedModel:
    """Quantise any GNN of this library or of PyG: every weight to ``w_bits`` and every activation to ``a_bits``.

    4 bits for weights and 8 for activations are about the least that works without a search, as `"Learned Low Precision
    Graph Neural Networks" <https://arxiv.org/abs/2009.09232>`_ observes.

    The result holds ``model`` itself, not a copy, and trains it with straight-through gradients (quantisation-aware);
    used without training it is post-training quantisation. ``model`` alone stays in full precision.

    - Weights are parameters of two or more dimensions, embeddings and attention vectors among them. Each row (output
      channel) has a step of its own, a power of two. Biases and norms stay as they are.
    - Activations are what goes into and comes out of linear maps and message-passing layers, and the attention
      coefficients of PyG's layers. A tensor has one step, a power of two taken from its values. The logits stay as they
      are.

    Args:
        model: the network.
        w_bits: bits of a weight, from 2; 32 for none. Or the name of a fixed format, such as ``"FIX1.3"``, with one
            range for all tensors.
        a_bits: the same for activations.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a number of bits out of range, an unknown format, or parameters without a shape until the first
            call.

    Example:
        >>> from torch_geometric.nn import GAT
        >>> quantized = uniform_quantize(GAT(16, 8, num_layers=2, out_channels=3, heads=2), w_bits=4, a_bits=8)
        >>> quantized(torch.randn(4, 16), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([4, 3])
    """
    return UniformQuantizedModel(model, w_bits, a_bits)


class UniformQuantizedModel(nn.Module):
    """A model with quantised weights and activations; see :func:`uniform_quantize`."""

    def __init__(self, model: nn.Module, w_bits: int | str, a_bits: int | str) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module (got {type(model).__name__})")
        lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
        if lazy:
            raise ValueError(
                f"model must have been called once, so that its parameters have shapes (got {lazy[0]} without)"
            )
        self.model = model
        self.weight_quantizer = _quantizer(w_bits, "w_bits", per_channel=True)
        self.activation_quantizer = _quantizer(a_bits, "a_bits", per_channel=False)
        self.w_bits, self.a_bits = self.weight_quantizer.bits, self.activation_quantizer.bits
        self.takes_index = getattr(model, "takes_index", False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.model.reset_parameters()  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weights = {name: self.weight_quantizer(weight) for name, weight in self._weights()}
        with self._quantizing_activations() as last:
            out = torch.func.functional_call(self.model, weights, args, kwargs)
        # A model that ends with a layer gives its logits.
        return last["before"] if last and out is last["after"] else out

    def model_bytes(self) -> int:
        """Bytes of the quantised weights, of their steps or scales, and of all else in full precision."""
        sizes = {name: weight.numel() * self.w_bits for name, weight in self._weights()}
        by_row = getattr(self.weight_quantizer, "per_channel", False)
        steps = sum(self.weight_quantizer.scale_bits * (len(w) if by_row else 1) for _, w in self._weights())
        rest = sum(32 * p.numel() for name, p in self.model.named_parameters() if name not in sizes)
        return math.ceil((sum(sizes.values()) + steps + rest) / 8)

    def _weights(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.dim() >= 2]

    @contextmanager
    def _quantizing_activations(self) -> Iterator[dict[str, Any]]:
        last: dict[str, Any] = {}

        def before(module: nn.Module, args: tuple) -> tuple:
            return (self._quantized(args[0]), *args[1:]) if args else args

        def after(module: nn.Module, args: Any, out: Any) -> Any:
            changed = self._quantized(out)
            last.update(before=out, after=changed)
            return changed

        handles = []
        for module in self.model.modules():
            if isinstance(module, _LAYERS):
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            if isinstance(module, MessagePassing):
                handles.append(module.register_edge_update_forward_hook(lambda _, args, out: self._quantized(out)))
        try:
            yield last
        finally:
            for handle in handles:
                handle.remove()

    def _quantized(self, x: Any) -> Any:
        """The same with every matrix of real numbers quantised."""
        if isinstance(x, tuple) and not hasattr(x, "_fields"):
            return tuple(self._quantized(part) for part in x)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        if x.is_sparse_csr:
            values = self.activation_quantizer(x.values())
            return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)
        return self.activation_quantizer(x) if x.layout == torch.strided else x

    def extra_repr(self) -> str:
        return f"weights: {self.weight_quantizer.name}, activations: {self.activation_quantizer.name}"


def _quantizer(bits: int | str, name: str, per_channel: bool) -> Quantizer:
    if isinstance(bits, str):
        return make_quantizer(bits)
    if bits == 32:
        return FullPrecision()
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 24:
        raise ValueError(f"{name} must be from 2 to 24, or 32 for full precision (got {bits!r})")
    return DynamicFixedPointQuantizer(bits, per_channel)
