"""Sequences of tokens with a known answer: a count that starts anew, and values to be recalled by their keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch_geometric.data import Data

from graphkit.utils.checks import check_int, check_range


def reset_majority(num_sequences: int, length: int = 48, reset: float = 1 / 12, seed: int = 0) -> Data:
    """Tokens up, down and reset; asked is, at each token, whether more went up than down since the last reset.

    What came before a reset must be forgotten at once, and all that came after it kept: decays that do not depend on
    the tokens do one or the other.

    Args:
        num_sequences: number B of sequences.
        length: tokens L of each.
        reset: probability of a reset.
        seed: another seed, other sequences.

    Returns:
        ``x`` ``[B L]`` ids (0 down, 1 up, 2 reset), ``y`` ``[B L]`` (1 more up, 0 more down, -1 as many: not asked) and
        ``ptr`` ``[B + 1]``.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> data = reset_majority(2, length=6, reset=0.3)
        >>> data.x.view(2, 6), data.y.view(2, 6)
        (tensor([[1, 1, 1, 0, 0, 2],
                [0, 2, 0, 2, 1, 1]]), tensor([[ 1,  1,  1,  1,  1, -1],
                [ 0, -1,  0, -1,  1,  1]]))
    """
    check_int(num_sequences, "num_sequences", 1)
    check_int(length, "length", 1)
    check_range(reset, "reset", 0, 1)
    random = np.random.default_rng(seed)
    x = random.integers(0, 2, (num_sequences, length))
    x[random.random((num_sequences, length)) < reset] = 2
    total = np.cumsum(np.array([-1, 1, 0])[x], 1)
    # What had been counted at the last reset, which itself counts nothing.
    last = np.maximum.accumulate(np.where(x == 2, np.arange(length), -1), 1)
    before = np.where(last >= 0, np.take_along_axis(total, np.maximum(last, 0), 1), 0)
    balance = total - before
    y = np.where(balance == 0, -1, balance > 0)
    return _sequences(x, y)


def associative_recall(
    num_sequences: int, length: int = 32, pairs: int = 4, keys: int = 16, values: int = 16, seed: int = 0
) -> Data:
    """Keys with a value each, then the keys again, one by one at random places: asked is the value of each. The
    multi-query associative recall of `"Zoology: Measuring and Improving Recall in Efficient Language Models"
    <https://arxiv.org/abs/2312.04927>`_, with places that are uniform and blanks between.

    Args:
        num_sequences: number B of sequences.
        length: tokens L of each, at least three a pair.
        pairs: keys of a sequence, all different.
        keys: number of keys.
        values: number of values.
        seed: another seed, other sequences.

    Returns:
        ``x`` ``[B L]`` ids (keys, then values, then one blank), ``y`` ``[B L]`` the number of the value where a key is
        asked, -1 elsewhere, and ``ptr`` ``[B + 1]``.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> data = associative_recall(1, length=8, pairs=2, keys=4, values=4, seed=1)
        >>> data.x, data.y
        (tensor([2, 4, 0, 5, 0, 8, 2, 8]), tensor([-1, -1, -1, -1,  1, -1,  0, -1]))
    """
    check_int(num_sequences, "num_sequences", 1)
    check_int(pairs, "pairs", 1)
    check_int(length, "length", 3 * pairs)
    check_int(keys, "keys", pairs)
    check_int(values, "values", 1)
    random = np.random.default_rng(seed)
    key = random.random((num_sequences, keys)).argsort(1)[:, :pairs]
    value = random.integers(0, values, (num_sequences, pairs))
    x = np.full((num_sequences, length), keys + values)
    y = np.full((num_sequences, length), -1)
    x[:, 0 : 2 * pairs : 2], x[:, 1 : 2 * pairs : 2] = key, keys + value
    place = 2 * pairs + random.random((num_sequences, length - 2 * pairs)).argsort(1)[:, :pairs]
    np.put_along_axis(x, place, key, 1)
    np.put_along_axis(y, place, value, 1)
    return _sequences(x, y)


def _sequences(x: np.ndarray, y: np.ndarray) -> Data:
    ids, label = (torch.from_numpy(part.astype(np.int64)).view(-1) for part in (x, y))
    return Data(x=ids, y=label, ptr=torch.arange(len(x) + 1) * x.shape[1], num_nodes=ids.numel())


#: By name of the dataset; each takes a number of sequences, and ``length`` and ``seed``.
SEQUENCE_TASKS: dict[str, Callable[..., Data]] = {
    "reset-majority": reset_majority,
    "associative-recall": associative_recall,
}
