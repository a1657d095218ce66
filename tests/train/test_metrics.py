"""Ranking metrics against the card's numbers, OGB's evaluators, scikit-learn and plain counting."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from graphkit.train.metrics import (
    average_precision,
    hits_at_k,
    hits_per_source,
    mrr_per_source,
    mrr_shared,
    rank_per_source,
    roc_auc,
)

POS = torch.tensor([0.9, 0.5, 0.2])
NEG = torch.tensor([0.8, 0.5, 0.1, 0.05])
#: Few distinct values, so that ties are the rule.
scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20)
matrices = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(-2, 2).map(float), min_size=width + 1, max_size=width + 1), min_size=1, max_size=8
    )
)


@pytest.fixture(scope="module")
def evaluator():
    """OGB's own evaluators; they look for updates over the network at import unless told not to."""
    before = os.environ.get("OUTDATED_IGNORE")
    os.environ["OUTDATED_IGNORE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            linkproppred = pytest.importorskip("ogb.linkproppred")
    finally:
        os.environ.pop("OUTDATED_IGNORE")
        if before is not None:
            os.environ["OUTDATED_IGNORE"] = before
    return linkproppred.Evaluator


@pytest.mark.parametrize(("k", "want"), [(1, 1 / 3), (2, 1 / 3), (3, 1.0), (4, 1.0)])
def test_golden_hits(k: int, want: float) -> None:
    """At k = 2 the positive that ties with the second negative does not count."""
    assert hits_at_k(POS, NEG, k) == pytest.approx(want, abs=1e-12)


def test_more_ranks_than_negatives() -> None:
    with pytest.warns(UserWarning, match=r"Hits@9 is 1.0 by definition: there are only 4 negatives"):
        assert hits_at_k(POS, NEG, 9) == 1.0
    with pytest.warns(UserWarning, match="only 0 negatives"):
        assert hits_at_k(POS, NEG[:0], 1) == 1.0


def test_golden_reciprocal_rank() -> None:
    want = (1 + 1 / 2.5 + 1 / 3) / 3
    assert want == pytest.approx(0.577778, abs=5e-7)
    assert mrr_shared(POS, NEG) == pytest.approx(want, abs=1e-12)
    assert mrr_per_source(POS, NEG.expand(3, 4)) == pytest.approx(want, abs=1e-12)


@given(scores, scores, st.integers(1, 20))
@settings(deadline=None, max_examples=100)
def test_hits_by_counting(pos, neg, k) -> None:
    assume(k <= len(neg))
    threshold = sorted(neg, reverse=True)[k - 1]
    want = sum(score > threshold for score in pos) / len(pos)
    assert hits_at_k(torch.tensor(pos), torch.tensor(neg), k) == pytest.approx(want, abs=1e-12)


@given(scores, scores)
@settings(deadline=None, max_examples=100)
def test_reciprocal_rank_by_counting(pos, neg) -> None:
    """The mean of the best and the worst rank among ties."""
    ranks = [1 + sum(n > p for n in neg) + sum(n == p for n in neg) / 2 for p in pos]
    want = sum(1 / rank for rank in ranks) / len(pos)
    one, all_of_them = torch.tensor(pos), torch.tensor(neg)
    assert mrr_shared(one, all_of_them) == pytest.approx(want, abs=1e-12)
    assert mrr_per_source(one, all_of_them.expand(len(pos), -1)) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", ["ogbl-ddi", "ogbl-collab", "ogbl-ppa"])
@pytest.mark.parametrize("ties", [False, True])
def test_hits_are_ogbs(evaluator, name: str, ties: bool) -> None:
    official = evaluator(name)
    generator = torch.Generator().manual_seed(0)
    for seed in range(3):
        pos, neg = torch.randn(300, generator=generator) + 1, torch.randn(500, generator=generator) - seed
        if ties:
            pos, neg = pos.round(decimals=1), neg.round(decimals=1)
        (want,) = official.eval({"y_pred_pos": pos, "y_pred_neg": neg}).values()
        assert 0 < want < 1
        assert hits_at_k(pos, neg, official.K) == pytest.approx(float(want), abs=1e-12)


def test_hits_are_ogbs_where_negatives_run_out(evaluator) -> None:
    official = evaluator("ogbl-ddi")
    want = official.eval({"y_pred_pos": POS, "y_pred_neg": NEG})[f"hits@{official.K}"]
    with pytest.warns(UserWarning, match="by definition"):
        assert hits_at_k(POS, NEG, official.K) == want == 1.0


@given(matrices)
@settings(deadline=None, max_examples=50)
def test_reciprocal_rank_is_citation2s(evaluator, rows) -> None:
    matrix = torch.tensor(rows)
    pos, neg = matrix[:, 0].contiguous(), matrix[:, 1:].contiguous()
    found = evaluator("ogbl-citation2").eval({"y_pred_pos": pos, "y_pred_neg": neg})["mrr_list"]
    # OGB takes the reciprocal of the mean of the optimistic and the pessimistic rank, in single precision.
    assert mrr_per_source(pos, neg) == pytest.approx(float(found.double().mean()), abs=1e-6)


masked_matrices = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        st.lists(st.integers(-2, 2).map(float), min_size=shape[0], max_size=shape[0]),
        *(
            st.lists(st.lists(cell, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
            for cell in (st.integers(-2, 2).map(float), st.booleans())
        ),
    )
)


@given(masked_matrices, st.integers(1, 6))
@settings(deadline=None, max_examples=100)
def test_ranks_by_counting(rows, k: int) -> None:
    """The mean of the best and the worst rank among ties; masked negatives do not count."""
    pos, neg, mask = (torch.tensor(part) for part in rows)
    want = []
    for score, row, keep in zip(*rows, strict=True):
        kept = [value for value, counts in zip(row, keep, strict=True) if counts]
        best, worst = 1 + sum(value > score for value in kept), 1 + sum(value >= score for value in kept)
        want.append((best + worst) / 2)
    assert rank_per_source(pos, neg, mask).tolist() == want
    assert mrr_per_source(pos, neg, mask) == pytest.approx(sum(1 / rank for rank in want) / len(want), abs=1e-12)
    assert hits_per_source(pos, neg, k, mask) == pytest.approx(sum(rank <= k for rank in want) / len(want))
    assert torch.equal(rank_per_source(pos, neg), rank_per_source(pos, neg, torch.ones_like(mask)))


@given(matrices)
@settings(deadline=None, max_examples=50)
def test_ranks_are_tgbs(rows) -> None:
    official = pytest.importorskip("tgb.linkproppred.evaluate", reason="py-tgb is not installed").Evaluator("tgbl-wiki")
    matrix = torch.tensor(rows)
    pos, neg = matrix[:, 0], matrix[:, 1:]
    found = official.eval({"y_pred_pos": pos, "y_pred_neg": neg, "eval_metric": ["mrr"]})
    assert mrr_per_source(pos, neg) == pytest.approx(float(found["mrr"]), abs=1e-6)  # single precision there
    assert hits_per_source(pos, neg, 10) == pytest.approx(float(found["hits@10"]), abs=1e-6)


@given(scores, scores)
@settings(deadline=None, max_examples=60)
def test_average_precision_by_thresholds(pos, neg) -> None:
    """The sum over thresholds, from the highest down, of precision times the recall gained."""
    want, before = 0.0, 0
    for threshold in sorted({*pos, *neg}, reverse=True):
        hits, misses = (sum(score >= threshold for score in part) for part in (pos, neg))
        want += hits / (hits + misses) * (hits - before) / len(pos)
        before = hits
    assert average_precision(torch.tensor(pos), torch.tensor(neg)) == pytest.approx(want, abs=1e-12)
    shifted = average_precision(torch.tensor(pos) + 300, torch.tensor(neg) + 300)
    assert shifted == pytest.approx(want, abs=1e-12)


@given(scores, scores)
@settings(deadline=None, max_examples=60)
def test_auc_is_scikit_learns(pos, neg) -> None:
    want = roc_auc_score([1] * len(pos) + [0] * len(neg), pos + neg)
    assert roc_auc(torch.tensor(pos), torch.tensor(neg)) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-4, 0.0), (50.0, 0.0), (1.0, 300.0), (1e-3, -80.0)])
