"""Next tokens and classes of tokens: what is scored, in what unit, exact resume, wrong input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.data import Data

from graphkit.datasets import IndexSplit
from graphkit.datasets.recall import reset_majority
from graphkit.datasets.text import position_split
from graphkit.nn import GatedLinearAttention, NGram, SelectiveSSM, TokenModel
from graphkit.ops import TokenLayout
from graphkit.train import CosineSchedule, NextTokenTask, TokenClassificationTask, Trainer

IDS = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0))


def task(context: int = 16, **options) -> NextTokenTask:
    return NextTokenTask(IDS, position_split(400), context, **options)


class Logits(nn.Module):
    """The same logits after every token, plus what the token itself says."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, x, tokens):
        assert isinstance(tokens, TokenLayout)
        return self.table[x]


def test_bits_and_perplexity():
    uniform = task().evaluate(Logits(torch.zeros(5, 5)), "valid")
    assert uniform["Bits per character"] == pytest.approx(math.log2(5))
    assert uniform["Perplexity"] == pytest.approx(5)
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    wanted = nn.functional.cross_entropy(table[IDS[359:399]], IDS[360:400]) / math.log(2)
    assert task().evaluate(Logits(table), "test")["Bits per character"] == pytest.approx(float(wanted))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 20), st.integers(0, 60), st.integers(1, 60), st.integers(1, 5))
