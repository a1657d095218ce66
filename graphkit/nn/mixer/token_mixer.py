"""What a token mixer is: one interface for attention, recurrences, convolutions and token MLPs."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int, check_rows


class TokenMixer(nn.Module):
    """Mixes features among the tokens of each graph, never across graphs.

    A subclass implements :meth:`mix` and says by its flags what it promises, to which
    :func:`graphkit.testing.check_token_mixer` holds it. Any mixer runs on any token graph: an image, a sequence, a
    table row, a node's neighbourhood.

    Attributes:
        in_channels, out_channels: widths of a token before and after.
        causal: a token's output depends on itself and the tokens read before it alone.
        equivariant: the order in which tokens are read makes no difference.
        position: what is read of a token's place besides the order: ``"grid"``, ``"time"`` or None.
        max_length: most tokens of a graph; None for any number.
        edges: whether ``edge_index`` is ``"ignored"`` or ``"required"``.
    """

    causal: bool = False
    equivariant: ClassVar[bool] = False
    position: ClassVar[str | None] = None
    max_length: int | None = None
    edges: ClassVar[str] = "ignored"
    in_channels: int
    out_channels: int

    def forward(self, x: Tensor, tokens: Any = None) -> Tensor:
        """Mix.

        Args:
            x: ``[N, in_channels]``, each graph's tokens together.
            tokens: a :class:`~graphkit.ops.tokens.TokenLayout`, a PyG ``Data`` or ``Batch``, a ``ptr`` ``[B + 1]``, or
                None for one graph read as it stands.

        Returns:
            ``[N, out_channels]`` in the order of ``x``.

        Raises:
            TypeError: features of another type than the weights.
            ValueError: features of another width, more tokens than the mixer can take, a missing position or missing
                edges, edges between graphs, tensors on several devices.
            IndexError: an edge beyond the tokens.
        """
        layout = self._checked(x, tokens)
        return self.mix(x, layout) if x.size(0) else x.new_zeros(0, self.out_channels)

    def last(self, x: Tensor, tokens: Any = None) -> Tensor:
        """``[B, out_channels]``: what :meth:`forward` gives each graph's last token in reading order, zeros for a graph
        without tokens. The arguments are those of :meth:`forward`."""
        layout = self._checked(x, tokens)
        return self.mix_last(x, layout) if x.size(0) else x.new_zeros(layout.num_graphs, self.out_channels)

    def _checked(self, x: Tensor, tokens: Any) -> TokenLayout:
        check_rows(x, self.in_channels, next(self.parameters(), None))
        layout = TokenLayout.of(tokens, x.size(0), x.device)
        if self.max_length is not None and layout.max_length > self.max_length:
            raise ValueError(
                f"a graph has {layout.max_length} tokens, {type(self).__name__} takes at most {self.max_length}; "
                "make it with a larger size or cut graphs into pieces"
            )
        if self.position == "grid" and layout.pos is None:
            raise ValueError(f"{type(self).__name__} needs pos [N, 2] (integer row and column) in tokens (got none)")
        if self.position == "time" and layout.time is None:
            raise ValueError(f"{type(self).__name__} needs time [N] in tokens (got none)")
        if self.edges == "required":
            if layout.edge_index is None:
                raise ValueError(f"{type(self).__name__} needs edge_index [2, E] in tokens (got none)")
            layout.check_edges()
        return layout

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        """``[N, in_channels]`` to ``[N, out_channels]``, N > 0, arguments checked."""
        raise NotImplementedError

    def mix_last(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        """:meth:`last`, N > 0, arguments checked; overridden where the last tokens alone take less."""
        return tokens.last(self.mix(x, tokens))

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token of each of B sequences, for causal mixers that can go on from a state.

        Args:
            x: ``[B, in_channels]``.
            state: what the last step returned; None before the first token.

        Returns:
            ``[B, out_channels]``, the output that :meth:`forward` gives this token, and the state after it.

        Raises:
            NotImplementedError: a mixer without a state.
            TypeError: features of another type than the weights.
            ValueError: features of another width, a state of other sequences.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot go token by token")

    def check_step(self, x: Tensor, sequences: int | None = None) -> None:
        """Raise the errors of :meth:`step`; ``sequences`` is how many the state, if there is one, is of."""
        check_rows(x, self.in_channels, next(self.parameters(), None))
        if sequences not in (None, x.size(0)):
            raise ValueError(f"state must be of the {x.size(0)} sequences of x (got {sequences})")

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in self.children():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()


class MeanMixer(TokenMixer):
    """Every token gets the mean of its graph's tokens: the least that a mixer can do, to compare with.

    Args:
        channels: width of a token.

    Shapes:
        - as :class:`TokenMixer`, ``[N, channels]`` to ``[N, channels]``

    Raises:
        ValueError: ``channels`` below 1.

    Example:
        >>> import torch
        >>> MeanMixer(1)(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])).flatten()
        tensor([2., 2., 5.])
    """

    equivariant = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = check_int(channels, "channels", 1)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return tokens.mean(x)[tokens.batch]

    def extra_repr(self) -> str:
        return str(self.in_channels)
