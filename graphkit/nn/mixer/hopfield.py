"""Modern Hopfield networks: associative memories whose retrieval is softmax attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.utils import scatter, softmax

from graphkit.nn.mixer.token_mixer import TokenMixer
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_features, check_int, check_mask, check_probabilities, check_range, check_rows


def hopfield_retrieve(
    state: Tensor,
    stored: Tensor,
    beta: float | Tensor = 1.0,
    steps: int = 1,
    values: Tensor | None = None,
    mask: Tensor | None = None,
    tol: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Retrieval from the continuous memory of `"Hopfield Networks is All You Need" <https://arxiv.org/abs/2008.02217>`_:
    ``steps`` times

    .. math:: \xi \leftarrow X^\top \mathrm{softmax}(\beta X \xi)

    O(steps S N d). Gradients flow through all steps.

    Args:
        state: ``[..., S, d]`` what to look for, ξ.
        stored: ``[..., N, d]`` patterns, X.
        beta: inverse temperature, a number or a tensor that broadcasts to ``[..., S, N]``.
        steps: number of retrievals, from 1; attention is one with other ``values``.
        values: ``[..., N, d_v]`` what the last retrieval returns of the patterns; the patterns themselves if None.
        mask: bool, broadcasts to ``[..., S, N]``, True for patterns that are there; a state without any gets zeros.
        tol: a state stops when a step changes its weights by no more than this, whatever the others do.

    Returns:
        - ``[..., S, d_v]`` what was retrieved
        - ``[..., S, N]`` weights of the patterns in the last retrieval

    Raises:
        ValueError: ``beta`` not positive, ``steps`` below 1, shapes that do not fit.
        TypeError: a mask that is not bool.

    Example:
        >>> stored = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> hopfield_retrieve(torch.tensor([[3.0, 1.0]]), stored, beta=2.0)[0].round(decimals=3)
        tensor([[4., 0.]])
    """
    check_int(steps, "steps", 1)
    if not isinstance(beta, Tensor):
        check_range(beta, "beta", 0, low_open=True)
    elif beta.device.type == "cpu" and not bool((beta > 0).all()):  # a GPU is not waited for
        raise ValueError(f"beta must be positive (got {float(beta.min())})")
    shape = (*torch.broadcast_shapes(state.shape[:-2], stored.shape[:-2]), state.size(-2), stored.size(-2))
    if state.size(-1) != stored.size(-1) or (values is not None and values.shape[:-1] != stored.shape[:-1]):
        raise ValueError(
            "state [..., S, d] and stored [..., N, d] must have one width, and values a row a pattern (got "
            f"{list(state.shape)}, {list(stored.shape)} and {None if values is None else list(values.shape)})"
        )
    if mask is not None:
        check_mask(mask, shape, "patterns that are there")

    def weigh(query: Tensor) -> Tensor:
        score = beta * (query @ stored.mT)
        if mask is not None:
            score = score.masked_fill(~mask, -torch.inf)
            # A row of nothing but -inf would be NaN.
            return score.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0)
        return score.softmax(-1)

    weight = weigh(state)
    for _ in range(steps - 1):
        moved = weigh(weight @ stored)
        if tol is not None:
            still = (moved - weight).norm(dim=-1, keepdim=True) <= tol
            moved = torch.where(still, weight, moved)
        weight = moved
    return weight @ (stored if values is None else values), weight


def hopfield_energy(state: Tensor, stored: Tensor, beta: float = 1.0) -> Tensor:
    r"""Energy of states ``[..., S, d]``, which no retrieval increases:

    .. math:: E(\xi) = -\beta^{-1} \log \sum_i e^{\beta x_i \cdot \xi} + \tfrac12 \xi \cdot \xi + \beta^{-1} \log N
              + \tfrac12 \max_i \lVert x_i \rVert^2

    Example:
        >>> hopfield_energy(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.])
    """
    check_range(beta, "beta", 0, low_open=True)
    peak = torch.logsumexp(beta * (state @ stored.mT), -1)
    count = torch.tensor(float(stored.size(-2)), dtype=state.dtype, device=state.device)
    largest = stored.square().sum(-1).amax(-1, keepdim=True)
    return (count.log() - peak) / beta + state.square().sum(-1) / 2 + largest / 2


