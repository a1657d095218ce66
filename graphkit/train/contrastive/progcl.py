"""ProGCL: negatives that look hard but may be of the same class count less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from graphkit.train.contrastive.gca import GCA
from graphkit.train.contrastive.info_nce import BLOCK
from graphkit.utils.checks import check_choice, check_int, check_range

MODES = ("weight", "mix")
_COLUMNS = 100  # nodes whose similarities to all others the mixture is fitted to
_STEPS = 10  # of expectation-maximisation
_EPS = 1e-4


class ProGCL(GCA):
    r"""`"ProGCL: Rethinking Hard Negative Mining in Graph Contrastive Learning" <https://arxiv.org/abs/2110.02027>`_.

    After ``start`` steps of :class:`GCA`, a mixture of two Beta distributions is fitted once to :math:`x = (s + 1) / 2`
    of similarities :math:`s` between the views. The component of the smaller mean is that of true negatives, with the
    posterior :math:`p(x)`, and a negative's weight is :math:`\omega = p(x) \, x`: large for negatives that are hard and
    true. With :math:`\omega_{ik}` from :math:`s(u_i, v_k)`, without gradient and scaled to mean one in each row,

    - ``"weight"`` multiplies the negatives :math:`v_k` and :math:`u_k` of :math:`u_i` in the sums of :func:`info_nce`;
    - ``"mix"`` adds synthetic negatives: the ``mixed`` negatives of the largest weight, each mixed with another of them
      in proportion to their weights.

    The released code keeps the weights of the step ``start``; here they follow the similarities. Rows are
    worked on in blocks and computed again for the gradient: O(N^2 H) time, O(N (H + block)) memory.

    Args:
        encoder, hidden_channels, proj_channels, tau, centrality: as :class:`GCA`.
        start: steps before weights are used; steps in training mode count, and the count is in the ``state_dict``.
        mode: ``"weight"`` or ``"mix"``.
        mixed: synthetic negatives of each node.
        false_share: share of false negatives that the fit begins with.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from graphkit.nn import GCNEncoder
        >>> model = ProGCL(GCNEncoder(8, out_channels=4), 4, 4, start=1)
        >>> model.loss(torch.randn(6, 4), torch.randn(6, 4)).dim()
        0
    """

    log_odds: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        hidden_channels: int,
        proj_channels: int,
        tau: float = 0.5,
        centrality: str = "degree",
        *,
        start: int = 400,
        mode: str = "weight",
        mixed: int = 1000,
        false_share: float = 0.05,
    ) -> None:
        super().__init__(encoder, hidden_channels, proj_channels, tau, centrality)
        self.start, self.mixed = check_int(start, "start", 1), check_int(mixed, "mixed", 1)
        self.mode = check_choice(mode, "mode", MODES)
        self.false_share = check_range(false_share, "false_share", 0, 1, low_open=True)
        #: The posterior is the sigmoid of ``c + a log x + b log(1 - x)``.
        self.register_buffer("log_odds", torch.zeros(3, dtype=torch.float64))
        # Numbers rather than buffers, or a GPU would be waited for in every step.
        self._steps, self._fitted = 0, False

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self._steps, "fitted": self._fitted}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._steps, self._fitted = state["steps"], state["fitted"]

    def contrast(self, z1: Tensor, z2: Tensor) -> Tensor:
        self._steps += self.training
        if self._steps < self.start or z1.size(0) < 3:
            return super().contrast(z1, z2)
        u, v = F.normalize(self.head(z1), dim=1), F.normalize(self.head(z2), dim=1)
        if not self._fitted:
            self._fit(u.detach(), v.detach())
        return (self._side(u, v) + self._side(v, u)) / 2

    def true_negative(self, similarity: Tensor) -> Tensor:
        """Posterior probability that a negative of this similarity is a true one."""
        x = ((similarity + 1) / 2).clamp(_EPS, 1 - _EPS)
        a, b, c = self.log_odds.to(x.dtype)
        return torch.sigmoid(c + a * x.log() + b * torch.log1p(-x))

    def _fit(self, u: Tensor, v: Tensor) -> None:
        columns = torch.randperm(v.size(0), device=v.device)[:_COLUMNS]
        x = ((u @ v[columns].t()).view(-1) + 1) / 2
        self.log_odds.copy_(beta_mixture_log_odds(x, self.false_share))
        self._fitted = True

    def _side(self, anchors: Tensor, others: Tensor) -> Tensor:
        n = anchors.size(0)
        parts = [
            checkpoint(self._rows, anchors, others, start, min(start + BLOCK, n), use_reentrant=False)
            for start in range(0, n, BLOCK)
        ]
        return torch.stack(parts).sum() / n

    def _rows(self, anchors: Tensor, others: Tensor, start: int, stop: int) -> Tensor:
        """The summed losses of the anchors ``start .. stop``."""
        n = anchors.size(0)
        row = torch.arange(stop - start, device=anchors.device)
        own = row + start
        between = anchors[start:stop] @ others.t()
        within = anchors[start:stop] @ anchors.t()
        positive = (between[row, own] - 1) / self.tau
        with torch.no_grad():
            weight = self.true_negative(between) * (between + 1) / 2
            weight[row, own] = 0
        if self.mode == "weight":
            weight = weight * ((n - 1) / weight.sum(1, keepdim=True).clamp(min=1e-12))
            total = (weight * (self._exp(between) + self._exp(within))).sum(1) + positive.exp()
        else:
            mixed = self._exp(self._mix(between, weight)).sum(1)
            # Of its own view every node but itself is a negative.
            total = mixed + self._exp(between).sum(1) + self._exp(within).sum(1) - self._exp(within[row, own])
        return (total.log() - positive).sum()

    def _mix(self, between: Tensor, weight: Tensor) -> Tensor:
        """Similarities to mixtures of two hard negatives, which are the mixtures of the similarities."""
        value, column = weight.topk(min(self.mixed, weight.size(1) - 1), dim=1)
        hard = between.gather(1, column)
        partner = torch.randperm(hard.size(1), device=hard.device)
        return (hard * value + hard[:, partner] * value[:, partner]) / (value + value[:, partner]).clamp(min=1e-12)

    def _exp(self, similarity: Tensor) -> Tensor:
        return ((similarity - 1) / self.tau).exp()


def beta_mixture_log_odds(x: Tensor, false_share: float = 0.05, steps: int = _STEPS) -> Tensor:
    """Fit two Beta distributions to values in [0, 1]; how the component of the smaller mean is told from the other.

    Expectation-maximisation with the moments of each component, from Beta(1, 2) and Beta(2, 1); a few passes over the
    values in each step.

    Returns:
        ``[3]`` float64: ``a``, ``b``, ``c`` of the log odds ``c + a log x + b log(1 - x)`` of the smaller component.

    Example:
        >>> low, high = torch.distributions.Beta(2.0, 8.0), torch.distributions.Beta(8.0, 2.0)
        >>> x = torch.cat([low.sample((500,)), high.sample((500,))])
        >>> a, b, c = beta_mixture_log_odds(x, 0.5)
        >>> bool(a < 0 < b)
        True
    """
    x = x.double().clamp(_EPS, 1 - _EPS)
    log_x, log_rest = x.log(), torch.log1p(-x)
    alpha, beta = x.new_tensor([1.0, 2.0]), x.new_tensor([2.0, 1.0])
    share = x.new_tensor([1 - false_share, false_share])
    for _ in range(steps):
        density = (alpha - 1) * log_x[:, None] + (beta - 1) * log_rest[:, None] + _constant(alpha, beta, share)
        member = density.softmax(dim=1)
        size = member.sum(0).clamp(min=1e-12)
        mean = (member * x[:, None]).sum(0) / size
        variance = (member * (x[:, None] - mean) ** 2).sum(0) / size
        concentration = (mean * (1 - mean) / variance.clamp(min=1e-12) - 1).clamp(min=1e-3)
        alpha, beta, share = mean * concentration, (1 - mean) * concentration, size / x.numel()
    order = (alpha / (alpha + beta)).argsort()
    alpha, beta = alpha[order], beta[order]
    constant = _constant(alpha, beta, share[order])
    return torch.stack([alpha[0] - alpha[1], beta[0] - beta[1], constant[0] - constant[1]])


def _constant(alpha: Tensor, beta: Tensor, share: Tensor) -> Tensor:
    """The part of a component's log density that does not depend on the value."""
    return torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta) + share.clamp(min=1e-12).log()
