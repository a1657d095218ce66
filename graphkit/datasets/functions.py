"""Functions of two variables to fit, each of which suits another family of functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.utils.checks import check_choice, check_int


def _bump(x: Tensor, y: Tensor) -> Tensor:
    # T_7 by its closed form on [-1, 1].
    return torch.exp(-((x - 0.3) ** 2) / (2 * 0.05**2)) + torch.cos(7 * torch.arccos(y))


#: The functions, on [-1, 1]².
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fit-exp": lambda x, y: torch.exp(torch.sin(math.pi * x) + y**2),
    "fit-product": lambda x, y: x * y,
    "fit-wave": lambda x, y: torch.sin(5 * math.pi * x) * y,
    "fit-bump": _bump,
}


def function_points(name: str, num_points: int = 2000, seed: int = 0) -> Data:
    r"""Random points of :math:`[-1, 1]^2` and the value of a function there, without noise.

    ``"fit-exp"``: :math:`e^{\sin \pi x + y^2}`; ``"fit-product"``: :math:`x y`; ``"fit-wave"``:
    :math:`y \sin 5 \pi x`; ``"fit-bump"``: a narrow Gaussian bump of x and the Chebyshev polynomial :math:`T_7` of y.

    Args:
        name: which function.
        num_points: number of points.
        seed: another seed, other points.

    Returns:
        ``x`` ``[N, 2]`` and ``y`` ``[N, 1]``; there are no edges.

    Raises:
        ValueError: no such function, or no points.

    Example:
        >>> function_points("fit-product", 5)
        Data(x=[5, 2], edge_index=[2, 0], y=[5, 1])
    """
    check_choice(name, "name", tuple(FUNCTIONS))
    generator = torch.Generator().manual_seed(check_int(seed, "seed", 0))
    x = 2 * torch.rand(check_int(num_points, "num_points", 1), 2, generator=generator) - 1
    y = FUNCTIONS[name](x[:, 0], x[:, 1])[:, None]
    return Data(x=x, y=y, edge_index=torch.empty(2, 0, dtype=torch.long))
