"""The vector quantiser: golden values, the update rules by hand in plain Python, gradients, k-means, bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from graphkit.nn import VectorQuantizer, code_scores, kmeans

DOUBLE = torch.float64
CODES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
X = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.1]])


def golden(**options) -> VectorQuantizer:
    quantizer = VectorQuantizer(2, 3, **options)
    with torch.no_grad():
        quantizer.codebook.copy_(CODES)
        if quantizer.sums is not None:
            quantizer.sums.copy_(CODES)
    return quantizer


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def made(*sizes: int, seed: int = 0, **options) -> VectorQuantizer:
    torch.manual_seed(seed)
    return VectorQuantizer(*sizes, **options).double()


# The card's numbers ---------------------------------------------------------------------------------------------------


def test_golden_step() -> None:
    quantizer = golden()
    out = quantizer(X)
    assert out.code.tolist() == [1, 1, 0]
    torch.testing.assert_close(out.scores[0], torch.tensor([0.6, 0.8, -0.6]))
    # Quantised by the codes before the step.
    assert torch.equal(out.quantized, CODES[[1, 1, 0]])
    assert float(out.loss) == pytest.approx(0.792083, abs=1e-6)
    assert float(out.perplexity) == pytest.approx(1.889882, abs=1e-6)
    want = torch.tensor([[0.999007, 0.019901], [0.063246, 0.989737], [-1.0, 0.0]])
    torch.testing.assert_close(quantizer.codebook, want, atol=1e-6, rtol=0)


def test_eval_mode_looks_up_and_changes_nothing() -> None:
    quantizer = golden(dead_code_threshold=0.5, temperature=1.0).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    x = X.clone().requires_grad_()
    out = quantizer(x)
    assert torch.equal(out.quantized, CODES[[1, 1, 0]])
    assert not out.quantized.requires_grad
    assert float(out.loss) == 0
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


# Scores and codes -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_scores_are_cosines_and_distances(rows: int, codes: int, width: int, seed: int) -> None:
    x, codebook = draw(rows, width, seed), draw(codes, width, seed + 1)
    cosine = torch.stack([F.cosine_similarity(row[None], codebook) for row in x])
    torch.testing.assert_close(code_scores(x, codebook), cosine)
    torch.testing.assert_close(code_scores(x, codebook, "euclidean"), -torch.cdist(x, codebook), atol=1e-6, rtol=1e-6)


def test_distance_to_itself_has_a_finite_gradient() -> None:
    x = draw(3, 4).requires_grad_()
    code_scores(x, x.detach(), "euclidean").sum().backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("heads", [1, 3])
def test_codes_are_the_nearest_of_each_head(metric: str, heads: int) -> None:
    quantizer, x = made(12, 5, heads=heads, metric=metric).eval(), draw(40, 12)
    out = quantizer(x)
    books = quantizer.codebook.view(heads, 5, -1)
    code = out.code.view(40, heads)
    for i in range(40):
        for h, part in enumerate(x[i].view(heads, -1)):
            if metric == "cosine":
                want = int(F.cosine_similarity(part[None], books[h]).argmax())
            else:
                want = int((books[h] - part).square().sum(1).argmin())
            assert int(code[i, h]) == want
            assert torch.equal(out.quantized[i].view(heads, -1)[h], books[h, want])
    assert out.scores.shape == ((40, 5) if heads == 1 else (40, heads, 5))
    assert torch.equal(quantizer.encode(x), out.code)
    assert torch.equal(quantizer.lookup(out.code), out.quantized)


def test_encode_in_blocks(monkeypatch) -> None:
    quantizer, x = made(6, 7, heads=2).eval(), draw(23, 6)
    monkeypatch.setattr("graphkit.nn.quantize.vector._BLOCK", 50)
    assert torch.equal(quantizer.encode(x), quantizer(x).code)


def test_temperature_draws_from_the_softmax() -> None:
    torch.manual_seed(0)
    quantizer = golden(temperature=0.5, decay=0.999999)
    x = torch.tensor([[3.0, 4.0]]).expand(4000, 2)
    counts = quantizer(x).code.bincount(minlength=3).double() / 4000
    want = (torch.tensor([0.6, 0.8, -0.6]) / 0.5).softmax(0).double()
    error = (want * (1 - want) / 4000).sqrt()
    assert bool(((counts - want).abs() < 4 * error).all())


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
def test_the_gradient_passes_straight_through(heads: int) -> None:
    quantizer, x = made(6, 4, heads=heads, commitment=0.0), draw(9, 6).requires_grad_()
    out = quantizer(x)
    weight = draw(9, 6, 1)
    (out.quantized * weight).sum().backward()
    assert torch.equal(x.grad, weight)
    assert not quantizer.codebook.requires_grad


def test_commitment_pulls_vectors_to_their_codes_alone() -> None:
    quantizer, x = made(6, 4), draw(9, 6).requires_grad_()
    codebook = quantizer.codebook.clone()
    out = quantizer(x)
    out.loss.backward()
    chosen = codebook[out.code]
    torch.testing.assert_close(out.loss, 0.25 * (chosen - x).square().mean())
    torch.testing.assert_close(x.grad, 0.5 * (x.detach() - chosen) / x.numel())


def test_codes_trained_by_gradient() -> None:
    quantizer, x = made(4, 3, ema=False, metric="euclidean", commitment=0.5), draw(10, 4).requires_grad_()
    before = quantizer.codebook.detach().clone()
    out = quantizer(x)
    out.loss.backward()
    chosen = before[out.code]
    torch.testing.assert_close(out.loss.detach(), 1.5 * (chosen - x.detach()).square().mean())
    want = torch.zeros_like(before).index_add_(0, out.code, 2 * (chosen - x.detach()) / x.numel())
    torch.testing.assert_close(quantizer.codebook.grad, want)
    assert torch.equal(quantizer.codebook, before)
    # The value that goes on carries no gradient to the codebook.
    quantizer.codebook.grad = None
    quantizer(x).quantized.sum().backward()
    assert quantizer.codebook.grad is None


def test_orthogonality_is_zero_for_an_orthogonal_codebook() -> None:
    quantizer = VectorQuantizer(3, 3, ema=False, commitment=0.0, orthogonality=2.0, metric="euclidean")
    with torch.no_grad():
        quantizer.codebook.copy_(torch.eye(3))
    assert float(quantizer(torch.eye(3)).loss) == 0
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]]))
    nearest = quantizer.codebook[[0, 1, 2]].detach().clone()
    # Of six ordered pairs of different codes two have the cosine one.
    assert float(quantizer(nearest).loss) == pytest.approx(2 * 2 / 6)


# The update -----------------------------------------------------------------------------------------------------------


def ema_by_hand(codebook: list[list[float]], x: list[list[float]], code: list[int], decay: float) -> list[list[float]]:
    """The cosine rule as the card writes it, a code at a time."""

    def unit(v: list[float]) -> list[float]:
        norm = math.sqrt(sum(a * a for a in v))
        return [a / norm for a in v]

    out = []
    for k, old in enumerate(codebook):
        members = [unit(row) for row, c in zip(x, code, strict=True) if c == k]
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)] if members else old
        out.append([decay * a + (1 - decay) * b for a, b in zip(old, unit(mean), strict=True)])
    return out


@pytest.mark.parametrize("decay", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_cosine_update_by_hand(decay: float, seed: int) -> None:
    quantizer, x = made(3, 8, decay=decay, seed=seed), draw(10, 3, seed)
    before = quantizer.codebook.clone()
    code = quantizer(x).code
    want = torch.tensor(ema_by_hand(before.tolist(), x.tolist(), code.tolist(), decay), dtype=DOUBLE)
    torch.testing.assert_close(quantizer.codebook, want)
    unused = torch.ones(8, dtype=torch.bool)
    unused[code] = False
    assert bool(unused.any())
    torch.testing.assert_close(quantizer.codebook[unused], before[unused])


@pytest.mark.parametrize("seed", range(3))
def test_euclidean_update_by_hand(seed: int) -> None:
    quantizer, x = made(3, 6, metric="euclidean", decay=0.9, seed=seed), draw(15, 3, seed)
    sums, counts = quantizer.codebook.clone(), torch.ones(6, dtype=DOUBLE)
    for _ in range(3):
        code = quantizer(x).code
        for k in range(6):
            members = x[code == k]
            sums[k] = 0.9 * sums[k] + 0.1 * members.sum(0)
            counts[k] = 0.9 * counts[k] + 0.1 * len(members)
        smooth = (counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum()
        torch.testing.assert_close(quantizer.codebook, sums / smooth[:, None])


def test_codes_of_a_stationary_mixture_reach_the_means() -> None:
    centers = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]], dtype=DOUBLE)
    x = (centers[:, None] + 0.3 * draw(150, 2).view(3, 50, 2)).view(-1, 2)
    quantizer = made(2, 3, metric="euclidean", kmeans_init=True)
    for _ in range(60):
        out = quantizer(x)
    assert float(out.perplexity) == pytest.approx(3)
    found = quantizer.codebook[quantizer.codebook[:, 0].argsort()]
    want = x.view(3, 50, 2).mean(1)[[2, 1, 0]]
    torch.testing.assert_close(found, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_masked_rows_count_nowhere(metric: str) -> None:
    x, mask = draw(12, 4), torch.arange(12) % 3 > 0
    one, other = (made(4, 5, metric=metric, dead_code_threshold=0.0) for _ in range(2))
    masked, alone = one(x, mask), other(x[mask])
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])
    torch.testing.assert_close(masked.loss, alone.loss)
    torch.testing.assert_close(masked.perplexity, alone.perplexity)
    assert torch.equal(masked.code[mask], alone.code)


def test_dead_codes_become_rows_of_the_batch() -> None:
    torch.manual_seed(0)
    quantizer = made(2, 50, dead_code_threshold=0.1)
    x = F.normalize(draw(200, 2), dim=1).abs()
    plain = made(2, 50)
    for _ in range(30):
        revived, collapsed = quantizer(x), plain(x)
    assert float(revived.perplexity) > 2 * float(collapsed.perplexity)
    # Every code was moved into the quadrant of the data; of the others three quarters stayed where they were drawn.
    assert bool((quantizer.codebook > -1e-9).all())
    assert bool((plain.codebook < 0).any())


def test_dead_codes_never_come_from_masked_rows() -> None:
    quantizer = made(2, 20, dead_code_threshold=1.0, metric="euclidean")
    x = torch.cat([draw(5, 2), 100 + draw(50, 2)])
    for _ in range(5):
        quantizer(x, torch.arange(55) < 5)
    assert float(quantizer.codebook.max()) < 50


def test_half_precision_updates_in_the_codebooks_own_type() -> None:
    quantizer, x = VectorQuantizer(4, 6), torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    full = VectorQuantizer(4, 6)
    full.load_state_dict(quantizer.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(x.bfloat16())
    full(x.bfloat16().float())
    assert out.quantized.dtype == torch.bfloat16
    assert quantizer.codebook.dtype == torch.float32
    assert torch.equal(quantizer.codebook, full.codebook)


# k-means --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(5))
def test_kmeans_start_finds_separated_clusters(metric: str, seed: int) -> None:
    centers = 10 * torch.eye(8, dtype=DOUBLE)
    x = (centers[:, None] + 0.1 * draw(8 * 20, 8, seed).view(8, 20, 8)).view(-1, 8)
    quantizer = made(8, 8, metric=metric, kmeans_init=True, seed=seed)
    assert float(quantizer(x).perplexity) == pytest.approx(8)


def test_kmeans_with_fewer_rows_than_centres_and_with_equal_rows() -> None:
    torch.manual_seed(0)
    centers, counts = kmeans(torch.ones(2, 3, 4), 5, "euclidean")
    assert bool(centers.isfinite().all())
    assert counts.sum(1).tolist() == [3, 3]


def test_kmeans_starts_once_and_again_after_a_reset() -> None:
    quantizer, x = made(4, 3, kmeans_init=True, decay=0.999999), draw(30, 4)
    assert not bool(quantizer.initialized)
    quantizer.eval()(x)
    assert not bool(quantizer.initialized)
    quantizer.train()(x)
    first = quantizer.codebook.clone()
    quantizer(10 + x)
    torch.testing.assert_close(quantizer.codebook, first, atol=1e-4, rtol=0)
    fresh = made(4, 3, kmeans_init=True, decay=0.999999, seed=5)
    fresh.load_state_dict(quantizer.state_dict())
    assert bool(fresh.initialized)
    fresh(10 + x)
    torch.testing.assert_close(fresh.codebook, quantizer.codebook, atol=1e-4, rtol=0)
    quantizer.reset_parameters()
    assert not bool(quantizer.initialized)
    quantizer(10 + x)
    assert bool(quantizer.initialized)


# Several processes ----------------------------------------------------------------------------------------------------


def test_processes_add_their_counts_and_sums(monkeypatch) -> None:
    """Two shares, updated as two processes would, against the whole batch in one."""
    x = draw(20, 4)
    whole, first, second = (made(4, 6, metric="euclidean") for _ in range(3))
    whole(x)
    shares = (x[:12], x[12:])
    # What each process would send: counts, then sums.
    sent: list[list[Tensor]] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "broadcast", lambda value, source: None)
    for share in shares:
        calls: list[Tensor] = []
        monkeypatch.setattr(dist, "all_reduce", lambda value, calls=calls: calls.append(value.clone()))
        made(4, 6, metric="euclidean")(share)
        sent.append(calls)
    assert len(sent[0]) == len(sent[1]) == 2
    for quantizer, share in ((first, shares[0]), (second, shares[1])):
        totals = iter([a + b for a, b in zip(*sent, strict=True)])
        monkeypatch.setattr(dist, "all_reduce", lambda value, totals=totals: value.copy_(next(totals)))
        quantizer(share)
        torch.testing.assert_close(quantizer.codebook, whole.codebook)
        torch.testing.assert_close(quantizer.usage, whole.usage)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, r"num_codes must be in \[1, inf\] \(got 0\)"),
        ({"dim": 0}, "dim must be"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\) \(got 1\)"),
        ({"decay": -0.1}, "decay must be in"),
        ({"heads": 3}, "dim must be divisible by heads"),
        ({"metric": "cosin"}, "did you mean 'cosine'"),
        ({"commitment": -1}, "commitment must be"),
        ({"dead_code_threshold": 2}, "dead_code_threshold must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"orthogonality": 1.0}, "orthogonality needs codes with a gradient"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**{"dim": 4, "num_codes": 5, **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(3, 5), r"x must have shape \[N, 4\] \(got \[3, 5\]\)"),
        (torch.ones(4), r"\(got \[4\]\)"),
        (torch.ones(0, 4), "empty batch"),
        (torch.full((2, 4), float("nan")), "8 values that are not finite"),
        (torch.full((2, 4), float("inf")), "not finite"),
    ],
)
def test_bad_batches(x: Tensor, message: str) -> None:
    quantizer = VectorQuantizer(4, 5)
    before = quantizer.codebook.clone()
    with pytest.raises(ValueError, match=message):
        quantizer(x)
    assert torch.equal(quantizer.codebook, before)


def test_bad_masks_and_codes() -> None:
    quantizer = VectorQuantizer(4, 5)
    with pytest.raises(ValueError, match="mask must be a bool vector"):
        quantizer(torch.ones(3, 4), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be a bool vector"):
        quantizer(torch.ones(3, 4), torch.ones(3))
    for bad in (5, -1):
        with pytest.raises(IndexError, match=f"code holds {bad}"):
            quantizer.lookup(torch.tensor([0, bad]))
    with pytest.raises(ValueError, match="code must have shape"):
        quantizer.lookup(torch.zeros(2, 2, dtype=torch.long))


def test_a_codebook_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for codebook"):
        VectorQuantizer(4, 5).load_state_dict(VectorQuantizer(4, 6).state_dict())


def test_whole_numbers_are_no_vectors():
    with pytest.raises(TypeError, match="must be floating point"):
        VectorQuantizer(4, 8)(torch.ones(3, 4).long())
