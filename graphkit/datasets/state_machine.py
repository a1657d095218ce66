"""Texts that a finite-state machine writes: what a model of them must know is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphkit.utils.checks import check_int


def state_machine_text(
    num_states: int = 100, out_degree: int = 10, base: int = 10, length: int = 50_000, seed: int = 0
) -> Data:
    r"""A walk through a random machine, written in digits: the task of `"Codebook Features: Sparse and Discrete
    Interpretability for Neural Networks" <https://arxiv.org/abs/2310.17230>`_ as one long text.

    Each state leads to ``out_degree`` others, drawn once, with equal chances. A state is written as its number in
    digits, and a blank follows, so that a reader who begins anywhere finds out where states begin. No model can do
    better than :math:`\log_2(\mathrm{out\_degree}) / w` bits a token with w tokens a state; one that does not know the
    state needs about :math:`\log_2(\mathrm{num\_states}) / w`.

    Args:
        num_states: number of states.
        out_degree: states that follow a state.
        base: base of the digits.
        length: states of the walk, made in O(length).
        seed: another seed, another machine.

    Returns:
        ``x`` ``[N]`` ids (digits, and ``base`` for the blank), ``state`` ``[N]`` the state that each token belongs to,
        ``transitions`` ``[2, num_states * out_degree]`` from state to state, and ``width``, the tokens of a state.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> data = state_machine_text(length=3)
        >>> data.x.tolist(), data.state.tolist()
        ([9, 6, 10, 5, 5, 10, 5, 7, 10], [96, 96, 96, 55, 55, 55, 57, 57, 57])
    """
    check_int(num_states, "num_states", 2)
    check_int(out_degree, "out_degree", 1, num_states)
    check_int(base, "base", 2)
    check_int(length, "length", 1)
    rng = np.random.default_rng(check_int(seed, "seed", 0))
    target = np.argsort(rng.random((num_states, num_states)), axis=1)[:, :out_degree]
    choice, walk = rng.integers(out_degree, size=length), np.empty(length, dtype=np.int64)
    walk[0] = rng.integers(num_states)
    follow = target.tolist()
    for step, taken in enumerate(choice[1:].tolist(), 1):
        walk[step] = follow[walk[step - 1]][taken]
    digits = 1
    while base**digits < num_states:
        digits += 1
    place = base ** np.arange(digits - 1, -1, -1)
    written = np.full((length, digits + 1), base)
    written[:, :-1] = walk[:, None] // place % base
    transitions = np.stack([np.arange(num_states).repeat(out_degree), target.reshape(-1)])
    return Data(
        x=torch.from_numpy(written.reshape(-1)),
        state=torch.from_numpy(walk).repeat_interleave(digits + 1),
        transitions=torch.from_numpy(transitions),
        width=digits + 1,
        num_nodes=length * (digits + 1),
    )


def read_states(x: Tensor, width: int, base: int = 10) -> Tensor:
    """The states that tokens of the machine spell, ``[..., length]`` of ``[..., length * width]`` that begin with a
    state; -1 where something else is written.

    Example:
        >>> read_states(torch.tensor([0, 7, 10, 1, 10, 3]), width=3)
        tensor([ 7, -1])
    """
    rows = x.unflatten(-1, (-1, width))
    place = base ** torch.arange(width - 2, -1, -1, device=x.device)
    sound = (rows[..., :-1] < base).all(-1) & (rows[..., -1] == base)
    return torch.where(sound, (rows[..., :-1] * place).sum(-1), -1)
