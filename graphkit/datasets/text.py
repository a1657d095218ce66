"""Texts as one long chain of tokens, a character each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.utils.checks import check_range


def character_tokens(text: str) -> Data:
    """A text as a token graph: one token a character, numbered by code point among those that occur.

    Args:
        text: the text.

    Returns:
        ``x`` ``[N]`` int64 ids and ``symbols``, the character of each id.

    Raises:
        ValueError: an empty text.

    Example:
        >>> data = character_tokens("abba")
        >>> data.x, data.symbols
        (tensor([0, 1, 1, 0]), 'ab')
    """
    if not text:
        raise ValueError("text must hold at least one character (got none)")
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    symbols, ids = np.unique(points, return_inverse=True)
    found = "".join(map(chr, symbols.tolist()))
    return Data(x=torch.from_numpy(ids.astype(np.int64)), symbols=found, num_nodes=len(ids))


def read_text(path: Path) -> Data:
    """:func:`character_tokens` of a file in UTF-8."""
    return character_tokens(path.read_text(encoding="utf-8"))


def help_topics() -> Data:
    """Python's own help texts on topics of the language, in the order of their names; the text depends on the version
    of Python."""
    from pydoc_data.topics import topics

    return character_tokens("".join(topics[name] for name in sorted(topics)))


def position_split(num_tokens: int, valid: float = 0.1, test: float = 0.1) -> IndexSplit:
    """A text cut in three at two places: its beginning for training, its end for the test.

    Args:
        num_tokens: tokens of the text.
        valid: share for validation.
        test: share for test.

    Raises:
        ValueError: shares that leave a part without tokens.

    Example:
        >>> position_split(10)
        IndexSplit(train=8, valid=1, test=1)
    """
    check_range(valid, "valid", 0, 1, low_open=True)
    check_range(test, "test", 0, 1, low_open=True)
    last, middle = int(num_tokens * test), int(num_tokens * valid)
    if min(last, middle, num_tokens - last - middle) < 1:
        raise ValueError(f"valid={valid} and test={test} leave a part of {num_tokens} tokens empty")
    parts = torch.arange(num_tokens).split([num_tokens - last - middle, middle, last])
    return IndexSplit(*parts)