def hopfield_separation(stored: Tensor) -> Tensor:
    r"""How far each of the patterns ``[..., N, d]`` stands out, ``[..., N]``:

    .. math:: \Delta_i = \min_{j \ne i} (x_i \cdot x_i - x_i \cdot x_j)

    A pattern is recalled if this is large against :math:`1 / \beta`. O(N² d).

    Raises:
        ValueError: fewer than two patterns.

    Example:
        >>> hopfield_separation(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        tensor([2., 0., 0.])
    """
    count = stored.size(-2)
    if count < 2:
        raise ValueError(f"stored must hold at least two patterns (got {count})")
    product = stored @ stored.mT
    own = product.diagonal(dim1=-2, dim2=-1)
    itself = torch.eye(count, dtype=torch.bool, device=stored.device)
    return own - product.masked_fill(itself, -torch.inf).amax(-1)


def metastable_size(weight: Tensor, share: float = 0.9) -> Tensor:
    """How many patterns hold ``share`` of a state's weight: 1 is one pattern, N the mean of all. ``[..., S]``.

    Example:
        >>> metastable_size(torch.tensor([[0.95, 0.05], [0.5, 0.5]]))
        tensor([1, 2])
    """
    check_range(share, "share", 0, 1, low_open=True)
    held = weight.sort(-1, descending=True).values.cumsum(-1)
    return ((held < share * held[..., -1:]).sum(-1) + 1).clamp(max=weight.size(-1))


