"""An MLP that learns a graph network's predictions and codes, and needs no graph."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.nn.dropout import Dropout
from graphkit.utils.checks import check_choice, check_int, check_probabilities

NORMS = ("batch", "layer")


class CodeDistillMLP(nn.Module):
    r"""The student of `"VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs"
    <https://arxiv.org/abs/2308.02117>`_; without codes that of `"Graph-less Neural Networks: Teaching Old MLPs New
    Tricks via Distillation" <https://arxiv.org/abs/2110.08727>`_, or a plain MLP.

    Hidden layers are linear, norm, ReLU and dropout. A linear code head on the last of them gives vectors that are
    compared with a teacher's codebook while training.

    Args:
        in_channels: width of the features.
        hidden_channels: width of the hidden layers.
        out_channels: number of classes.
        code_dim: width of the teacher's codes; None makes no code head.
        num_layers: linear layers on the way to the classes, from 1.
        dropout: dropout after each hidden layer.
        norm: ``"batch"``, ``"layer"`` or None.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]``, dense or sparse CSR; a graph may follow and is not looked at
        - **output:** logits ``[N, out_channels]`` and code vectors ``[N, code_dim]`` (None without a code head)

    Raises:
        ValueError: an argument out of range; a code head without a hidden layer.

    Example:
        >>> import torch
        >>> student = CodeDistillMLP(8, 16, 3, code_dim=8)
        >>> logits, code_feature = student(torch.randn(5, 8))
        >>> logits.shape, code_feature.shape
        (torch.Size([5, 3]), torch.Size([5, 8]))
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        code_dim: int | None = None,
        num_layers: int = 2,
        dropout: float = 0.0,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = check_int(in_channels, "in_channels", 1), out_channels
        check_int(hidden_channels, "hidden_channels", 1)
        check_int(out_channels, "out_channels", 1)
        check_int(num_layers, "num_layers", 1)
        check_probabilities(dropout=dropout)
        if norm is not None:
            check_choice(norm, "norm", NORMS)
        if code_dim is not None:
            check_int(code_dim, "code_dim", 1)
            if num_layers == 1:
                raise ValueError("code_dim needs a hidden layer for the code head to read: num_layers >= 2 (got 1)")
        widths = [in_channels, *[hidden_channels] * (num_layers - 1)]
        blocks = []
        for a, b in pairwise(widths):
            kinds: dict[str | None, Any] = {None: nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
            blocks.append(nn.Sequential(SparseLinear(a, b), kinds[norm](b), nn.ReLU(), Dropout(dropout)))
        self.hidden = nn.Sequential(*blocks)
        self.lin_out = SparseLinear(widths[-1], out_channels)
        self.lin_code = None if code_dim is None else nn.Linear(widths[-1], code_dim)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor, graph: Any = None) -> tuple[Tensor, Tensor | None]:
        h = self.hidden(x)
        return self.lin_out(h), None if self.lin_code is None else self.lin_code(h)

    def serving(self) -> nn.Sequential:
        """The way to the logits as layers of PyTorch alone, in eval mode: what is left to serve or export.

        Weights are shared with this module.
        """
        parts: list[nn.Module] = []
        for block in self.hidden:
            linear, norm = block[0], block[1]  # type: ignore[index]
            parts += [_plain(linear), *([] if isinstance(norm, nn.Identity) else [norm]), nn.ReLU()]
        return nn.Sequential(*parts, _plain(self.lin_out)).eval()

    def __repr__(self) -> str:
        code = "" if self.lin_code is None else f", code_dim={self.lin_code.out_features}"
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}{code})"


def _plain(linear: nn.Linear) -> nn.Linear:
    plain = nn.Linear(linear.in_features, linear.out_features, device="meta")
    plain.weight, plain.bias = linear.weight, linear.bias
    return plain
