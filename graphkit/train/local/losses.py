"""Losses of a single layer: goodness of positive and negative inputs, and nearness to the node of one's class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.utils.checks import check_choice, check_range


def goodness(h: Tensor, reduce: str = "sum") -> Tensor:
    r"""How active a layer is: :math:`g(v) = \sum_c h_{vc}^2`, from `"The Forward-Forward Algorithm: Some Preliminary
    Investigations" <https://arxiv.org/abs/2212.13345>`_.

    Args:
        h: ``[..., H]`` outputs of a layer.
        reduce: ``"sum"`` or ``"mean"`` over the last dimension.

    Returns:
        ``[...]``.

    Example:
        >>> goodness(torch.ones(1, 3))
        tensor([3.])
    """
    check_choice(reduce, "reduce", ("sum", "mean"))
    return h.square().sum(-1) if reduce == "sum" else h.square().mean(-1)


def forward_forward_loss(pos: Tensor, neg: Tensor, theta: float = 2.0) -> Tensor:
    r"""Goodness up for positive inputs and down for negative ones,
    :math:`\mathrm{mean}\,\mathrm{softplus}(\theta - g^+) + \mathrm{mean}\,\mathrm{softplus}(g^- - \theta)`: the binary
    cross-entropy of :math:`\sigma(g - \theta)`.

    Args:
        pos: goodness of positive inputs, any shape.
        neg: goodness of negative inputs, any shape.
        theta: the goodness of an input that is as likely positive as negative.

    Raises:
        ValueError: a negative ``theta``.

    Example:
        >>> forward_forward_loss(torch.tensor([3.0]), torch.tensor([3.0]))
        tensor(1.6265)
    """
    check_range(theta, "theta", 0)
    return F.softplus(theta - pos).mean() + F.softplus(neg - theta).mean()


def virtual_node_logits(h: Tensor, real_mask: Tensor, tau: float = 1.0) -> Tensor:
    r"""Logits from the virtual nodes of the classes, :math:`h_v \cdot h_{N + c} / \tau`, from `"Forward Learning of
    Graph Neural Networks" <https://arxiv.org/abs/2403.11004>`_. O(N C H).

    Args:
        h: ``[N + C, H]`` vectors of real nodes and, in the order of the classes, of virtual nodes.
        real_mask: ``[N + C]`` bool, True for real nodes.
        tau: temperature.

    Returns:
        ``[N, C]``.

    Raises:
        ValueError: a temperature that is not positive, or a mask of another length.

    Example:
        >>> h = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
        >>> virtual_node_logits(h, torch.tensor([True, False, False]))
        tensor([[1., 2.]])
    """
    check_range(tau, "tau", 0, low_open=True)
    if real_mask.shape != (h.size(0),):
        raise ValueError(f"real_mask must hold {h.size(0)} values, one a node (got {list(real_mask.shape)})")
    return class_logits(h[real_mask], h[~real_mask], tau)


def class_logits(real: Tensor, virtual: Tensor, tau: float) -> Tensor:
    """``[n, C]`` logits of vectors ``[n, H]`` of nodes from those of the virtual nodes ``[C, H]``."""
    return real @ virtual.t() / tau


def link_logit(product: Tensor, objective: str, theta: float = 2.0) -> Tensor:
    r"""A layer's logit of links from their products :math:`o = h_u \odot h_v`: :math:`\sum_c o_c` with ``"bce"``, and
    :math:`\sum_c o_c^2 - \theta` with ``"ff"``.

    Args:
        product: ``[B, H]``.
        objective: ``"bce"`` or ``"ff"``.
        theta: the goodness of a pair that is as likely a link as not.

    Returns:
        ``[B]``.

    Example:
        >>> link_logit(torch.tensor([[1.0, 2.0]]), "bce"), link_logit(torch.tensor([[1.0, 2.0]]), "ff")
        (tensor([3.]), tensor([3.]))
    """
    check_choice(objective, "objective", ("bce", "ff"))
    return product.sum(-1) if objective == "bce" else goodness(product) - theta


def with_states_above(h: Tensor, above: list[Tensor]) -> Tensor:
    """Mean of a layer's output and the normalised outputs of the layers above, which carry no gradient."""
    return h if not above else torch.stack([h, *(part.detach() for part in above)]).mean(0)
