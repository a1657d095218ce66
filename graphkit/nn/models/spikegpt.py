"""SpikeGPT: a language model, or a model of any token graphs, of blocks that speak in spikes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from torch import Tensor, nn

from graphkit.nn.mixer.spikegpt import SpikeGPTBlock
from graphkit.nn.models.token_model import TokenModel
from graphkit.nn.spiking.lif import Binarize
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_finite


class SpikeGPT(TokenModel):
    r"""The network of `"SpikeGPT: Generative Pre-trained Language Model with Spiking Neural Networks"
    <https://arxiv.org/abs/2302.13939>`_: a binary embedding, blocks that add spikes, a linear head.

    .. math:: x_0 = \mathrm{Norm}([\mathrm{Embed}(t) \ge 0]), \qquad x_{l} = x_{l-1} + \mathrm{Block}_l(x_{l-1}), \qquad
              y = \mathrm{Norm}(x_n) W

    with :class:`SpikeGPTBlock`. The neurons' time are the tokens: one step each. A :class:`TokenModel` in all else:
    heads, :meth:`~TokenModel.step` and :meth:`~TokenModel.generate`. With its first weights all blocks add 0. O(L
    channels²) for L tokens.

    Args:
        in_channels: width of a token's features.
        channels: width within.
        out_channels: width of the output.
        num_layers: number of blocks.
        head: ``"token"``, ``"mean"`` or ``"last"``.
        num_embeddings: tokens are ids below this; ``in_channels`` is not used.
        spiking: with neurons; without them it is RWKV.
        binary_input: the embedding is 0 and 1.
        dropout: dropout of the embedding and of what blocks add.

    Shapes:
        - as :class:`TokenModel`

    Raises:
        ValueError: a number out of range; in a call, ids that are no whole numbers.
        IndexError: an id out of range.

    Example:
        >>> import torch
        >>> model = SpikeGPT(1, 16, 5, num_embeddings=5)
        >>> model(torch.tensor([0, 3, 1, 4]), torch.tensor([0, 2, 4])).shape
        torch.Size([4, 5])
        >>> model.generate(torch.tensor([0, 3]), 4).shape
        torch.Size([4])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        num_layers: int = 2,
        head: str = "token",
        *,
        num_embeddings: int | None = None,
        spiking: bool = True,
        binary_input: bool = True,
        dropout: float = 0.0,
    ) -> None:
        layer = count()
        super().__init__(
            in_channels,
            channels,
            out_channels,
            lambda width: SpikeGPTBlock(width, next(layer), num_layers, spiking),
            num_layers,
            head,
            num_embeddings=num_embeddings,
            feed_forward=False,
            dropout=dropout,
        )
        self.spiking, self.binary_input = spiking, binary_input
        self.binarize = Binarize(alpha=2.0) if binary_input else None
        self.input_norm = nn.LayerNorm(channels)
        # Blocks normalise what they read themselves.
        self.mixer_norms = nn.ModuleList(nn.Identity() for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)  # type: ignore[assignment]
        self.lin_out = nn.Linear(channels, out_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: a small orthogonal embedding, blocks that add 0, an orthogonal head."""
        if self.num_embeddings is None:
            self.embed.reset_parameters()
        else:
            nn.init.orthogonal_(self.embed.weight, gain=1e-4 * max(self.num_embeddings, self.channels) ** 0.5)
        for part in (*self.mixers, self.input_norm, self.norm):
            part.reset_parameters()
        nn.init.orthogonal_(self.lin_out.weight, gain=0.5 * max(self.out_channels / self.channels, 1) ** 0.5)

    def _embedded(self, x: Tensor, layout: TokenLayout | None) -> Tensor:
        if self.binarize is not None:
            check_finite(x)  # a spike cannot show that a number was NaN
        h = super()._embedded(x, layout)
        return self.input_norm(h if self.binarize is None else self.binarize(h))

    def synaptic_operations(self, rates: Mapping[str, float]) -> float:
        """Additions a token, as if each spike went by itself through the linear maps that come next.

        So the paper counts. It is a claim about hardware: here, and in the paper's own network, a norm lies between,
        after which numbers are real, and all products are computed.

        Args:
            rates: spikes a neuron and token, of :class:`SpikeMeter`.
        """
        width, total = self.channels, 0.0
        for name, rate in rates.items():
            if name.endswith("time_neurons"):
                fan_out = 5 * width  # the wide map of channel mixing and that of its gate
            else:  # of the embedding or a block: on to the next block, or to the head
                last = name.startswith(f"mixers.{self.num_layers - 1}.")
                fan_out = self.out_channels if last else 3 * width
            total += rate * width * fan_out
        return total

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.channels}, {self.out_channels}, "
            f"num_layers={self.num_layers}, head={self.head!r}, spiking={self.spiking})"
        )
