"""Recurrences over the tokens of sequences: linear, selective (Mamba) and gated linear attention.

Sequences lie one after the other in ``[N, ...]``; ``ptr`` says where each begins. Each starts from an empty state.
Nothing is padded, any lengths mix, and ``reverse`` reads each sequence from its end. On the CPU a compiled loop keeps
the state in cache and stores nothing for each step; on a GPU with Triton, tiles of tokens are scanned in parallel and
memories are carried from chunk to chunk; elsewhere, and in other types, plain PyTorch runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import scan as cpu
from graphkit.ops.cuda import LONGEST_CHUNK, has_triton
from graphkit.utils.checks import check_device

_CPU_DTYPES = (torch.float32, torch.float64)
_CUDA_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def linear_scan(a: Tensor, x: Tensor, ptr: Tensor | None = None, reverse: bool = False) -> Tensor:
    r"""The recurrence :math:`h_t = a_t \odot h_{t-1} + x_t` within each sequence, :math:`h` before it being zero.

    O(N F) on the CPU, O(N F log L) elsewhere. Differentiable in both. To go on from a state ``h``, add ``a * h`` to the
    first ``x``.

    Args:
        a: ``[N, F]`` decays.
        x: ``[N, F]`` inputs.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        reverse: read sequences from their ends.

    Returns:
        ``[N, F]``.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> linear_scan(torch.full((3, 1), 0.5), torch.ones(3, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    if a.dim() != 2 or a.shape != x.shape:
        raise ValueError(f"a and x must be matrices [N, F] of one shape (got {list(a.shape)} and {list(x.shape)})")
    ptr = sequence_ptr(ptr, x)
    if not has_kernel(a, x):
        return linear_scan_reference(a, x, ptr, reverse)
    return _linear(a, x, ptr, reverse)


def linear_scan_reference(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool = False) -> Tensor:
    """The same in plain PyTorch: runs of 2, 4, 8 ... tokens are put together, each from two halves."""
    if reverse:
        return linear_scan_reference(a.flip(0), x.flip(0), x.size(0) - ptr.flip(0)).flip(0)
    first = torch.zeros(x.size(0) + 1, dtype=torch.bool, device=x.device).index_fill_(0, ptr, True)[:-1]
    # Zero at a sequence's first token, so that no run reaches over its beginning.
    a = a.masked_fill(first[:, None], 0)
    run, longest = 1, int(ptr.diff().max()) if ptr.numel() > 1 else 0
    while run < longest:
        x = torch.cat([x[:run], torch.addcmul(x[run:], a[run:], x[:-run])])
        a = torch.cat([a[:run], a[run:] * a[:-run]])
        run *= 2
    return x


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor | None = None,
    ptr: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    r"""The selective state space of `"Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
    <https://arxiv.org/abs/2312.00752>`_: for each channel e a state of n numbers,

    .. math:: h_t = e^{\Delta_{te} A_e} \odot h_{t-1} + \Delta_{te} x_{te} B_t, \qquad
              y_{te} = \langle C_t, h_t \rangle + D_e x_{te}

    A token with :math:`\Delta = 0` leaves the state as it is. O(N E n) on the CPU with O(L n) memory beyond the result;
    elsewhere ``[N, E, n]`` numbers are stored. Differentiable in all arguments.

    Args:
        x: ``[N, E]`` inputs.
        dt: ``[N, E]`` step widths :math:`\Delta`, not negative.
        a: ``[E, n]`` rates A, negative.
        b: ``[N, n]``.
        c: ``[N, n]``.
        skip: ``[E]``, D; zero if None.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        reverse: read sequences from their ends.

    Returns:
        ``[N, E]``.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> x, one = torch.tensor([[1.0], [0.0]]), torch.ones(2, 1)
        >>> selective_scan(x, one, torch.tensor([[-1.0]]), one, one).flatten()
        tensor([1.0000, 0.3679])
    """
    skip = x.new_zeros(a.size(0)) if skip is None else skip
    (tokens, channels), size = x.shape, a.size(-1)
    wanted = {"dt": (tokens, channels), "a": (channels, size), "b": (tokens, size), "c": (tokens, size)}
    for (name, shape), given in zip([*wanted.items(), ("skip", (channels,))], (dt, a, b, c, skip), strict=True):
        if given.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)} for x {list(x.shape)} (got {list(given.shape)})")
    ptr = sequence_ptr(ptr, x)
    if not has_kernel(x, dt, a, b, c, skip):
        return selective_scan_reference(x, dt, a, b, c, skip, ptr, reverse)
    return _selective(x, dt, a, b, c, skip, ptr, reverse)


