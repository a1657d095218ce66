"""The generator of neighbours' features: its loss against closed forms, and what it learns of a known graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from graphkit.nn import NeighborCVAE
from graphkit.nn.conv.sparse_linear import select_rows, stack_rows
from graphkit.nn.models.neighbor_cvae import gaussian_kl, negative_elbo


def bags(rows: int, columns: int, seed: int = 0, share: float = 0.2) -> Tensor:
    return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share).float()


# The bound


def test_divergence_of_a_unit_shift_is_one_half() -> None:
    assert gaussian_kl(torch.ones(3), torch.zeros(3)).tolist() == [0.5, 0.5, 0.5]
    assert gaussian_kl(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


def test_divergence_is_that_of_torch_and_of_samples() -> None:
    mu, log_variance = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.linspace(-2, 1, 5)
    there, prior = Normal(mu, (log_variance / 2).exp()), Normal(0.0, 1.0)
    torch.testing.assert_close(gaussian_kl(mu, log_variance), kl_divergence(there, prior))
    torch.manual_seed(0)
    drawn = there.sample((200_000,))
    estimate = (there.log_prob(drawn) - prior.log_prob(drawn)).mean(0)
    torch.testing.assert_close(gaussian_kl(mu, log_variance), estimate, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_is_the_bound_of_the_distributions(likelihood: str) -> None:
    torch.manual_seed(0)
    cvae = NeighborCVAE(6, 5, 3, likelihood=likelihood)
    x, cond, noise = bags(7, 6), bags(7, 6, seed=1), torch.randn(7, 3)
    mu, log_variance = cvae.encode(x, cond)
    mean = cvae.decode(mu + (log_variance / 2).exp() * noise, cvae.context(cond))
    if likelihood == "bernoulli":
        expected = -Bernoulli(mean).log_prob(x)
    else:
        # Variance one half, without its constant.
        expected = -Normal(mean, 0.5**0.5).log_prob(x) + Normal(0.0, 0.5**0.5).log_prob(torch.zeros(()))
    divergence = kl_divergence(Normal(mu, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(cvae.loss(x, cond, noise), expected.sum(1).mean() + divergence.sum(1).mean())


def test_two_inputs_of_a_layer_are_one_layer_of_both_side_by_side() -> None:
    cvae = NeighborCVAE(6, 5, 3).eval()
    x, cond = bags(4, 6), bags(4, 6, seed=1)
    weight = torch.cat([cvae.encoder_x.weight, cvae.encoder_cond.weight], 1)
    hidden = F.relu(F.linear(torch.cat([x, cond], 1), weight, cvae.encoder_x.bias))
    mu = cvae.mean(hidden)
    weight = torch.cat([cvae.decoder_latent.weight, cvae.decoder_cond.weight], 1)
    out = cvae.output(F.relu(F.linear(torch.cat([mu, cond], 1), weight, cvae.decoder_cond.bias)))
    for given, expected in zip(cvae(x, cond), (out, mu, cvae.log_variance(hidden)), strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_sparse_features_give_the_same_loss_and_gradients(likelihood: str) -> None:
    torch.manual_seed(0)
    cvae = NeighborCVAE(9, 5, 3, likelihood=likelihood)
    x, cond, noise = bags(8, 9), bags(8, 9, seed=1), torch.randn(8, 3)
    x[2] = 0
    found = []
    for given in ((x, cond), (x.to_sparse_csr(), cond.to_sparse_csr())):
        cvae.zero_grad()
        loss = cvae.loss(*given, noise)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in cvae.parameters())])
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(dense, sparse)


def test_extreme_logits_stay_finite() -> None:
    out = torch.tensor([[200.0, -200.0]], requires_grad=True)
    zero = torch.zeros(1, 2)
    loss = negative_elbo(torch.tensor([[0.0, 1.0]]), out, zero, zero, likelihood="bernoulli")
    loss.backward()
    assert loss == 400
    assert out.grad.tolist() == [[1.0, -1.0]]


def test_rows_of_sparse_matrices() -> None:
    x = bags(6, 5)
    x[3] = 0
    rows = torch.tensor([3, 0, 5, 5])
    assert torch.equal(select_rows(x.to_sparse_csr(), rows).to_dense(), x[rows])
    assert torch.equal(select_rows(x, rows), x[rows])
    assert select_rows(x.to_sparse_csr(), rows[:0]).shape == (0, 5)
    assert torch.equal(stack_rows(x.to_sparse_csr(), 3).to_dense(), torch.cat([x, x, x]))
    assert torch.equal(stack_rows(x, 3), torch.cat([x, x, x]))


# What it learns


class Unconditional(NeighborCVAE):
    """The same without the centre."""

    def encode(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode(x, torch.zeros_like(cond))

    def context(self, cond: Tensor) -> Tensor:
        return super().context(torch.zeros_like(cond))


def explained(cvae: NeighborCVAE, f: nn.Module) -> tuple[float, float, float]:
    """First and last loss of a training on X_u = f(X_v) + noise, and R² of averaged samples against f."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(cvae.parameters(), 0.01)
    losses = []
    for _ in range(300):
        cond = torch.rand(64, 4)
        x = f(cond) + 0.05 * torch.randn(64, 4)
        loss = cvae.loss(x, cond)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    cvae.eval()
    cond = torch.rand(500, 4)
    mean = torch.stack([cvae.sample(cond) for _ in range(20)]).mean(0)
    target = f(cond)
    error = (mean - target).square().sum() / (target - target.mean(0)).square().sum()
    return sum(losses[:10]) / 10, sum(losses[-10:]) / 10, 1 - float(error)


