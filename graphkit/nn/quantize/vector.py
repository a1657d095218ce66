"""A codebook: every vector is replaced by the nearest of K learned ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.utils.checks import check_choice, check_int, check_range

METRICS = ("cosine", "euclidean")
_KMEANS_ROUNDS = 10
_KMEANS_ROWS = 2**17  # more rows than this are sampled first
_BLOCK = 2**24  # scores at once where nobody asked for all of them
_SMOOTHING = 1e-5


class VQOutput(NamedTuple):
    """What :class:`VectorQuantizer` returns.

    Attributes:
        quantized: ``[N, dim]`` codes in place of the vectors; in training the gradient passes straight through.
        code: ``[N]`` int64 numbers of the codes (``[N, heads]`` with several heads).
        scores: ``[N, K]`` similarities to every code (``[N, heads, K]``), without gradient.
        loss: commitment and the other terms that are switched on; zero in eval mode.
        perplexity: exponential of the entropy of the codes' use in this batch, from 1 to K; the mean over heads.
    """

    quantized: Tensor
    code: Tensor
    scores: Tensor
    loss: Tensor
    perplexity: Tensor


def code_scores(x: Tensor, codebook: Tensor, metric: str = "cosine") -> Tensor:
    """Similarity of every row of ``x [..., N, d]`` to every row of ``codebook [..., K, d]``: ``[..., N, K]``.

    ``"cosine"``: the cosine, in [-1, 1]. ``"euclidean"``: minus the distance. One matrix product, O(N K d).

    Raises:
        ValueError: an unknown metric.

    Example:
        >>> code_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.6000, 0.8000]])
    """
    check_choice(metric, "metric", METRICS)
    if metric == "cosine":
        return F.normalize(x, dim=-1) @ F.normalize(codebook, dim=-1).mT
    squares = (x**2).sum(-1, keepdim=True) + (codebook**2).sum(-1)[..., None, :]
    # The root has an infinite slope at zero.
    return -(squares - 2 * x @ codebook.mT).clamp(min=1e-12).sqrt()


class VectorQuantizer(nn.Module):
    r"""Vector quantisation with a codebook that follows the data, as in `"Neural Discrete Representation Learning"
    <https://arxiv.org/abs/1711.00937>`_; the cosine form is the tokenizer of `"VQGraph: Rethinking Graph Representation
    Space for Bridging GNNs and MLPs" <https://arxiv.org/abs/2308.02117>`_.

    A vector :math:`h` gets the code :math:`k` with the largest score, the cosine with :math:`E_k` or minus the distance
    to it, and is replaced by :math:`q = E_k`. In training :math:`\partial q / \partial h` counts as the identity, and
    the loss is :math:`\text{commitment} \cdot \text{mean} \, (\text{sg}(q) - h)^2` with sg the stop of gradients.

    The codebook has no gradient. A code with members moves to their mean,

    - cosine: :math:`E_k \leftarrow \text{decay} \, E_k + (1 - \text{decay}) \, \bar h_k / \lVert \bar h_k \rVert` with
      :math:`\bar h_k` the mean of the members' directions; a code without members returns to length one.
    - Euclidean: :math:`E_k = S_k / N_k` with moving averages of the members' sums and counts, the counts smoothed so
      that none is zero.

    With ``ema=False`` the codebook is a parameter and the loss adds :math:`\text{mean} \, (q - \text{sg}(h))^2`.

    One matrix product, O(N K dim), and O(N dim + K dim) for the update; nothing waits for a GPU. Under data parallelism
    counts and sums are added over the processes. The codebook keeps its type under autocast.

    Args:
        dim: width of the vectors.
        num_codes: number of codes K of each head.
        heads: parts into which a vector is cut, each with a codebook of its own.
        metric: ``"cosine"`` or ``"euclidean"``.
        decay: how much of a code stays in a step; in [0, 1).
        commitment: weight of the commitment loss.
        kmeans_init: start with the centres of ten rounds of k-means on the first batch.
        dead_code_threshold: a code used less than this share of the mean use (a moving average) is replaced by a random
            vector of the batch; 0 never.
        temperature: draw the code from the softmax of scores / temperature while training; 0 takes the largest.
        ema: codes follow the moving average; False trains them by gradient.
        orthogonality: weight of the mean squared cosine between different codes; only with ``ema=False``.

    Attributes:
        codebook: ``[K, dim]`` (``[heads, K, dim / heads]`` with several heads); a buffer, or a parameter without
            ``ema``.
        usage: moving average of how often each code is chosen, of the same shape without the last size.

    Shapes:
        - **input:** ``x`` ``[N, dim]``, ``mask`` ``[N]`` bool or None: rows that count in loss, use and update
        - **output:** :class:`VQOutput`

    Raises:
        ValueError: an argument out of range, ``dim`` not divisible by ``heads``, ``x`` of another width, empty or not
            finite.

    Example:
        >>> quantizer = VectorQuantizer(dim=8, num_codes=16)
        >>> quantizer(torch.randn(5, 8)).scores.shape
        torch.Size([5, 16])
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor | None
    initialized: Tensor

    def __init__(
        self,
        dim: int,
        num_codes: int,
        *,
        heads: int = 1,
        metric: str = "cosine",
        decay: float = 0.8,
        commitment: float = 0.25,
        kmeans_init: bool = False,
        dead_code_threshold: float = 0.0,
        temperature: float = 0.0,
        ema: bool = True,
        orthogonality: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.num_codes = check_int(dim, "dim", 1), check_int(num_codes, "num_codes", 1)
        self.heads = check_int(heads, "heads", 1)
        if dim % heads:
            raise ValueError(f"dim must be divisible by heads (got dim={dim}, heads={heads})")
        self.metric = check_choice(metric, "metric", METRICS)
        self.decay = check_range(decay, "decay", 0, 1)
        if decay == 1:
            raise ValueError("decay must be in [0, 1) (got 1), or codes never move")
        self.commitment = check_range(commitment, "commitment", 0)
        self.kmeans_init = kmeans_init
        self.dead_code_threshold = check_range(dead_code_threshold, "dead_code_threshold", 0, 1)
        self.temperature = check_range(temperature, "temperature", 0)
        self.ema = ema
        self.orthogonality = check_range(orthogonality, "orthogonality", 0)
        if ema and orthogonality:
            raise ValueError(f"orthogonality needs codes with a gradient, ema=False (got ema=True, {orthogonality})")
        shape = (num_codes, dim) if heads == 1 else (heads, num_codes, dim // heads)
        if ema:
            self.register_buffer("codebook", torch.empty(shape))
        else:
            self.codebook = nn.Parameter(torch.empty(shape))
        self.register_buffer("usage", torch.empty(shape[:-1]))
        averaged = ema and metric == "euclidean"
        self.register_buffer("sums", torch.empty(shape) if averaged else None)
        self.register_buffer("initialized", torch.tensor(True))
        self._ready = True
        self.register_load_state_dict_post_hook(_look_again)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the codebook anew: unit vectors for the cosine, normal ones otherwise; all codes count as used alike."""
        if self.metric == "cosine":
            nn.init.kaiming_uniform_(self.codebook)
            self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        else:
            nn.init.normal_(self.codebook)
        self.usage.fill_(1)
        if self.sums is not None:
            self.sums.copy_(self.codebook)
        self.initialized.fill_(not self.kmeans_init)
        self._ready = not self.kmeans_init

    def forward(self, x: Tensor, mask: Tensor | None = None) -> VQOutput:
        self._check(x, mask)
        parts = self._parts(x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            # What has no gradient is computed in the codebook's own precision.
            rows = parts.detach().to(self.codebook.dtype)
            weight = rows.new_ones(x.size(0)) if mask is None else mask.to(rows.dtype)
            if self.training and not self._ready:
                self._start(rows, weight)
            scores = code_scores(rows, self._codes(), self.metric)
            code = self._choose(scores)
            counts = self._sum_by_code(code, weight[None, :, None].expand(self.heads, -1, 1))[..., 0]
        # A copy, since the update below writes to the codebook.
        codes = self._codes().clone()
        chosen = codes.gather(1, code[..., None].expand(-1, -1, codes.size(-1)))
        loss = self._loss(parts, chosen, codes, weight) if self.training else chosen.new_zeros(())
        if self.training:
            with torch.no_grad():
                counts = _total(counts)
                self._update(rows, weight, code, counts)
            # The value is exactly the code; the gradient goes to x.
            chosen = chosen.detach() + (parts - parts.detach())
        share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        perplexity = torch.special.entr(share).sum(-1).exp().mean()
        return VQOutput(
            self._whole(chosen.to(x.dtype)), self._by_row(code), self._by_row(scores), loss, perplexity.detach()
        )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes of ``x [N, dim]``, as in eval mode, in blocks that keep the scores small."""
        self._check(x, None)
        rows = self._parts(x).to(self.codebook.dtype)
        size = max(1, _BLOCK // (self.heads * self.num_codes))
        blocks = [code_scores(part, self._codes(), self.metric).argmax(-1) for part in rows.split(size, dim=1)]
        return self._by_row(torch.cat(blocks, dim=1))

    def lookup(self, code: Tensor) -> Tensor:
        """The vectors ``[N, dim]`` of codes ``[N]`` (``[N, heads]`` with several heads).

        Raises:
            ValueError: another shape.
            IndexError: a code outside ``[0, num_codes)``.
        """
        if code.dim() != (1 if self.heads == 1 else 2) or code.numel() != code.size(0) * self.heads:
            wanted = "[N]" if self.heads == 1 else f"[N, {self.heads}]"
            raise ValueError(f"code must have shape {wanted} (got {list(code.shape)})")
        if code.numel() and (int(code.min()) < 0 or int(code.max()) >= self.num_codes):
            bad = int(code.min()) if int(code.min()) < 0 else int(code.max())
            raise IndexError(f"code holds {bad}, outside [0, {self.num_codes})")
        by_head = code.view(-1, self.heads).t()
        codes = self._codes()
        return self._whole(codes.gather(1, by_head[..., None].expand(-1, -1, codes.size(-1))))

    # Shapes: inside, heads come first ---------------------------------------------------------------------------------

    def _parts(self, x: Tensor) -> Tensor:
        """``[N, dim]`` as ``[heads, N, dim / heads]``."""
        return x.reshape(x.size(0), self.heads, -1).transpose(0, 1)

    def _whole(self, parts: Tensor) -> Tensor:
        return parts.transpose(0, 1).reshape(parts.size(1), self.dim)

    def _by_row(self, by_head: Tensor) -> Tensor:
        return by_head[0] if self.heads == 1 else by_head.transpose(0, 1)

    def _codes(self) -> Tensor:
        return self.codebook.view(self.heads, self.num_codes, -1)

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if not isinstance(x, Tensor) or x.dim() != 2 or x.size(1) != self.dim:
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must have shape [N, {self.dim}] (got {got})")
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point (got {x.dtype}); convert with .float()")
        if x.size(0) == 0:
            raise ValueError("x must have at least one row (got an empty batch)")
        if mask is not None and (mask.shape != x.shape[:1] or mask.dtype != torch.bool):
            raise ValueError(f"mask must be a bool vector [{x.size(0)}] (got {list(mask.shape)} {mask.dtype})")
        finite = torch.isfinite(x.detach()).all()
        if x.is_cuda:  # asserted there, so that a step need not wait
            torch._assert_async(finite, "x holds values that are not finite")
        elif not bool(finite):
            raise ValueError(f"x holds {int((~torch.isfinite(x)).sum())} values that are not finite")

    # A step -----------------------------------------------------------------------------------------------------------

    def _choose(self, scores: Tensor) -> Tensor:
        if self.training and self.temperature > 0:
            # The largest of scores with Gumbel noise is a draw from their softmax.
            noise = -torch.empty_like(scores).exponential_().log()
            return (scores / self.temperature + noise).argmax(-1)
        return scores.argmax(-1)

    def _loss(self, parts: Tensor, chosen: Tensor, codes: Tensor, weight: Tensor) -> Tensor:
        entries = weight.sum().clamp(min=1) * self.dim

        def mean_square(difference: Tensor) -> Tensor:
            return (difference.square().sum((0, 2)) * weight).sum() / entries

        loss = self.commitment * mean_square(chosen.detach() - parts)
        if not self.ema:
            loss = loss + mean_square(chosen - parts.detach())
        if self.orthogonality:
            unit = F.normalize(codes, dim=-1)
            cosine = unit @ unit.mT
            off_diagonal = cosine.square().sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).square().sum(1)
            loss = loss + self.orthogonality * off_diagonal.mean() / max(self.num_codes * (self.num_codes - 1), 1)
        return loss

    def _sum_by_code(self, code: Tensor, rows: Tensor) -> Tensor:
        """``[heads, K, d]`` sums of ``rows [heads, N, d]`` over each code's members."""
        place = code + self.num_codes * torch.arange(self.heads, device=code.device)[:, None]
        out = rows.new_zeros(self.heads * self.num_codes, rows.size(-1))
        out.index_add_(0, place.reshape(-1), rows.reshape(-1, rows.size(-1)))
        return out.view(self.heads, self.num_codes, -1)

    def _update(self, rows: Tensor, weight: Tensor, code: Tensor, counts: Tensor) -> None:
        """Move the codes to their members; ``counts`` are those of all processes."""
        codes, usage = self._codes(), self.usage.view(self.heads, -1)
        usage.lerp_(counts, 1 - self.decay)
        if self.ema:
            unit = F.normalize(rows, dim=-1) if self.metric == "cosine" else rows
            sums = _total(self._sum_by_code(code, unit * weight[:, None]))
            if self.sums is None:
                target = torch.where(counts[..., None] > 0, F.normalize(sums, dim=-1), F.normalize(codes, dim=-1))
                codes.lerp_(target, 1 - self.decay)
            else:
                averages = self.sums.view_as(codes)
                averages.lerp_(sums, 1 - self.decay)
                total = usage.sum(-1, keepdim=True)
                smooth = (usage + _SMOOTHING) / (total + self.num_codes * _SMOOTHING) * total
                codes.copy_(averages / smooth[..., None])
        if self.dead_code_threshold:
            self._revive(rows, weight)

    def _revive(self, rows: Tensor, weight: Tensor) -> None:
        codes, usage = self._codes(), self.usage.view(self.heads, -1)
        mean = usage.mean(-1, keepdim=True)
        dead = usage < self.dead_code_threshold * mean
        fresh = self._draw(rows, weight)
        codes.copy_(torch.where(dead[..., None], fresh, codes))
        usage.copy_(torch.where(dead, mean, usage))
        if self.sums is not None:
            averages = self.sums.view_as(codes)
            averages.copy_(torch.where(dead[..., None], fresh * usage[..., None], averages))

    def _draw(self, rows: Tensor, weight: Tensor) -> Tensor:
        """A random row with weight for each code, the same on every process."""
        bounds = weight.double().cumsum(0)
        draws = torch.rand(self.heads, self.num_codes, dtype=torch.float64, device=rows.device) * bounds[-1]
        place = torch.searchsorted(bounds, draws, right=True).clamp_(max=weight.numel() - 1)
        fresh = rows.gather(1, place[..., None].expand(-1, -1, rows.size(-1)))
        return _from_first(F.normalize(fresh, dim=-1) if self.metric == "cosine" else fresh)

    def _start(self, rows: Tensor, weight: Tensor) -> None:
        if not bool(self.initialized):
            centers, counts = kmeans(rows[:, weight > 0], self.num_codes, self.metric)
            self._codes().copy_(_from_first(centers))
            # Only the ratios matter, and the mean stays one.
            self.usage.copy_(_from_first(counts / counts.mean(-1, keepdim=True)).view_as(self.usage))
            if self.sums is not None:
                self.sums.copy_(self.codebook * self.usage[..., None])
            self.initialized.fill_(True)
        self._ready = True

    def __repr__(self) -> str:
        heads = f", heads={self.heads}" if self.heads > 1 else ""
        return f"{type(self).__name__}({self.dim}, {self.num_codes}{heads}, metric={self.metric!r})"


@torch.no_grad()
def kmeans(x: Tensor, num_clusters: int, metric: str = "cosine") -> tuple[Tensor, Tensor]:
    """Centres ``[heads, K, d]`` and sizes ``[heads, K]`` of the clusters of ``x [heads, N, d]``, each head by itself.

    Starts are drawn one by one, each with a probability that grows with the squared distance to the nearest start so
    far (k-means++), then ten rounds of assignment and mean follow. With ``"cosine"`` rows and centres have length one.
    O(10 N K d). Of more than 131,072 rows as many are drawn first.

    Raises:
        ValueError: no rows.
    """
    if x.size(1) == 0:
        raise ValueError("x must have at least one row to start k-means from (got none)")
    if x.size(1) > _KMEANS_ROWS:
        x = x[:, torch.randperm(x.size(1), device=x.device)[:_KMEANS_ROWS]]
    if metric == "cosine":
        x = F.normalize(x, dim=-1)
    heads, rows, width = x.shape
    head = torch.arange(heads, device=x.device)
    centers = x.new_empty(heads, num_clusters, width)
    place = torch.randint(rows, (heads,), device=x.device)
    squares = x.square().sum(-1)
    nearest = torch.full_like(squares, torch.inf)
    for k in range(num_clusters):
        centers[:, k] = x[head, place]
        # |x - c|^2 by a product, which reads x once and writes no copy of it.
        distance = squares - 2 * (x @ centers[:, k, :, None])[..., 0] + squares[head, place][:, None]
        nearest = torch.minimum(nearest, distance.clamp(min=0))
        # Where all rows are taken any will do.
        place = torch.multinomial(nearest + torch.finfo(x.dtype).tiny ** 0.5, 1)[:, 0]
    counts = x.new_ones(heads, num_clusters)
    for _ in range(_KMEANS_ROUNDS):
        code = code_scores(x, centers, metric).argmax(-1)
        index = code + num_clusters * head[:, None]
        sums = x.new_zeros(heads * num_clusters, width).index_add_(0, index.view(-1), x.reshape(-1, width))
        counts = torch.bincount(index.view(-1), minlength=heads * num_clusters).to(x.dtype).view(heads, -1)
        means = sums.view_as(centers) / counts.clamp(min=1)[..., None]
        means = F.normalize(means, dim=-1) if metric == "cosine" else means
        centers = torch.where(counts[..., None] > 0, means, centers)
    return centers, counts


def _look_again(module: VectorQuantizer, keys: object) -> None:
    module._ready = not module.kmeans_init  # the loaded codebook may be one that was never started


def _total(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def _from_first(value: Tensor) -> Tensor:
    """The first process's value."""
    value = value.contiguous()
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(value, 0)
    return value
