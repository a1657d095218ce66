"""Of the places where a value occurs, the last one; the distinct values of a list of ids. Without waiting for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.cpu import last as cpu


def last_occurrence(index: Tensor) -> Tensor:
    """``[E]`` bool: whether no later place of ``index`` ``[E]`` holds the same value. O(E log E).

    With it a scatter that hits a slot several times is the same on every device: let the last write win and send the
    others to a row that nobody reads.

    Example:
        >>> last_occurrence(torch.tensor([3, 5, 3, 3]))
        tensor([False,  True, False,  True])
    """
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    last = torch.ones_like(index, dtype=torch.bool)
    last[order[:-1]] = ordered[1:] != ordered[:-1]
    return last


def compact(n_id: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes to work on such that each of ``n_id`` is among them: ``(nodes, inverse)`` with ``nodes[inverse] == n_id``.

    On the CPU the distinct ones, in order of first occurrence. On a GPU their number would have to be waited for:
    there it is all nodes, or ``n_id`` itself where that is shorter, and work is done twice rather than waited for.

    Args:
        n_id: ids in ``[0, num_nodes)``, any shape.
        num_nodes: number of nodes.

    Shapes:
        - ``nodes`` ``[n]``, ``inverse`` as ``n_id``

    Example:
        >>> compact(torch.tensor([[7, 2], [2, 7]]), num_nodes=9)
        (tensor([7, 2]), tensor([[0, 1],
                [1, 0]]))
    """
    if n_id.device.type == "cpu":
        return cpu.compact(n_id, num_nodes)
    if num_nodes <= n_id.numel():
        return torch.arange(num_nodes, device=n_id.device), n_id
    return n_id.reshape(-1), torch.arange(n_id.numel(), device=n_id.device).view(n_id.shape)