def test_samples_follow_the_centre_and_the_bound_rises() -> None:
    def f(cond: Tensor) -> Tensor:
        return torch.stack([cond[:, 0] * 2, 1 - cond[:, 1], cond[:, 2] * cond[:, 3] * 3, cond.sum(1) / 2], 1)

    torch.manual_seed(0)
    before, after, share = explained(NeighborCVAE(4, 32, 2, likelihood="gaussian"), f)
    assert after < before / 5
    assert share >= 0.8
    *_, share = explained(Unconditional(4, 32, 2, likelihood="gaussian"), f)
    assert share < 0.3


def test_sampling_is_reproducible_and_follows_the_nodes() -> None:
    torch.manual_seed(0)
    cvae = NeighborCVAE(6, 5, 3)
    cond = bags(9, 6)
    first, again = (cvae.sample(cond, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, cvae.sample(cond, torch.Generator().manual_seed(4)))
    assert not first.requires_grad
    assert bool(((first >= 0) & (first <= 1)).all())
    order, latent = torch.randperm(9), torch.randn(9, 3)
    moved = cvae.sample(cond[order], latent=latent[order])
    torch.testing.assert_close(moved, cvae.sample(cond, latent=latent)[order])
    torch.testing.assert_close(cvae.sample(cond.to_sparse_csr(), latent=latent), cvae.sample(cond, latent=latent))


def test_the_centre_is_computed_once_for_many_samples() -> None:
    cvae, cond, latent = NeighborCVAE(6, 5, 3), bags(9, 6), torch.randn(9, 3)
    assert torch.equal(cvae.decode(latent, cvae.context(cond)), cvae.sample(cond, latent=latent))


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"hidden_channels": 0}, "hidden_channels"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, gaussian"),
    ],
)
def test_sizes(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighborCVAE(**{"in_channels": 4, **options})


def test_features_outside_the_unit_interval() -> None:
    cvae, x = NeighborCVAE(4, 5, 3), bags(3, 4, share=0.5)
    for bad in (2 * x, -x, (2 * x).to_sparse_csr()):
        with pytest.raises(ValueError, match=r"x must lie in \[0, 1\].*likelihood='gaussian', or scale"):
            cvae.loss(bad, bad)
    NeighborCVAE(4, 5, 3, likelihood="gaussian").loss(2 * x, x)


def test_shapes() -> None:
    cvae = NeighborCVAE(4, 5, 3)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 4\] \(got \[2, 5\]\)"):
        cvae(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="the same shape"):
        cvae(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least one pair"):
        cvae.loss(torch.zeros(0, 4), torch.zeros(0, 4))
    with pytest.raises(ValueError, match=r"latent must have shape \[2, 3\]"):
        cvae.sample(torch.zeros(2, 4), latent=torch.zeros(2, 4))