def test_auc_does_not_depend_on_the_scale(scale: float, shift: float) -> None:
    """Logits far from zero saturate a sigmoid; their order must survive."""
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(200, generator=generator, dtype=torch.float64) + 0.7
    neg = torch.randn(300, generator=generator, dtype=torch.float64)
    want = roc_auc_score([1] * 200 + [0] * 300, torch.cat([pos, neg]).numpy())
    assert roc_auc(scale * pos + shift, scale * neg + shift) == pytest.approx(want, abs=1e-6)


def test_constant_scores() -> None:
    """A model that cannot tell anything apart is not rewarded."""
    same = torch.zeros(50)
    assert hits_at_k(same, same, 1) == 0.0
    assert roc_auc(same, same) == pytest.approx(0.5)
    assert average_precision(same, same) == pytest.approx(0.5)
    assert mrr_shared(same, same) == pytest.approx(1 / 26)


@pytest.mark.parametrize("metric", [lambda p, n: hits_at_k(p, n, 5), mrr_shared, roc_auc, average_precision])
def test_inputs_of_any_layout_stay_as_they_are(metric) -> None:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(60, 2, generator=generator)
    pos, neg = both[:, 0], both[:, 1]
    before = both.clone()
    order = torch.randperm(60, generator=generator)
    assert metric(pos, neg) == pytest.approx(metric(pos[order].clone(), neg.flip(0).clone()), abs=1e-12)
    assert torch.equal(both, before)
    assert both._version == 0


