"""Predict and correct a node's memory, so that large batches of events lose less: PRES."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.nn.temporal.state import StreamingModule
from graphkit.utils.checks import check_int, check_range


class PredictCorrectFilter(StreamingModule):
    r"""The filter of `"PRES: Toward Scalable Memory-Based Dynamic Graph Neural Networks"
    <https://arxiv.org/abs/2402.04284>`_, for the memory of any model (TGN, JODIE, DyRep, APAN).

    Within a batch of events a node's memory is updated once, from what was known before the batch. The larger the
    batch, the more events that one update misses. So where the memory would be is also predicted, from how fast it
    changed in the past, and the two are blended:

    .. math:: \hat s(t_2) = s(t_1) + \min(t_2 - t_1,\, c\, h)\, \mu, \qquad
              \bar s(t_2) = \gamma\, s(t_2) + (1 - \gamma)\, \hat s(t_2)

    :math:`s(t_2)` is the memory that the model computed and :math:`\mu` the mean of the rates
    :math:`d = (\bar s(t_2) - s(t_1)) / (t_2 - t_1)` seen so far, a Gaussian mixture whose component of each rate is
    known. Per node, component and dimension the number, sum and sum of squares of the rates are kept, which give means
    :math:`\mu_j`, variances and weights :math:`\pi_j`; :math:`\mu = \sum_j \pi_j \mu_j`.

    A rate measured over a short gap must not be extrapolated over a long one: the prediction reaches no further than
    ``horizon_cap`` times :math:`h`, the harmonic mean of the node's gaps. Over a gap of :math:`h` it moves by a
    weighted mean of the node's past changes, hence never by more than the largest of them. The unit of time cancels.

    A node is corrected (:math:`\gamma < 1`) once it has a rate. Its first update has none, because the start of its
    memory is no state that it was in; nor has an update in no time (``dt`` 0).

    Args:
        num_nodes: ids are in ``[0, num_nodes)``.
        memory_dim: width D of a memory.
        components: number C of components of the mixture.
        gamma: weight of the computed memory: ``"learned"`` (one number, the sigmoid of a parameter); a number in
            [0, 1], where 1 leaves the model as it is, bit for bit; or ``"kalman"``, per node and dimension
            :math:`v / (v + r)` with v the variance of the prediction and r the mean square of its past errors.
        init_gamma: where a learned weight starts, in (0, 1).
        anchors: nodes share statistics by cluster: the number of clusters, into which ids are dealt in turn, or the
            cluster of each node ``[num_nodes]``. None: every node has its own, ``num_nodes * C * (2 D + 1)`` numbers.
        horizon_cap: c; None sets no limit.

    Statistics are float64, because a variance is the difference of two sums. The state is reset with the memory, and
    goes on being tracked in evaluation.

    Raises:
        ValueError: an argument out of range, a batch of other shapes, or a time before the last update.
        IndexError: a node or component id out of range.

    Example:
        >>> pres = PredictCorrectFilter(num_nodes=10, memory_dim=4, gamma=0.5)
        >>> node, old, dt = torch.tensor([7]), torch.zeros(1, 4), torch.tensor([2])
        >>> for step in range(3):
        ...     new = old + 1
        ...     corrected = pres.correct(node, old, new, dt)
        ...     pres.track(node, old, corrected, dt, component=0)
        ...     old = corrected
        >>> corrected
        tensor([[3., 3., 3., 3.]])
    """

    num_updates: Tensor
    count: Tensor
    rate_sum: Tensor
    rate_square: Tensor
    inverse_gap: Tensor
    error_square: Tensor
    error_count: Tensor
    cluster: Tensor | None

    def __init__(
        self,
        num_nodes: int,
        memory_dim: int,
        components: int = 2,
        gamma: str | float = "learned",
        init_gamma: float = 0.9,
        anchors: int | Tensor | None = None,
        horizon_cap: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.num_nodes = check_int(num_nodes, "num_nodes", 1)
        self.memory_dim = check_int(memory_dim, "memory_dim", 1)
        self.components = check_int(components, "components", 1)
        if isinstance(gamma, str):
            if gamma not in ("learned", "kalman"):
                raise ValueError(f"gamma must be 'learned', 'kalman' or a number in [0, 1] (got {gamma!r})")
        else:
            gamma = float(check_range(gamma, "gamma", 0, 1))
        check_range(init_gamma, "init_gamma", 0, 1, low_open=True)
        if init_gamma == 1:
            raise ValueError("init_gamma must be in (0, 1), the range of a sigmoid (got 1)")
        if horizon_cap is not None:
            check_range(horizon_cap, "horizon_cap", 0, low_open=True)
        self.gamma, self.init_gamma, self.horizon_cap = gamma, init_gamma, horizon_cap
        self.gamma_logit = nn.Parameter(torch.empty(())) if gamma == "learned" else None
        self.register_buffer("cluster", _clusters(anchors, num_nodes))
        rows = num_nodes if self.cluster is None else int(self.cluster.max()) + 1
        self.register_state("num_updates", num_nodes, dtype=torch.int64)
        self.register_state("count", rows, components, dtype=torch.int64)
        self.register_state("rate_sum", rows, components, memory_dim, dtype=torch.float64)
        self.register_state("rate_square", rows, components, memory_dim, dtype=torch.float64)
        self.register_state("inverse_gap", rows, dtype=torch.float64)
        if gamma == "kalman":
            self.register_state("error_square", rows, memory_dim, dtype=torch.float64)
            self.register_state("error_count", rows, dtype=torch.int64)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set a learned weight to its start."""
        if self.gamma_logit is not None:
            nn.init.constant_(self.gamma_logit, math.log(self.init_gamma / (1 - self.init_gamma)))

    def predict(self, n_id: Tensor, s_old: Tensor, dt: Tensor) -> Tensor:
        """The memories ``[n, D]`` of nodes ``n_id`` at a time ``dt`` after they were ``s_old``.

        A node without a rate is predicted to stay.

        Shapes:
            - ``n_id`` ``[n]`` int64, ``s_old`` ``[n, D]``, ``dt`` ``[n]`` int64 or floating
        """
        self._check(n_id, dt, s_old=s_old)
        return s_old + self._step(n_id, dt).to(s_old.dtype)

    def correct(self, n_id: Tensor, s_old: Tensor, s_new: Tensor, dt: Tensor) -> Tensor:
        """The blend ``[n, D]`` of the computed memories ``s_new`` and the predicted ones; changes no state.

        Gradient flows to ``s_new``, ``s_old`` and a learned ``gamma``.

        Shapes:
            - ``n_id`` ``[n]`` int64: the nodes that are updated, in any order, repeated ones too
            - ``s_old``, ``s_new`` ``[n, D]``: memories before and after
            - ``dt`` ``[n]``: time between them
        """
        self._check(n_id, dt, s_old=s_old, s_new=s_new)
        if self.gamma == 1:
            return s_new
        predicted = s_old + self._step(n_id, dt).to(s_old.dtype)
        gamma = self._gamma(n_id, dt, s_new.dtype)
        known = self._known(n_id) > 0
        return torch.where(known[:, None], gamma * s_new + (1 - gamma) * predicted, s_new)

    @torch.no_grad()
    def track(
        self,
        n_id: Tensor,
        s_old: Tensor,
        s_bar: Tensor,
        dt: Tensor,
        component: int | Tensor = 0,
        mask: Tensor | None = None,
        s_new: Tensor | None = None,
    ) -> None:
        """Add the rates of change from ``s_old`` to ``s_bar`` to the statistics.

        Every row counts: who lists a node more than once masks all its rows but one.

        Args:
            n_id: the nodes ``[n]`` that were updated.
            s_old: their memories ``[n, D]`` before.
            s_bar: their memories ``[n, D]`` after, as stored.
            dt: the time ``[n]`` between.
            component: the component of all rows, or of each ``[n]``.
            mask: rows ``[n]`` bool that count; None: all.
            s_new: memories ``[n, D]`` as computed, before the correction; only ``gamma="kalman"`` reads them.
        """
        self._check(n_id, dt, s_old=s_old, s_bar=s_bar)
        component = self._component(component, n_id)
        seen, row = self.num_updates[n_id] > 0, self._row(n_id)
        updated = torch.ones_like(seen) if mask is None else mask
        counted = updated & seen & (dt > 0)
        if self.gamma == "kalman":
            if s_new is None:
                raise ValueError("track needs s_new, the memories before the correction, for gamma='kalman'")
            error = s_new.double() - s_old.double() - self._step(n_id, dt)
            tested = counted & (self._known(n_id) > 0)
            self.error_square.index_add_(
                0, row, torch.where(tested[:, None], error.square(), 0).to(self.error_square.dtype)
            )
            self.error_count.index_add_(0, row, tested.to(self.error_count.dtype))
        gap = torch.where(counted, dt, 1).double()
        rate = torch.where(counted[:, None], (s_bar.double() - s_old.double()) / gap[:, None], 0)
        cell = row * self.components + component
        self.count.view(-1).index_add_(0, cell, counted.to(self.count.dtype))
        for total, value in ((self.rate_sum, rate), (self.rate_square, rate.square())):
            total.view(-1, self.memory_dim).index_add_(0, cell, value.to(total.dtype))
        self.inverse_gap.index_add_(0, row, torch.where(counted, 1 / gap, 0).to(self.inverse_gap.dtype))
        self.num_updates.index_add_(0, n_id, updated.to(self.num_updates.dtype))

    def mean_var(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, both ``[n, C, D]``, of the rates of nodes ``n_id`` ``[n]``; 0 where there is no rate."""
        row = self._row(n_id)
        count = self.count[row].clamp(min=1)[..., None]
        mean = self.rate_sum[row] / count
        return mean, (self.rate_square[row] / count - mean.square()).clamp(min=0)

    def _row(self, n_id: Tensor) -> Tensor:
        return n_id if self.cluster is None else self.cluster[n_id]

    def _known(self, n_id: Tensor) -> Tensor:
        """How many rates a prediction of ``n_id`` rests on; none before the node's first update."""
        return torch.where(self.num_updates[n_id] > 0, self.count[self._row(n_id)].sum(1), 0)

    def _reach(self, n_id: Tensor, dt: Tensor) -> Tensor:
        """``[n, 1]``: over how long rates are extrapolated."""
        reach = dt.double()
        if self.horizon_cap is not None:
            row = self._row(n_id)
            # No rate makes 0 / 0 here; there is nothing to extrapolate then.
            reach = torch.fmin(reach, self.horizon_cap * self.count[row].sum(1) / self.inverse_gap[row])
        return reach[:, None]

    def _step(self, n_id: Tensor, dt: Tensor) -> Tensor:
        """The predicted change ``[n, D]``, float64."""
        known = self._known(n_id)[:, None]
        # The components' means, weighted by how often they occur.
        mean = self.rate_sum[self._row(n_id)].sum(1) / known.clamp(min=1)
        return torch.where(known > 0, self._reach(n_id, dt) * mean, 0)

    def _gamma(self, n_id: Tensor, dt: Tensor, dtype: torch.dtype) -> Tensor | float:
        if self.gamma_logit is not None:
            return torch.sigmoid(self.gamma_logit).to(dtype)
        if not isinstance(self.gamma, str):
            return self.gamma
        known, row = self._known(n_id)[:, None], self._row(n_id)
        number = known.clamp(min=1)
        mean = self.rate_sum[row].sum(1) / number
        spread = (self.rate_square[row].sum(1) / number - mean.square()).clamp(min=0)
        predicted = self._reach(n_id, dt).square() * spread
        tests = self.error_count[row][:, None]
        error = self.error_square[row] / tests.clamp(min=1)
        # One rate has no spread. Where every prediction was right, the computed memory is right as well.
        trusted = (known > 1) & (tests > 0) & (predicted + error > 0)
        return torch.where(trusted, predicted / torch.where(trusted, predicted + error, 1), 1).to(dtype)

    def _component(self, component: int | Tensor, n_id: Tensor) -> int | Tensor:
        if isinstance(component, Tensor):
            if component.shape != n_id.shape:
                raise ValueError(f"component must have shape {list(n_id.shape)} (got {list(component.shape)})")
            low, high = (0, 0) if component.is_cuda or not component.numel() else map(int, torch.aminmax(component))
        else:
            low = high = component
        if low < 0 or high >= self.components:
            bad = low if low < 0 else high
            raise IndexError(f"component {bad} is outside [0, {self.components})")
        return component

    def _check(self, n_id: Tensor, dt: Tensor, **memories: Tensor) -> None:
        if n_id.dim() != 1 or dt.shape != n_id.shape:
            raise ValueError(f"n_id and dt must be vectors of one length (got {list(n_id.shape)} and {list(dt.shape)})")
        for name, value in memories.items():
            if value.shape != (n_id.numel(), self.memory_dim):
                raise ValueError(
                    f"{name} must have shape [{n_id.numel()}, {self.memory_dim}] (got {list(value.shape)})"
                )
        # A training step does not wait for a GPU; there, indexing asserts the ids and the memory has checked the times.
        if n_id.numel() and not n_id.is_cuda:
            low, high = map(int, torch.aminmax(n_id))
            if low < 0 or high >= self.num_nodes:
                raise IndexError(f"n_id holds node id {low if low < 0 else high}, outside [0, {self.num_nodes})")
            # Before a node's first update there is no time to count from.
            early = (dt < 0) & (self.num_updates[n_id] > 0)
            if bool(early.any()):
                bad = int(early.nonzero()[0])
                raise ValueError(
                    f"dt must not be negative (got {dt[bad].item()} for node {int(n_id[bad])}, at place {bad}); "
                    "events come in order of time"
                )

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, {self.memory_dim}, components={self.components}, gamma={self.gamma!r}"


def _clusters(anchors: int | Tensor | None, num_nodes: int) -> Tensor | None:
    if anchors is None:
        return None
    if not isinstance(anchors, Tensor):
        return torch.arange(num_nodes) % check_int(anchors, "anchors", 1, num_nodes)
    if anchors.shape != (num_nodes,) or anchors.dtype != torch.int64:
        raise ValueError(
            f"anchors must be an int64 tensor [{num_nodes}] (got {anchors.dtype} of shape {list(anchors.shape)})"
        )
    if int(anchors.min()) < 0:
        raise ValueError(f"anchors must not be negative (got {int(anchors.min())})")
    return anchors.clone()


def memory_coherence_loss(s_new: Tensor, s_old: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""How much the memories of the nodes updated in a batch turned: the mean of
    :math:`1 - \cos(s_{new}, \mathrm{sg}(s_{old}))`, from `"PRES: Toward Scalable Memory-Based Dynamic Graph Neural
    Networks" <https://arxiv.org/abs/2402.04284>`_.

    Rows whose old memory is zero have no direction to keep and are left out; no gradient reaches ``s_old``. 0 if there
    are no other rows.

    Args:
        s_new: memories ``[n, D]`` after the update.
        s_old: memories ``[n, D]`` before.
        weight: ``[n]``, how much each row counts (False or 0 for one that was not updated, or repeats a node); None: 1.

    Example:
        >>> old = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
        >>> new = torch.tensor([[0.0, 2.0], [5.0, 5.0], [6.0, 8.0]])
        >>> memory_coherence_loss(new, old)
        tensor(0.5000)
    """
    if s_new.shape != s_old.shape or s_new.dim() != 2:
        raise ValueError(
            f"s_new and s_old must be matrices of one shape (got {list(s_new.shape)} and {list(s_old.shape)})"
        )
    if weight is not None and weight.shape != s_new.shape[:1]:
        raise ValueError(f"weight must have shape [{s_new.size(0)}] (got {list(weight.shape)})")
    s_old = s_old.detach()
    share = (s_old != 0).any(1).to(s_new.dtype)
    if weight is not None:
        share = share * weight
    total = share.sum()
    turned = 1 - F.cosine_similarity(s_new, s_old)
    return (share * turned).sum() / torch.where(total > 0, total, 1)