def test_every_token_is_scored_once_with_half_a_context_before_it(context, first, length, batch_size):
    one = task(context, batch_size=batch_size)
    targets = []
    for place, ptr, scored in one.windows(first, first + length):
        assert int(ptr.diff().max()) <= context
        owner = torch.bucketize(torch.arange(len(place)), ptr, right=True) - 1
        rank = torch.arange(len(place)) - ptr[owner]
        assert bool((place.diff()[owner.diff() == 0] == 1).all())
        known = (rank + 1)[scored]
        assert bool(((known >= (context + 1) // 2) | (place[scored] + 1 == known)).all())
        targets += (place[scored] + 1).tolist()
    assert targets == list(range(max(first, 1), first + length))


def test_an_epoch_is_windows_side_by_side_that_begin_elsewhere_in_the_next():
    one = task(16, batch_size=4)
    epochs = [torch.cat(list(one.batches(epoch))) for epoch in (1, 2)]
    for starts in epochs:
        assert len(starts) == 320 // 16 - 1
        ordered = starts.sort().values
        assert bool((ordered.diff() == 16).all())
        assert int(ordered[0]) < 16
        assert int(ordered[-1]) + 16 < 320
        assert not torch.equal(starts, ordered)
    assert int(epochs[0].min()) != int(epochs[1].min())
    assert torch.equal(epochs[0], torch.cat(list(task(16, batch_size=4).batches(1))))
    assert sum(1 for _ in one.batches(1)) == one.num_batches()


def test_the_loss_is_the_mean_and_shares_add_up():
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    batch = next(iter(task().batches(1)))
    place = (batch[:, None] + torch.arange(16)).view(-1)
    wanted = nn.functional.cross_entropy(table[IDS[place]], IDS[place + 1])
    torch.testing.assert_close(task().loss(Logits(table), batch), wanted)
    shares = []
    for rank in range(2):
        one = task()
        one.rank, one.world_size = rank, 2
        shares.append(one.loss(Logits(table), batch))
    torch.testing.assert_close(sum(shares) / 2, wanted)


def run(folder, epochs=4, stop=None, resume=False):
    torch.manual_seed(0)
    model = TokenModel(1, 8, 3, lambda c: SelectiveSSM(c, d_state=2), 1, num_embeddings=3, dropout=0.1)
    one = NextTokenTask(torch.tensor([0, 1, 1, 2]).repeat(60), position_split(240), 8, batch_size=4)
    trainer = Trainer(epochs, device="cpu", folder=folder, resume=resume, progress=False, schedule=CosineSchedule(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def kill(epoch, row):
        if epoch == stop:
            raise KeyboardInterrupt

    return trainer.fit(model, one, optimizer, kill), model


def test_a_cycle_is_learned_and_resume_is_exact(tmp_path):
    whole, model = run(tmp_path / "whole")
    assert whole.test("Bits per character") < 0.6
    assert whole.best["Perplexity"]["test"] == pytest.approx(2 ** whole.test("Bits per character"))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=2)
    again, other = run(tmp_path / "parts", resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_the_epoch_with_the_fewest_bits_is_chosen():
    result = Trainer(0, device="cpu", progress=False).fit(NGram(5, 2).fit(IDS[:320]), task())
    assert result.best["Bits per character"]["epoch"] == 0
    assert task().monitor in task().lower_is_better
    assert task(name="byte").monitor == "Bits per byte"


# Classes of tokens ----------------------------------------------------------------------------------------------------

PARTS = IndexSplit(*torch.arange(60).split([40, 10, 10]))


def test_accuracy_counts_the_tokens_asked_alone():
    data = reset_majority(60, length=7, seed=1)
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    longer = reset_majority(5, length=14, seed=2)
    one = TokenClassificationTask(data, PARTS, longer=longer)
    guess = table.argmax(1)

    class Table(Logits):
        def forward(self, x, tokens):
            return self.table[x]

    def share(data, rows):
        asked = (data.y >= 0) & rows
        return 100 * float((guess[data.x] == data.y)[asked].float().mean())

    rows = torch.zeros(420, dtype=torch.bool)
    rows[350:] = True
    assert one.evaluate(Table(table), "test")["Accuracy"] == pytest.approx(share(data, rows))
    wanted = share(longer, torch.ones(70, dtype=torch.bool))
    assert one.final_metrics(Table(table))["Accuracy, longer"]["test"] == pytest.approx(wanted)
    batch = torch.tensor([0, 3, 5])
    graphs = one._graphs.batch(batch)
    wanted = nn.functional.cross_entropy(table[graphs.x], graphs.y, ignore_index=-1)
    torch.testing.assert_close(one.loss(Table(table), batch), wanted)
    shares = []
    for rank in range(2):
        one.rank, one.world_size = rank, 2
        shares.append(one.loss(Table(table), batch))
    torch.testing.assert_close(sum(shares) / 2, wanted)


def test_gates_that_forget_find_the_majority():
    """A short training: gates are better than none."""
    data = reset_majority(500, length=24, seed=0)
    split = IndexSplit(*torch.arange(500).split([400, 50, 50]))
    found = {}
    for decay in ("gated", "none"):
        torch.manual_seed(0)
        model = TokenModel(1, 16, 2, lambda c, d=decay: GatedLinearAttention(c, 2, decay=d), 1, num_embeddings=3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        trainer = Trainer(10, device="cpu", progress=False, schedule=CosineSchedule(10))
        found[decay] = trainer.fit(model, TokenClassificationTask(data, split), optimizer).test("Accuracy")
    assert found["gated"] > 96
    assert found["gated"] > found["none"] + 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: NextTokenTask(IDS.float(), position_split(400)), ValueError, "vector of int64"),
        (lambda: NextTokenTask(IDS, position_split(500)), ValueError, "consecutive places of 400"),
        (lambda: NextTokenTask(IDS, IndexSplit(IDS[:0], IDS[:0], IDS[:0])), ValueError, "split.train"),
        (lambda: task(161), ValueError, "context must fit twice"),
        (lambda: task(num_tokens=4), ValueError, "num_tokens"),
        (lambda: task().evaluate(Logits(torch.zeros(5, 4)), "valid"), ValueError, "model must return logits"),
        (lambda: task().evaluate(Logits(torch.zeros(5, 5)), "train"), ValueError, "split must be one of"),
        (lambda: TokenClassificationTask([Data(x=IDS[:2])] * 3, PARTS), ValueError, "y with a row a token"),
        (lambda: TokenClassificationTask(reset_majority(30), PARTS), IndexError, "outside"),
        (
            lambda: TokenClassificationTask([Data(x=IDS[:2], y=-torch.ones(2).long())] * 60, PARTS),
            ValueError,
            "no token with a label",
        ),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
