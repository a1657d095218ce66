"""Families of functions of one variable, of which Kolmogorov-Arnold layers make their activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphkit.utils.checks import check_choice, check_int


class Basis(nn.Module):
    """What all families share: :attr:`size` functions, evaluated at every entry.

    Shapes:
        - **input:** any
        - **output:** as the input with :attr:`size` values for each entry, ``[..., size]``
    """

    size: int

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check_int(size, "size", 1)

    def reset_parameters(self) -> None:
        """Nothing to draw unless a family learns something itself."""

    @torch.no_grad()
    def init(self, weight: Tensor) -> None:
        """Draw first coefficients ``weight`` ``[in, size, out]`` in place."""
        bound = 1 / math.sqrt(weight.size(0) * weight.size(1))
        nn.init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        return f"size={self.size}"


class BSpline(Basis):
    r"""B-splines of one order on equal intervals of [-1, 1]: ``grid + order`` functions, which add up to 1 there.

    :math:`B_g(x) = \beta_k((x - t_g) / h)` with the width h of an interval, the knots :math:`t_g = -1 + (g - k) h`, and

    .. math:: \beta_k(u) = \tfrac{1}{k} (u \, \beta_{k-1}(u) + (k + 1 - u) \, \beta_{k-1}(u - 1)), \qquad
              \beta_0(u) = 1 \text{ if } 0 \le u < 1 \text{ else } 0

    Beyond the knots all are zero, and so are their slopes.

    Args:
        grid: number of intervals.
        order: k; 3 for cubic pieces.

    Raises:
        ValueError: ``grid`` below 1, ``order`` below 0.

    Example:
        >>> BSpline(grid=2, order=1)(torch.tensor([-1.0, 0.25]))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.7500, 0.2500]])
    """

    def __init__(self, grid: int = 5, order: int = 3) -> None:
        self.grid, self.order = check_int(grid, "grid", 1), check_int(order, "order", 0)
        super().__init__(grid + order)

    def forward(self, x: Tensor) -> Tensor:
        u = (x + 1) * (self.grid / 2) + self.order
        cell = u.detach().floor()
        t, k = (u - cell)[..., None], self.order
        # Only the splines that are not zero at x, from the last to begin to the first: O(k²) whatever the grid.
        value, place = torch.ones_like(t), torch.arange(k + 1, device=x.device)
        for n in range(1, k + 1):
            zero, j = torch.zeros_like(t), place[: n + 1]
            value = ((t + (n - j)) * torch.cat([zero, value], -1) + (1 - t + j) * torch.cat([value, zero], -1)) / n
        # Where the whole grid is far away all that is there is cut off.
        first = cell.clamp(-1, self.size + k).long()[..., None]
        wide = value.new_zeros(*x.shape, self.size + 2 * k + 2)
        return wide.scatter(-1, first + 1 + place, value)[..., k + 1 : k + 1 + self.size]

    @torch.no_grad()
    def init(self, weight: Tensor) -> None:
        """The spline nearest to noise of at most 0.05 / grid at the ends of the intervals."""
        points = torch.linspace(-1, 1, self.grid + 1).to(weight)
        noise = points.new_empty(points.numel(), weight.size(0) * weight.size(2))
        noise.uniform_(-0.05 / self.grid, 0.05 / self.grid)
        found = torch.linalg.pinv(self(points)) @ noise
        weight.copy_(found.view(self.size, weight.size(0), weight.size(2)).transpose(0, 1))

    def extra_repr(self) -> str:
        return f"grid={self.grid}, order={self.order}"


class _Bumps(Basis):
    """Copies of one function around equally spaced centres."""

    centres: Tensor

    def __init__(self, size: int, low: float, high: float) -> None:
        super().__init__(size)
        self.width = (high - low) / max(size - 1, 1)
        self.register_buffer("centres", torch.linspace(low, high, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.shape((x[..., None] - self.centres) / self.width)

    def shape(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def init(self, weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=0.1)


class GaussianRBF(_Bumps):
    r"""Gaussian bumps :math:`e^{-((x - t_g) / h)^2}` around centres in [-2, 2], as in `"Kolmogorov-Arnold Networks are
    Radial Basis Function Networks" <https://arxiv.org/abs/2405.06721>`_; h is the distance between centres.

    Example:
        >>> GaussianRBF(3)(torch.tensor(0.0))
        tensor([0.3679, 1.0000, 0.3679])
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(size, -2, 2)

    def shape(self, z: Tensor) -> Tensor:
        return torch.exp(-z.square())


class ReflectedSwitch(_Bumps):
    r"""Reflected switch functions :math:`1 - \tanh^2((x - t_g) / h)` around centres in [-1.2, 0.2]; h is the distance
    between centres.

    Example:
        >>> ReflectedSwitch(8)(torch.tensor([0.2]))[0, -1]
        tensor(1.)
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(size, -1.2, 0.2)

    def shape(self, z: Tensor) -> Tensor:
        return 1 - torch.tanh(z).square()


class MexicanHat(_Bumps):
    r"""Wavelets :math:`2 / (\sqrt 3 \pi^{1/4}) \, (z^2 - 1) e^{-z^2 / 2}` with :math:`z = (x - t_g) / h` around centres
    in [-1, 1], as in `"Wav-KAN: Wavelet Kolmogorov-Arnold Networks" <https://arxiv.org/abs/2405.12832>`_. There each
    edge of the network has a centre and a width of its own; here all edges share a grid of them, so that no value has
    to be computed for each pair of an input and an output.

    Example:
        >>> MexicanHat(3)(torch.tensor([0.0])).round(decimals=4)
        tensor([[ 0.0000, -0.8673,  0.0000]])
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(size, -1, 1)

    def shape(self, z: Tensor) -> Tensor:
        square = z.square()
        return 2 / (math.sqrt(3) * math.pi**0.25) * (square - 1) * torch.exp(-square / 2)

    @torch.no_grad()
    def init(self, weight: Tensor) -> None:
        Basis.init(self, weight)