EMPTY = torch.zeros(0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: hits_at_k(POS, NEG, 0), "k must be in"),
        (lambda: hits_at_k(EMPTY, NEG, 1), r"pos must be a vector of at least one score \(got \[0\]\)"),
        (lambda: hits_at_k(POS[:, None], NEG, 1), r"got \[3, 1\]"),
        (lambda: hits_at_k(POS, NEG.view(2, 2), 1), r"neg must be a vector shared by all positives \(got \[2, 2\]\)"),
        (lambda: mrr_shared(EMPTY, NEG), "pos must be a vector"),
        (lambda: mrr_shared(POS, NEG.expand(3, 4)), "mrr_per_source"),
        (lambda: mrr_per_source(POS, NEG), r"neg must have shape \[3, M\].*got \[4\]"),
        (lambda: mrr_per_source(POS, NEG.expand(2, 4)), r"got \[2, 4\]"),
        (lambda: mrr_per_source(EMPTY, NEG.expand(0, 4)), "pos must be a vector"),
        (lambda: rank_per_source(POS, NEG.expand(3, 4), torch.ones(3, 5) > 0), r"mask must have shape \[3, 4\]"),
        (lambda: hits_per_source(POS, NEG.expand(3, 4), 0), "k must be in"),
        (lambda: average_precision(POS, EMPTY), "neg must be a vector"),
        (lambda: average_precision(POS[:, None], NEG), "pos must be a vector"),
        (lambda: roc_auc(POS, EMPTY), "neg must be a vector"),
        (lambda: roc_auc(EMPTY, NEG), "pos must be a vector"),
    ],
)
def test_bad_input(action, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action()


def test_not_a_number_is_no_hit() -> None:
    pos: Tensor = torch.tensor([float("nan"), 3.0])
    assert hits_at_k(pos, NEG, 1) == 0.5
    assert rank_per_source(pos, NEG.expand(2, 4)).tolist() == [5, 1]
    assert rank_per_source(POS[:1], torch.tensor([[float("nan"), 0.1]])).tolist() == [2]