class Association(nn.Module):
    """Projections to heads, retrieval, and the projection back: what the layers share. With ``out_channels=None`` there
    is nothing to bring back, and only weights are found."""

    def __init__(
        self,
        state_channels: int,
        stored_channels: int,
        out_channels: int | None,
        hidden_channels: int,
        heads: int,
        beta: float | Sequence[float] | None,
        steps: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads, self.steps = check_int(heads, "heads", 1), check_int(steps, "steps", 0)
        self.hidden_channels = check_int(hidden_channels, "hidden_channels", 1)
        check_probabilities(dropout=dropout)
        many = isinstance(beta, Sequence) and not isinstance(beta, str)
        given: list[Any] = [hidden_channels**-0.5] if beta is None else list(beta) if many else [beta]  # type: ignore[arg-type]
        for number in given:
            check_range(number, "beta", 0, low_open=True)
        if len(given) not in (1, heads):
            raise ValueError(f"beta must be positive, one number or one for each of the {heads} heads (got {beta})")
        self.register_buffer("beta", torch.tensor(given, dtype=torch.get_default_dtype()).view(-1, 1, 1))
        width = heads * hidden_channels
        self.state_norm, self.stored_norm = nn.LayerNorm(state_channels), nn.LayerNorm(stored_channels)
        self.lin_state, self.lin_stored = nn.Linear(state_channels, width), nn.Linear(stored_channels, width)
        if out_channels is not None:
            self.value_norm = nn.LayerNorm(stored_channels)
            self.lin_value, self.lin_out = nn.Linear(stored_channels, width), nn.Linear(width, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for part in self.children():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.LayerNorm):
                part.reset_parameters()

    def weights(self, state: Tensor, stored: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, S, state_channels]`` and ``[B, N, stored_channels]``, mask ``[B, N]``, to ``[B, heads, S, N]``."""
        q = self._heads(self.lin_state(self.state_norm(state)))
        k = self._heads(self.lin_stored(self.stored_norm(stored)))
        beta: Any = self.beta
        seen = None if mask is None else mask[:, None, None, :]
        return self.dropout(hopfield_retrieve(q, k, beta, self.steps + 1, mask=seen)[1])

    def forward(self, state: Tensor, stored: Tensor, mask: Tensor | None) -> Tensor:
        """As :meth:`weights`, to ``[B, S, out_channels]``."""
        v = self._heads(self.lin_value(self.value_norm(stored)))
        if self.steps or (self.training and self.dropout.p):
            out = self.weights(state, stored, mask) @ v
        else:
            q = self._heads(self.lin_state(self.state_norm(state)))
            k = self._heads(self.lin_stored(self.stored_norm(stored)))
            seen = None if mask is None else mask[:, None, None, :]
            if seen is not None:
                seen = seen | ~seen.any(-1, keepdim=True)  # a row of nothing would be NaN
            beta: Any = self.beta
            out = F.scaled_dot_product_attention(q * beta, k, v, seen, scale=1.0)
            if mask is not None:
                out = out.masked_fill(~mask.any(-1)[:, None, None, None], 0)
        return self.lin_out(out.transpose(1, 2).flatten(2))

    def along_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """``[N, channels]`` to ``[N, out_channels]``: the patterns of a node are those that it has edges from."""
        src, dst = edge_index
        size = (x.size(0), self.heads, self.hidden_channels)
        q = self.lin_state(self.state_norm(x)).view(size)
        k = self.lin_stored(self.stored_norm(x)).view(size)[src]
        v = self.lin_value(self.value_norm(x)).view(size)[src]
        beta: Any = self.beta
        for step in range(self.steps + 1):
            weight = softmax(beta.view(-1) * (q[dst] * k).sum(-1), dst, num_nodes=x.size(0))
            if step < self.steps:
                q = scatter(weight[..., None] * k, dst, 0, x.size(0))
        out = scatter(self.dropout(weight)[..., None] * v, dst, 0, x.size(0))
        return self.lin_out(out.flatten(1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Hopfield(TokenMixer):
    r"""The layer ``Hopfield`` of `"Hopfield Networks is All You Need" <https://arxiv.org/abs/2008.02217>`_: each token
    looks among its graph's tokens for what it resembles, ``steps`` times over, and takes what they hold.

    With ``steps=0`` it is attention with normalised inputs; each step more moves the query towards a stored pattern, or
    towards the mean of several alike (:func:`hopfield_retrieve`). O(steps L² heads hidden_channels).

    Args:
        channels: width of a token.
        hidden_channels: width of a head.
        heads: number of heads.
        beta: inverse temperature, one number or one for each head; :math:`1 / \sqrt{\text{hidden\_channels}}` if None.
        steps: retrievals besides the last.
        dropout: dropout of the weights of the last retrieval.
        out_channels: width of the output; ``channels`` if None.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, out_channels]``

    Raises:
        ValueError: a number out of range, or not one ``beta`` a head.

    Example:
        >>> Hopfield(8, steps=2)(torch.randn(5, 8), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 8])
    """

    equivariant = True

    def __init__(
        self,
        channels: int,
        hidden_channels: int = 8,
        heads: int = 4,
        beta: float | Sequence[float] | None = None,
        steps: int = 0,
        dropout: float = 0.0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(channels, "channels", 1)
        self.out_channels = channels if out_channels is None else check_int(out_channels, "out_channels", 1)
        self.association = Association(
            channels, channels, self.out_channels, hidden_channels, heads, beta, steps, dropout
        )

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        padded = tokens.pad(x)
        return tokens.unpad(self.association(padded, padded, None if tokens.is_rectangular else tokens.mask))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.association.heads}, steps={self.association.steps}"


class HopfieldPooling(Aggregation):
    r"""The layer ``HopfieldPooling`` of `"Hopfield Networks is All You Need" <https://arxiv.org/abs/2008.02217>`_:
    learned queries, each of which takes from every graph the nodes that it resembles. A PyG aggregation.

    Args:
        in_channels: width of a node.
        out_channels: width of what a query returns.
        queries: number of queries; their results stand side by side.
        hidden_channels: width of a head.
        heads: number of heads.
        beta: inverse temperature, one number or one for each head; :math:`1 / \sqrt{\text{hidden\_channels}}` if None.
        steps: retrievals besides the last.
        dropout: dropout of the weights of the last retrieval.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, ``index`` ``[N]`` ascending, or ``ptr``
        - **output:** ``[B, queries * out_channels]``; zeros for a graph without nodes

    Raises:
        ValueError: a number out of range, or an index that is not ascending.

    Example:
        >>> HopfieldPooling(8, 4, queries=2)(torch.randn(5, 8), torch.tensor([0, 0, 1, 1, 1])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        queries: int = 1,
        hidden_channels: int = 8,
        heads: int = 4,
        beta: float | Sequence[float] | None = None,
        steps: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, check_int(out_channels, "out_channels", 1)
        self.queries = check_int(queries, "queries", 1)
        self.query = nn.Parameter(torch.empty(queries, check_int(in_channels, "in_channels", 1)))
        self.association = Association(
            in_channels, in_channels, out_channels, hidden_channels, heads, beta, steps, dropout
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw queries and projections anew."""
        nn.init.normal_(self.query, std=0.02)
        self.association.reset_parameters()

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
    ) -> Tensor:
        check_rows(x, self.in_channels, self.query)
        if ptr is None and index is not None:
            if index.shape != x.shape[:1] or bool((index.diff(prepend=index.new_zeros(1)) < 0).any()):
                raise ValueError(
                    f"index must be ascending from 0, one for each of {x.size(0)} rows, each graph's nodes together "
                    f"(got {index[:10].tolist()}{', ...' if index.numel() > 10 else ''})"
                )
            size = dim_size if dim_size is not None else int(index[-1]) + 1 if index.numel() else 0
            ptr = torch.searchsorted(index, torch.arange(size + 1, device=x.device))
        layout = TokenLayout.of(ptr, x.size(0), x.device)
        if not layout.num_tokens:
            return x.new_zeros(layout.num_graphs, self.queries * self.out_channels)
        query = self.query.expand(layout.num_graphs, -1, -1)
        out = self.association(query, layout.pad(x), layout.mask).flatten(1)
        return out.masked_fill((layout.length == 0)[:, None], 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, queries={self.queries})"


class HopfieldMemory(nn.Module):
    r"""The layer ``HopfieldLayer`` of `"Hopfield Networks is All You Need" <https://arxiv.org/abs/2008.02217>`_: a
    memory of patterns, learned or taken from training samples, in which each row is looked up.

    With ``targets`` each pattern has an answer of its own, learned or the label of a sample, and a row gets the mean of
    the answers of the patterns that it retrieves, over all heads: nearest neighbours with a learned similarity.
    O(N num_patterns heads hidden_channels) for N rows.

    Args:
        in_channels: width of a row and of a pattern.
        out_channels: width of the output.
        num_patterns: number of patterns.
        hidden_channels: width of a head.
        heads: number of heads.
        beta: inverse temperature, one number or one for each head; :math:`1 / \sqrt{\text{hidden\_channels}}` if None.
        steps: retrievals besides the last.
        dropout: dropout of the weights of the last retrieval.
        targets: each pattern has an answer ``[out_channels]`` of its own; otherwise it is a linear map of the pattern.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``
        - **output:** ``[N, out_channels]``

    Raises:
        ValueError: a number out of range, or rows of another width.

    Example:
        >>> HopfieldMemory(8, 3, num_patterns=20)(torch.randn(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_patterns: int,
        hidden_channels: int = 8,
        heads: int = 4,
        beta: float | Sequence[float] | None = None,
        steps: int = 0,
        dropout: float = 0.0,
        targets: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, check_int(out_channels, "out_channels", 1)
        shape = check_int(num_patterns, "num_patterns", 1), check_int(in_channels, "in_channels", 1)
        self.stored = nn.Parameter(torch.empty(shape))
        self.targets = nn.Parameter(torch.empty(num_patterns, out_channels)) if targets else None
        answers = None if targets else out_channels
        self.association = Association(in_channels, in_channels, answers, hidden_channels, heads, beta, steps, dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw patterns and projections anew."""
        nn.init.normal_(self.stored, std=0.02)
        if self.targets is not None:
            nn.init.normal_(self.targets, std=0.02)
        self.association.reset_parameters()

    @torch.no_grad()
    def init_from(self, x: Tensor, y: Tensor | None = None) -> None:
        """Take training samples for patterns.

        Args:
            x: ``[num_patterns, in_channels]``.
            y: their answers, ``[num_patterns, out_channels]`` numbers or ``[num_patterns]`` classes; only with
                ``targets``.

        Raises:
            ValueError: other shapes, classes out of range, or answers without ``targets``.
        """
        if x.shape != self.stored.shape:
            raise ValueError(f"x must have shape {list(self.stored.shape)}, a row a pattern (got {list(x.shape)})")
        check_features(x)
        if y is not None:
            if self.targets is None:
                raise ValueError("y needs a memory with targets=True (got targets=False)")
            if y.dim() == 1 and not y.is_floating_point():
                if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.out_channels:
                    raise ValueError(
                        f"y must hold classes in [0, {self.out_channels}) (got {int(y.min())} to {int(y.max())})"
                    )
                y = F.one_hot(y, self.out_channels)
            if y.shape != self.targets.shape:
                raise ValueError(f"y must have shape {list(self.targets.shape)} (got {list(y.shape)})")
            self.targets.copy_(y)
        self.stored.copy_(x)

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.in_channels, self.stored)
        if self.targets is None:
            return self.association(x[None], self.stored[None], None)[0]
        return self.association.weights(x[None], self.stored[None], None)[0].mean(0) @ self.targets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, num_patterns={self.stored.size(0)})"