class _Polynomials(Basis):
    @torch.no_grad()
    def init(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=1 / (weight.size(0) * self.size))


class Chebyshev(_Polynomials):
    r"""Chebyshev polynomials :math:`T_0, \dots, T_{G-1}` of x clamped to [-1, 1], by
    :math:`T_n = 2 x T_{n-1} - T_{n-2}`, whose slopes are finite at the ends, too.

    Example:
        >>> Chebyshev(4)(torch.tensor([0.5, 2.0]))
        tensor([[ 1.0000,  0.5000, -0.5000, -1.0000],
                [ 1.0000,  1.0000,  1.0000,  1.0000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-1, 1)
        values = [torch.ones_like(x), x]
        while len(values) < self.size:
            values.append(2 * x * values[-1] - values[-2])
        return torch.stack(values[: self.size], -1)


class Jacobi(_Polynomials):
    r"""Jacobi polynomials :math:`P_0^{(1, 1)}, \dots, P_{G-1}^{(1, 1)}` of tanh x.

    Example:
        >>> Jacobi(3)(torch.tensor(0.0))
        tensor([ 1.0000,  0.0000, -0.7500])
    """

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        values = [torch.ones_like(x), 2 * x]
        for n in range(2, self.size):
            # The recurrence of parameters a = b = 1.
            first, second = (2 * n + 1) * (n + 1) / (n * (n + 2)), (n + 1) / (n + 2)
            values.append(first * x * values[-1] - second * values[-2])
        return torch.stack(values[: self.size], -1)


class Gram(_Polynomials):
    r"""Monic polynomials of tanh x with a learned recurrence, :math:`P_n = x P_{n-1} - b_n P_{n-2}`, which starts with
    those of Legendre: :math:`b_n = (n - 1)^2 / (4 (n - 1)^2 - 1)`.

    Example:
        >>> Gram(3)(torch.tensor(0.0)).detach()
        tensor([ 1.0000,  0.0000, -0.3333])
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(size)
        self.recurrence = nn.Parameter(torch.empty(max(size - 2, 0)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to the polynomials of Legendre."""
        n = torch.arange(1, self.size - 1).to(self.recurrence)
        self.recurrence.copy_(n.square() / (4 * n.square() - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        values = [torch.ones_like(x), x]
        for b in self.recurrence:
            values.append(x * values[-1] - b * values[-2])
        return torch.stack(values[: self.size], -1)


class ReLUBumps(Basis):
    r"""Bumps :math:`(\mathrm{ReLU}(x - a_g) \, \mathrm{ReLU}(b_g - x) \cdot 4 / (b_g - a_g)^2)^2` of height 1 on the
    supports of the B-splines of the same grid, as in `"ReLU-KAN: New Kolmogorov-Arnold Networks that Only Need Matrix
    Addition, Dot Multiplication, and ReLU" <https://arxiv.org/abs/2406.02075>`_.

    Example:
        >>> ReLUBumps(grid=2, order=1)(torch.tensor([0.0]))
        tensor([[0., 1., 0.]])
    """

    low: Tensor

    def __init__(self, grid: int = 5, order: int = 3) -> None:
        self.grid, self.order = check_int(grid, "grid", 1), check_int(order, "order", 0)
        super().__init__(grid + order)
        self.register_buffer("low", -1 + (torch.arange(grid + order) - order) * 2 / grid)
        self.width = (order + 1) * 2 / grid

    def forward(self, x: Tensor) -> Tensor:
        after = x[..., None] - self.low
        return (torch.relu(after) * torch.relu(self.width - after) * 4 / self.width**2).square()


_FAMILIES: dict[str, Callable[[int, int], Basis]] = {
    "bspline": BSpline,
    "rbf": lambda grid, order: GaussianRBF(grid + order),
    "cheby": lambda grid, order: Chebyshev(grid + order),
    "wavelet": lambda grid, order: MexicanHat(grid + order),
    "rswaf": lambda grid, order: ReflectedSwitch(grid + order),
    "jacobi": lambda grid, order: Jacobi(grid + order),
    "gram": lambda grid, order: Gram(grid + order),
    "relu": ReLUBumps,
}
#: Names of all families.
FAMILIES = tuple(_FAMILIES)


def basis(name: str, grid: int = 5, order: int = 3) -> Basis:
    """The family of a name with ``grid + order`` functions.

    Args:
        name: ``"bspline"``, ``"rbf"``, ``"cheby"``, ``"wavelet"``, ``"rswaf"``, ``"jacobi"``, ``"gram"`` or ``"relu"``.
        grid: intervals of [-1, 1] of the families on knots.
        order: order of the B-splines.

    Raises:
        ValueError: another name, ``grid`` below 1, ``order`` below 0.

    Example:
        >>> basis("cheby")(torch.zeros(5, 2)).shape
        torch.Size([5, 2, 8])
    """
    check_choice(name, "family", FAMILIES)
    return _FAMILIES[name](check_int(grid, "grid", 1), check_int(order, "order", 0))