def selective_scan_reference(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool = False
) -> Tensor:
    """The same in plain PyTorch."""
    decay = torch.exp(dt[:, :, None] * a)
    entering = (dt * x)[:, :, None] * b[:, None]
    h = linear_scan_reference(decay.flatten(1), entering.flatten(1), ptr, reverse).view_as(decay)
    return torch.einsum("ten,tn->te", h, c) + skip * x


def gla_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    ptr: Tensor | None = None,
    state: Tensor | None = None,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Gated linear attention, as in `"Gated Linear Attention Transformers with Hardware-Efficient Training"
    <https://arxiv.org/abs/2312.06635>`_: for each head a matrix of memory,

    .. math:: S_t = \mathrm{diag}(e^{g_t}) S_{t-1} + k_t v_t^\top, \qquad o_t = s \, q_t^\top S_t

    The decay acts before the token is written. One decay a head instead of one a channel (``g`` of width 1) is the
    state space dual of `"Transformers are SSMs" <https://arxiv.org/abs/2405.21060>`_. A token with k, v and g zero
    leaves the memory as it is. O(N H d_k d_v); differentiable in q, k, v, g and the state.

    Args:
        q: ``[N, H, d_k]``.
        k: ``[N, H, d_k]``.
        v: ``[N, H, d_v]``.
        g: ``[N, H, d_k]`` or ``[N, H, 1]`` logarithms of decays, not positive.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        state: ``[B, H, d_k, d_v]`` memories before the sequences; zero if None.
        scale: s; :math:`1 / \sqrt{d_k}` if None.
        reverse: read sequences from their ends.

    Returns:
        - ``[N, H, d_v]`` outputs
        - ``[B, H, d_k, d_v]`` memories after the sequences

    Raises:
        ValueError: shapes that do not fit, a decay above 1.

    Example:
        >>> one = torch.ones(3, 1, 1)
        >>> out, state = gla_scan(one, one, one, g=torch.full((3, 1, 1), 0.5).log())
        >>> out.flatten(), state.flatten()
        (tensor([1.0000, 1.5000, 1.7500]), tensor([1.7500]))
    """
    if q.dim() != 3 or k.shape != q.shape or v.dim() != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(
            "q and k must have shape [N, H, d_k] and v [N, H, d_v] "
            f"(got {list(q.shape)}, {list(k.shape)} and {list(v.shape)})"
        )
    if g.shape[:-1] != q.shape[:-1] or g.size(-1) not in (1, q.size(2)):
        raise ValueError(f"g must have shape {list(q.shape)}, or 1 in place of d_k (got {list(g.shape)})")
    check_device(q=q, k=k, v=v, g=g)
    # NumPy, as PyTorch's threads would go on spinning beside the kernel's; a GPU is not waited for.
    if g.device.type == "cpu" and g.dtype in _CPU_DTYPES and g.numel() and not torch.compiler.is_compiling():
        largest = float(g.detach().numpy().max())
        if largest > 0:
            raise ValueError(f"g must hold logarithms of decays, none above 0 (got {largest:.6g})")
    ptr = sequence_ptr(ptr, q)
    shape = (ptr.numel() - 1, q.size(1), q.size(2), v.size(2))
    state = v.new_zeros(shape) if state is None else state
    if state.shape != shape:
        raise ValueError(
            f"state must have shape {list(shape)}, one memory a sequence and head (got {list(state.shape)})"
        )
    scale = q.size(2) ** -0.5 if scale is None else scale
    if not has_kernel(q, k, v, g, state):
        return gla_scan_reference(q, k, v, g, ptr, state, scale=scale, reverse=reverse)
    return _gated(q, k, v, g, state, scale, ptr, reverse)[:2]


def gla_scan_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    ptr: Tensor,
    state: Tensor,
    *,
    scale: float,
    reverse: bool = False,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, in chunks of tokens: products of matrices within one, a loop from one to the next.

    Decays are multiplied as differences of sums of ``g``, never positive, so that nothing overflows. Stores
    O(N H chunk d_k) numbers.
    """
    length = int(ptr.diff().max()) if ptr.numel() > 1 else 0
    sequences, (tokens, heads, size) = ptr.numel() - 1, q.shape
    chunks = max(1, -(-length // chunk))
    rank = torch.arange(tokens, device=q.device) - torch.repeat_interleave(ptr[:-1], ptr.diff(), output_size=tokens)
    number = torch.repeat_interleave(torch.arange(sequences, device=q.device), ptr.diff(), output_size=tokens)
    if reverse:
        rank = ptr.diff()[number] - 1 - rank
    slot = number * (chunks * chunk) + rank

    def padded(t: Tensor) -> Tensor:  # [B, H, chunks, chunk, d]; zeros are neutral
        rows = t.new_zeros(sequences * chunks * chunk, *t.shape[1:]).index_copy(0, slot, t)
        return rows.view(sequences, chunks, chunk, heads, -1).permute(0, 3, 1, 2, 4)

    query, key, value = padded(q) * scale, padded(k), padded(v)
    gate = padded(g.expand(-1, -1, size)).cumsum(3)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    difference = gate[..., :, None, :] - gate[..., None, :, :]
    decay = difference.masked_fill(later[..., None], -torch.inf).exp()
    within = torch.einsum("bhcid,bhcijd,bhcjd->bhcij", query, decay, key) @ value
    end = gate[..., -1:, :]
    written = (key * (end - gate).exp()).transpose(-1, -2) @ value
    kept = end.squeeze(-2).exp()[..., None]
    before = []
    for i in range(chunks):
        before.append(state)
        state = kept[:, :, i] * state + written[:, :, i]
    out = within + (query * gate.exp()) @ torch.stack(before, 2)
    rows = out.permute(0, 2, 3, 1, 4).reshape(sequences * chunks * chunk, heads, -1)
    return rows[slot], state


def ssd_scan(
    x: Tensor, log_a: Tensor, b: Tensor, c: Tensor, ptr: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    r"""The state space dual of `"Transformers are SSMs" <https://arxiv.org/abs/2405.21060>`_, whose state decays alike
    in all its numbers: :math:`S_t = a_t S_{t-1} + B_t x_t^\top`, :math:`y_t = C_t^\top S_t` for each head.

    Args:
        x: ``[N, H, P]`` inputs, times their step widths.
        log_a: ``[N, H]`` logarithms of decays, not positive.
        b: ``[N, n]``, the same for all heads.
        c: ``[N, n]``, the same for all heads.
        ptr: ``[B + 1]`` first token of each sequence, ending with N; one sequence if None.
        reverse: read sequences from their ends.

    Returns:
        ``[N, H, P]``.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> ssd_scan(torch.ones(2, 1, 1), torch.zeros(2, 1), torch.ones(2, 3), torch.ones(2, 3)).flatten()
        tensor([3., 6.])
    """
    if x.dim() != 3 or b.shape != c.shape or b.dim() != 2 or log_a.shape != x.shape[:2] or b.size(0) != x.size(0):
        raise ValueError(
            "x, log_a, b and c must have shapes [N, H, P], [N, H], [N, n] and [N, n] "
            f"(got {list(x.shape)}, {list(log_a.shape)}, {list(b.shape)} and {list(c.shape)})"
        )
    heads = (-1, x.size(1), -1)
    return gla_scan(
        c[:, None].expand(heads), b[:, None].expand(heads), x, log_a[..., None], ptr, scale=1.0, reverse=reverse
    )[0]


def sequence_ptr(ptr: Tensor | None, x: Tensor) -> Tensor:
    """``ptr`` if it can be that of ``x``'s rows; of one sequence if None."""
    if ptr is None:
        return x.size(0) * torch.arange(2, device=x.device)  # made there: a copy to a GPU would wait
    if not isinstance(ptr, Tensor):
        raise TypeError(f"ptr must be a torch.Tensor of int64 (got {type(ptr).__name__})")
    if ptr.dim() != 1 or ptr.numel() == 0 or ptr.dtype != torch.int64:
        raise ValueError(f"ptr must be a vector of int64 that begins with 0 (got {list(ptr.shape)} {ptr.dtype})")
    check_device(x=x, ptr=ptr)
    # On a GPU the values are not read, so that no step waits.
    if ptr.device.type != "cpu" or torch.compiler.is_compiling():
        return ptr
    if int(ptr[0]) != 0 or int(ptr[-1]) != x.size(0) or bool((ptr.diff() < 0).any()):
        raise ValueError(f"ptr must ascend from 0 to the number of tokens {x.size(0)} (got {ptr.tolist()[:10]})")
    return ptr


def has_kernel(*tensors: Tensor) -> bool:
    """Whether compiled code takes these; on a GPU types may mix, as they do under autocast."""
    if all(t.is_cuda for t in tensors):
        return all(t.dtype in _CUDA_DTYPES for t in tensors) and has_triton()
    return all(t.device.type == "cpu" and t.dtype == tensors[0].dtype and t.dtype in _CPU_DTYPES for t in tensors)


@torch.library.custom_op("graphkit::linear_scan", mutates_args=())
def _linear(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool) -> Tensor:
    if x.is_cuda:
        from graphkit.ops.cuda import state_scan

        return state_scan.linear_scan(a, x, ptr, reverse)
    return cpu.linear_scan(a, x, ptr, reverse)


@_linear.register_fake
def _(a: Tensor, x: Tensor, ptr: Tensor, reverse: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("graphkit::linear_scan_backward", mutates_args=())
def _linear_backward(grad: Tensor, a: Tensor, h: Tensor, ptr: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    if grad.is_cuda:
        from graphkit.ops.cuda import state_scan

        return state_scan.linear_scan_backward(grad, a, h, ptr, reverse)
    return cpu.linear_scan_backward(grad, a, h, ptr, reverse)


@_linear_backward.register_fake
def _(grad: Tensor, a: Tensor, h: Tensor, ptr: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape)


def _setup_linear(ctx, inputs, output) -> None:
    a, _, ptr, ctx.reverse = inputs
    ctx.save_for_backward(a, output, ptr)


def _linear_gradients(ctx, grad: Tensor):
    a, h, ptr = ctx.saved_tensors
    return *_linear_backward(grad, a, h, ptr, ctx.reverse), None, None


_linear.register_autograd(_linear_gradients, setup_context=_setup_linear)


@torch.library.custom_op("graphkit::selective_scan", mutates_args=())
def _selective(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> Tensor:
    if x.is_cuda:
        from graphkit.ops.cuda import state_scan

        return state_scan.selective_scan(x, dt, a, b, c, skip, ptr, reverse)
    return cpu.selective_scan(x, dt, a, b, c, skip, ptr, reverse)


@_selective.register_fake
def _(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("graphkit::selective_scan_backward", mutates_args=())
def _selective_backward(
    grad: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> list[Tensor]:
    if grad.is_cuda:
        from graphkit.ops.cuda import state_scan

        return state_scan.selective_scan_backward(grad, x, dt, a, b, c, skip, ptr, reverse)
    return cpu.selective_scan_backward(grad, x, dt, a, b, c, skip, ptr, reverse)


@_selective_backward.register_fake
def _(
    grad: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, ptr: Tensor, reverse: bool
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, dt, a, b, c, skip)]


def _setup_selective(ctx, inputs, output) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _selective_gradients(ctx, grad: Tensor):
    return *_selective_backward(grad, *ctx.saved_tensors, ctx.reverse), None, None


_selective.register_autograd(_selective_gradients, setup_context=_setup_selective)


@torch.library.custom_op("graphkit::gla_scan", mutates_args=())
def _gated(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, states, and what the gradient reads again: on a GPU the scores within chunks."""
    if q.is_cuda:
        from graphkit.ops.cuda import gated_scan

        return gated_scan.gla_scan(q, k, v, g, state, scale, ptr, reverse)
    return *cpu.gla_scan(q, k, v, g, state, scale, ptr, reverse), v.new_empty(0)


@_gated.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float, ptr: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kept = v.new_empty((*v.shape[:2], LONGEST_CHUNK)) if v.is_cuda else v.new_empty(0)
    return v.new_empty(v.shape), state.new_empty(state.shape), kept


@torch.library.custom_op("graphkit::gla_scan_backward", mutates_args=())
def _gated_backward(
    grad: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor,
    kept: Tensor,
    scale: float,
    ptr: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if grad.is_cuda:
        from graphkit.ops.cuda import gated_scan

        return gated_scan.gla_scan_backward(grad, grad_state, q, k, v, g, state, kept, scale, ptr, reverse)
    return cpu.gla_scan_backward(grad, grad_state, q, k, v, g, state, scale, ptr, reverse)


@_gated_backward.register_fake
def _(
    grad: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor,
    kept: Tensor,
    scale: float,
    ptr: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    first, second, third, fourth, fifth = (t.new_empty(t.shape) for t in (q, k, v, g, state))
    return first, second, third, fourth, fifth


def _setup_gated(ctx, inputs, output) -> None:
    *tensors, ctx.scale, ptr, ctx.reverse = inputs
    ctx.save_for_backward(*tensors, output[2], ptr)


def _gated_gradients(ctx, grad: Tensor, grad_state: Tensor, _):
    *tensors, ptr = ctx.saved_tensors
    return *_gated_backward(grad, grad_state, *tensors, ctx.scale, ptr, ctx.reverse), None, None, None


_gated.register_autograd(_gated_gradients, setup_context=_setup_gated)
