"""Spiking neurons as layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.ops.spiking import RESETS, SURROGATES, lif_scan, spike
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_choice, check_finite, check_like, check_range


class Binarize(nn.Module):
    """1 where the input is not negative, 0 elsewhere, with the gradient of a surrogate: neurons without a memory.

    Args:
        surrogate: slope of a spike in gradients, see :func:`graphkit.ops.surrogate_slope`.
        alpha: sharpness of the surrogate; its own if None.

    Shapes:
        - **input:** of any shape
        - **output:** the same

    Raises:
        ValueError: an unknown surrogate.

    Example:
        >>> Binarize()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 1., 1.])
    """

    def __init__(self, surrogate: str = "atan", alpha: float | None = None) -> None:
        super().__init__()
        self.surrogate, self.alpha = check_choice(surrogate, "surrogate", SURROGATES), alpha

    def forward(self, x: Tensor) -> Tensor:
        return spike(x, self.surrogate, self.alpha)

    def extra_repr(self) -> str:
        return f"surrogate={self.surrogate!r}"


class LIF(nn.Module):
    r"""Leaky integrate-and-fire neurons whose time are the tokens of a sequence, or the first dimension.

    .. math:: h_t = v_{t-1} + (x_t - v_{t-1}) / \tau, \qquad s_t = [h_t \ge \theta]

    and the membrane v is reset by a spike. It keeps nothing between calls: membranes begin at 0 in each sequence. O(N
    F); one number a token and neuron is stored for the gradient.

    Args:
        tau: time constant :math:`\tau` of the membrane, 1 or more; 1 forgets at once.
        threshold: :math:`\theta`.
        reset: ``"hard"`` to 0, ``"soft"`` by the threshold, or ``"none"``.
        surrogate: slope of a spike in gradients, see :func:`graphkit.ops.surrogate_slope`.
        alpha: sharpness of the surrogate; its own if None.
        detach_reset: no gradient through the reset.

    Shapes:
        - **input:** ``x`` ``[N, F]`` with ``tokens`` as :class:`~graphkit.nn.TokenMixer`; or ``[T, ..., F]``, T steps
        - **output:** as the input, 0 and 1

    Raises:
        TypeError: in a call, currents that are not floating point.
        ValueError: ``tau`` below 1, a threshold that is not positive, an unknown reset or surrogate; in a call,
            currents that are not finite, which would silence a neuron for good.

    Example:
        >>> LIF()(torch.tensor([[1.5], [1.5], [2.0], [0.5]])).flatten()
        tensor([0., 1., 1., 0.])
    """

    def __init__(
        self,
        tau: float = 2.0,
        threshold: float = 1.0,
        reset: str = "hard",
        surrogate: str = "atan",
        alpha: float | None = None,
        detach_reset: bool = False,
    ) -> None:
        super().__init__()
        self.tau = check_range(tau, "tau", 1)
        self.threshold = check_range(threshold, "threshold", 0, low_open=True)
        self.reset, self.detach_reset = check_choice(reset, "reset", RESETS), detach_reset
        self.surrogate, self.alpha = check_choice(surrogate, "surrogate", SURROGATES), alpha

    def reset_parameters(self) -> None:
        """There are none."""

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        if check_finite(check_like(x, None)).dim() > 2:
            if tokens is not None:
                raise ValueError(f"x must have shape [N, F] with tokens (got {list(x.shape)})")
            return self._scan(x.flatten(1))[0].view_as(x)
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        return layout.restore(self._scan(layout.sequence(x), layout.ptr)[0])

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token of each of B sequences: spikes ``[B, F]`` and the membranes after them."""
        check_finite(check_like(x, None))
        return self._scan(x, torch.arange(x.size(0) + 1, device=x.device), state)

    def _scan(self, x: Tensor, ptr: Tensor | None = None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return lif_scan(
            x,
            ptr,
            state,
            decay=1 - 1 / self.tau,
            threshold=self.threshold,
            input_scale=1 / self.tau,
            reset=self.reset,
            surrogate=self.surrogate,
            alpha=self.alpha,
            detach_reset=self.detach_reset,
        )

    def extra_repr(self) -> str:
        return f"tau={self.tau}, threshold={self.threshold}, reset={self.reset!r}"
