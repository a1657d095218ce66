"""WKV, the recurrence of RWKV and SpikeGPT: attention whose weights fade with distance, as a scan."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import wkv as cpu
from graphkit.ops.scan import has_kernel, sequence_ptr


def wkv_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, ptr: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The time mixing of `"RWKV: Reinventing RNNs for the Transformer Era" <https://arxiv.org/abs/2305.13048>`_: in
    each channel a mean of the values read so far, by keys and distance,

    .. math:: y_t = \frac{\sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t}
                         {\sum_{i<t} e^{k_i - (t-1-i) w} + e^{u + k_t}}

    Sums are kept divided by the exponential of their largest exponent, so that keys of any size neither overflow nor
    vanish. O(N C) in compiled code, which the CPU and a GPU with Triton have, O(N C log L) elsewhere. Differentiable in
    k, v, w and u, not through the state. For the gradient nothing is stored but the inputs.

    Args:
        k: ``[N, C]`` keys, in logarithms.
        v: ``[N, C]`` values.
        w: ``[C]`` how fast a channel forgets, not negative.
        u: ``[C]`` what a token's own key gets on top.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        state: ``[B, 3, C]`` what was returned for the tokens before; nothing was read if None. For keys in half
            precision it is in float32.

    Returns:
        - ``[N, C]`` outputs
        - ``[B, 3, C]`` both sums and their exponent after the sequences

    Raises:
        ValueError: shapes that do not fit, a negative ``w`` (not looked at on a GPU).

    Example:
        >>> k, v = torch.zeros(3, 1), torch.tensor([[1.0], [2.0], [6.0]])
        >>> wkv_scan(k, v, torch.zeros(1), torch.zeros(1))[0].flatten()  # nothing fades: the mean so far
        tensor([1.0000, 1.5000, 3.0000])
    """
    if k.dim() != 2 or v.shape != k.shape:
        raise ValueError(f"k and v must be matrices [N, C] of one shape (got {list(k.shape)} and {list(v.shape)})")
    for name, value in (("w", w), ("u", u)):
        if value.shape != k.shape[1:]:
            raise ValueError(f"{name} must have shape {[k.size(1)]} for k {list(k.shape)} (got {list(value.shape)})")
    if w.device.type == "cpu" and not torch.compiler.is_compiling() and bool((w < 0).any()):
        raise ValueError(f"w must not be negative, or old tokens would grow (got {float(w.min()):g})")
    ptr = sequence_ptr(ptr, k)
    shape = (ptr.numel() - 1, 3, k.size(1))
    if state is None:
        state = empty_state(shape[0], k)
    elif state.shape != shape:
        raise ValueError(f"state must have shape {list(shape)}, three rows a sequence (got {list(state.shape)})")
    if not has_kernel(k, v, w, u, state):
        return wkv_scan_reference(k, v, w, u, ptr, state)
    return _wkv(k, v, w, u, state.detach(), ptr)


def empty_state(sequences: int, like: Tensor) -> Tensor:
    """``[B, 3, C]`` of sequences of which nothing was read."""
    state = like.new_zeros(sequences, 3, like.size(1), dtype=torch.promote_types(like.dtype, torch.float32))
    state[:, 2] = -torch.inf
    return state


def wkv_step(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each sequence: outputs ``[B, C]`` and the state after it, see :func:`wkv_scan`."""
    p, q, o = state.unbind(1)
    most = torch.maximum(o, u + k)
    past, now = (o - most).exp(), (u + k - most).exp()
    y = (past * p + now * v) / (past * q + now)
    return y.to(v.dtype), torch.stack(_joined((p, q, o - w), (v, torch.ones_like(v), k)), 1)


_Sums = tuple[Tensor, Tensor, Tensor]


def _joined(one: _Sums, two: _Sums) -> _Sums:
    """The sums of two runs of tokens together."""
    most = torch.maximum(one[2], two[2])
    left, right = (one[2] - most).exp(), (two[2] - most).exp()
    return left * one[0] + right * two[0], left * one[1] + right * two[1], most


def wkv_scan_reference(k: Tensor, v: Tensor, w: Tensor, u: Tensor, ptr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: runs of 2, 4, 8 ... tokens are put together, each from two halves."""
    state, tokens, dtype = state.detach(), k.size(0), v.dtype
    k, v, w, u = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (k, v, w, u))
    owner = torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=k.device), ptr.diff(), output_size=tokens)
    rank = torch.arange(tokens, device=k.device) - ptr[owner]
    sums: _Sums = (v, torch.ones_like(v), k)
    run, longest = 1, int(ptr.diff().max()) if ptr.numel() > 1 else 0
    while run < longest:
        reaches = (rank >= run)[run:, None]  # the run before lies in the same sequence
        before = (sums[0][:-run], sums[1][:-run], (sums[2][:-run] - run * w).masked_fill(~reaches, -torch.inf))
        after = _joined(before, (sums[0][run:], sums[1][run:], sums[2][run:]))
        sums = tuple(torch.cat([old[:run], new]) for old, new in zip(sums, after, strict=True))  # type: ignore[assignment]
        run *= 2
    # What was read before a token: the state, aged, and the tokens of the sequence before it.
    p, q, o = state.unbind(1)
    aged = (p[owner], q[owner], o[owner] - rank[:, None] * w)
    none = (rank == 0)[:, None]
    past = [part.roll(1, 0) for part in sums]
    past[2] = past[2].masked_fill(none, -torch.inf)
    # Both may be empty: then neither counts, and the exponent is any finite number.
    empty = none & (aged[2] == -torch.inf)
    past[2] = past[2].masked_fill(empty, 0)
    past[0], past[1] = past[0].masked_fill(none, 0), past[1].masked_fill(none, 0)
    read = _joined(aged, (past[0], past[1], past[2]))
    own = (v, torch.ones_like(v), u + k)
    total = _joined((read[0], read[1], read[2].masked_fill(empty, -torch.inf)), own)
    length = ptr.diff()
    last = (ptr[1:] - 1).clamp(min=0)
    ends = (p, q, o - length[:, None] * w)
    some = (length > 0)[:, None]
    if tokens:
        joined = _joined(ends, tuple(part[last] for part in sums))  # type: ignore[arg-type]
        ends = tuple(torch.where(some, new, old) for new, old in zip(joined, (p, q, o), strict=True))  # type: ignore[assignment]
    return (total[0] / total[1]).to(dtype), torch.stack(ends, 1).detach()


@torch.library.custom_op("graphkit::wkv_scan", mutates_args=())
def _wkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    if k.is_cuda:
        from graphkit.ops.cuda import recurrent_scan

        return recurrent_scan.wkv_scan(k, v, w, u, state, ptr)
    return cpu.wkv_scan(k, v, w, u, state, ptr)


@_wkv.register_fake
def _(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


@torch.library.custom_op("graphkit::wkv_scan_backward", mutates_args=())
def _wkv_backward(
    grad: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if k.is_cuda:
        from graphkit.ops.cuda import recurrent_scan

        return recurrent_scan.wkv_scan_backward(grad, k, v, w, u, state, ptr)
    return cpu.wkv_scan_backward(grad, k, v, w, u, state, ptr)


@_wkv_backward.register_fake
def _(
    grad: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape), w.new_empty(w.shape), u.new_empty(u.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad: Tensor, _state: Tensor):
    return *_wkv_backward(grad, *ctx.saved_tensors), None, None


_wkv.register_autograd(_gradients, setup_context=_setup)
