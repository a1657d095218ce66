"""Texts and sequences with a known answer: against loops, what is read back, wrong input."""

from __future__ import annotations

import pytest
import torch

from graphkit.datasets import load
from graphkit.datasets.recall import associative_recall, reset_majority
from graphkit.datasets.text import character_tokens, help_topics, position_split, read_text


def test_characters_are_read_back(tmp_path):
    text = "Żółw ~ ab\nba 😀"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    data = read_text(tmp_path / "text.txt")
    assert "".join(data.symbols[i] for i in data.x.tolist()) == text
    assert data.symbols == "".join(sorted(set(text)))
    assert data.num_nodes == len(text)


def test_help_topics_are_a_text_of_python():
    data = help_topics()
    assert data.num_nodes > 300_000
    assert "statement" in "".join(data.symbols[i] for i in data.x[:20000].tolist())
    split = load("help-topics").split(0)
    assert split.train.numel() + split.valid.numel() + split.test.numel() == data.num_nodes
    assert int(split.train[-1]) + 1 == int(split.valid[0])
    assert int(split.valid[-1]) + 1 == int(split.test[0])


def test_the_majority_since_the_last_reset():
    data = reset_majority(50, length=30, reset=0.2, seed=3)
    for x, y in zip(data.x.view(50, 30).tolist(), data.y.view(50, 30).tolist(), strict=True):
        total = 0
        for token, label in zip(x, y, strict=True):
            total = 0 if token == 2 else total + 2 * token - 1
            assert label == (-1 if total == 0 else int(total > 0))
    assert torch.equal(data.ptr, torch.arange(51) * 30)
    assert 0.15 < float((data.x == 2).float().mean()) < 0.25


def test_keys_are_asked_for_their_values():
    data = associative_recall(40, length=30, pairs=5, keys=9, values=7, seed=2)
    for x, y in zip(data.x.view(40, 30).tolist(), data.y.view(40, 30).tolist(), strict=True):
        value = dict(zip(x[0:10:2], x[1:10:2], strict=True))
        assert len(value) == 5
        assert y[:10] == [-1] * 10
        asked = [(token, label) for token, label in zip(x[10:], y[10:], strict=True) if label >= 0]
        assert sorted(token for token, _ in asked) == sorted(value)
        assert all(9 + label == value[token] for token, label in asked)
        assert all(token == 16 for token, label in zip(x[10:], y[10:], strict=True) if label < 0)


def test_a_seed_makes_the_sequences():
    for make in (reset_majority, associative_recall):
        assert torch.equal(make(5, seed=1).x, make(5, seed=1).x)
        assert not torch.equal(make(5, seed=1).x, make(5, seed=2).x)


@pytest.mark.parametrize("name", ["reset-majority", "associative-recall"])
def test_parts_of_sequences_share_none(name):
    dataset = load(name)
    split = dataset.split(0)
    assert [split.train.numel(), split.valid.numel(), split.test.numel()] == [12800, 1280, 1280]
    length = int(dataset.info.nodes)
    rows = dataset.graphs._data.x.view(-1, length)
    assert rows.unique(dim=0).size(0) == len(rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: character_tokens(""), "at least one character"),
        (lambda: position_split(5), "leave a part of 5 tokens empty"),
        (lambda: reset_majority(0), "num_sequences"),
        (lambda: reset_majority(1, reset=2), "reset"),
        (lambda: associative_recall(1, length=5, pairs=2), "length"),
        (lambda: associative_recall(1, keys=3), "keys"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_text_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tiny-shakespeare is not on disk: put it at .*input.txt"):
        load("tiny-shakespeare", tmp_path)
