"""The gates of a GRU, given the products of its input and its state."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import gru as cpu

_CPU_DTYPES = (torch.float32, torch.float64)


def gru_gates(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    r"""The new state of :class:`torch.nn.GRUCell` from the two products it begins with:

    .. math:: r, z = \sigma(i_{rz} + h_{rz}), \qquad n = \tanh(i_n + r h_n), \qquad h' = (1 - z) n + z h

    Apart from the products, so that they can be made of parts of which some carry no gradient. Differentiable in all
    arguments; on the CPU one pass over memory backward.

    Args:
        from_input: ``[n, 3 D]``, :math:`W_i m + b_i` for r, z and n.
        from_state: ``[n, 3 D]``, :math:`W_h h + b_h`.
        state: ``[n, D]``, h.

    Returns:
        ``[n, D]``.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> gru_gates(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([[4.0]]))
        tensor([[2.]])
    """
    wide = (state.size(0), 3 * state.size(1))
    if from_input.shape != wide or from_state.shape != wide:
        raise ValueError(
            f"from_input and from_state must have shape {list(wide)}, three times as wide as state (got "
            f"{list(from_input.shape)} and {list(from_state.shape)})"
        )
    if state.device.type != "cpu" or state.dtype not in _CPU_DTYPES:
        return gru_gates_reference(from_input, from_state, state)
    return _gates(from_input, from_state, state)[0]


def gru_gates_reference(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    width = 2 * state.size(1)
    r, z = torch.sigmoid(from_input[:, :width] + from_state[:, :width]).chunk(2, 1)
    return torch.lerp(torch.tanh(torch.addcmul(from_input[:, width:], r, from_state[:, width:])), state, z)


@torch.library.custom_op("graphkit::gru_gates", mutates_args=())
def _gates(from_input: Tensor, from_state: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = 2 * state.size(1)
    gates = torch.sigmoid_(from_input[:, :width] + from_state[:, :width])
    new = torch.tanh_(torch.addcmul(from_input[:, width:], gates[:, : width // 2], from_state[:, width:]))
    return torch.lerp(new, state, gates[:, width // 2 :]), gates, new


@_gates.register_fake
def _(from_input: Tensor, from_state: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(state), state.new_empty(state.shape[0], 2 * state.shape[1]), torch.empty_like(state)


@torch.library.custom_op("graphkit::gru_gates_backward", mutates_args=())
def _gates_backward(
    grad: Tensor, gates: Tensor, new: Tensor, from_state: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.gru_gates_backward(grad, gates, new, from_state, state)


@_gates_backward.register_fake
def _(grad: Tensor, gates: Tensor, new: Tensor, from_state: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(from_state), torch.empty_like(from_state), torch.empty_like(state)


def _setup(ctx, inputs, output) -> None:
    _, from_state, state = inputs
    ctx.save_for_backward(*output[1:], from_state, state)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, *_):
    return (None, None, None) if grad is None else _gates_backward(grad, *ctx.saved_tensors)


_gates.register_autograd(_backward, setup_context=_setup)
