"""A conditional variational autoencoder of neighbours' features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.ops.csr import ptr_to_index
from graphkit.utils.checks import check_choice, check_int

LIKELIHOODS = ("bernoulli", "gaussian")


class NeighborCVAE(nn.Module):
    r"""What a neighbour of a node may look like, given the node's own features: the generator of `"Local Augmentation
    for Graph Neural Networks" <https://arxiv.org/abs/2109.03856>`_, a conditional variational autoencoder.

    The encoder sees a neighbour's features :math:`x` and the centre's :math:`c`, the decoder a latent vector and
    :math:`c`; each has one hidden layer. The loss is the negative evidence lower bound

    .. math:: -\log p(x \mid z, c) + \mathrm{KL}\big(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, I)\big), \qquad
        z = \mu + \sigma \epsilon, \quad (\mu, \log \sigma^2) = \mathrm{Enc}(x, c)

    summed over features and averaged over pairs. ``"bernoulli"`` is for features in [0, 1], such as bags of words: the
    reconstruction error is the cross-entropy of :math:`\mathrm{sigmoid}(\mathrm{Dec}(z, c))`. ``"gaussian"`` is for
    real features: the squared error of :math:`\mathrm{Dec}(z, c)`, which is a variance of one half.

    A pair costs O(H (F + d)) in the decoder's last layer; the layers before it cost what the entries of sparse features
    cost.

    Args:
        in_channels: number of features ``F``.
        hidden_channels: width ``H`` of both hidden layers.
        latent_channels: width ``d`` of the latent vector.
        likelihood: ``"bernoulli"`` or ``"gaussian"``.
        batch_norm: normalise after both layers of the decoder and after the encoder's hidden layer.

    Shapes:
        - **input:** ``x`` and ``cond`` ``[B, F]`` (dense or sparse CSR): features of a neighbour and of its centre
        - **output:** the reconstruction ``[B, F]`` (its logits for ``"bernoulli"``), mean and log-variance of the
          latent vector, ``[B, d]`` each. The vector is drawn while training, and is its mean in eval mode.

    Raises:
        ValueError: a size below 1, an unknown likelihood, features of another width.

    Example:
        >>> cvae = NeighborCVAE(in_channels=8, hidden_channels=16)
        >>> cvae.sample(torch.zeros(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 256,
        latent_channels: int = 10,
        *,
        likelihood: str = "bernoulli",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.hidden_channels = check_int(hidden_channels, "hidden_channels", 1)
        self.latent_channels = check_int(latent_channels, "latent_channels", 1)
        self.likelihood = check_choice(likelihood, "likelihood", LIKELIHOODS)
        self.batch_norm = batch_norm

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm1d(width) if batch_norm else nn.Identity()

        # A layer of two inputs is two maps, so that one may be sparse and the centre's is made once for all samples.
        self.encoder_x = SparseLinear(in_channels, hidden_channels)
        self.encoder_cond = SparseLinear(in_channels, hidden_channels, bias=False)
        self.encoder_norm = norm(hidden_channels)
        self.mean = nn.Linear(hidden_channels, latent_channels)
        self.log_variance = nn.Linear(hidden_channels, latent_channels)
        self.decoder_latent = nn.Linear(latent_channels, hidden_channels, bias=False)
        self.decoder_cond = SparseLinear(in_channels, hidden_channels)
        self.decoder_norm = norm(hidden_channels)
        self.output = nn.Linear(hidden_channels, in_channels)
        self.output_norm = norm(in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform with the bound that the width of a layer's whole input gives."""
        layers = ((self.encoder_x, self.encoder_cond), (self.decoder_latent, self.decoder_cond))
        for layer in (*layers, (self.mean,), (self.log_variance,), (self.output,)):
            bound = 1 / math.sqrt(sum(linear.in_features for linear in layer))
            for linear in layer:
                nn.init.uniform_(linear.weight, -bound, bound)
                if linear.bias is not None:
                    nn.init.uniform_(linear.bias, -bound, bound)
        for part in (self.encoder_norm, self.decoder_norm, self.output_norm):
            if isinstance(part, nn.BatchNorm1d):
                part.reset_parameters()

    def forward(self, x: Tensor, cond: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_variance = self.encode(x, cond)
        if noise is None and self.training:
            noise = torch.randn_like(mu)
        latent = mu if noise is None else mu + (log_variance / 2).exp() * noise.to(mu)
        return self._decode(latent, self.context(cond)), mu, log_variance

    def loss(self, x: Tensor, cond: Tensor, noise: Tensor | None = None) -> Tensor:
        """The negative evidence lower bound in nats, averaged over the pairs, with one draw of the latent vector each.

        Args:
            x, cond: features of the neighbours and of their centres, ``[B, F]`` each (dense or sparse CSR).
            noise: standard normal ``[B, d]`` to draw the latent vectors with; None draws it.

        Raises:
            ValueError: features outside [0, 1] with ``likelihood="bernoulli"``, or no pairs.
        """
        if x.size(0) == 0:
            raise ValueError("x must hold at least one pair (got none)")
        self.check_features(x)
        noise = torch.randn(x.size(0), self.latent_channels, device=x.device) if noise is None else noise
        return negative_elbo(x, *self(x, cond, noise), likelihood=self.likelihood) / x.size(0)

    def encode(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent vector, ``[B, d]`` each."""
        if x.shape != cond.shape:
            raise ValueError(f"x and cond must have the same shape (got {list(x.shape)} and {list(cond.shape)})")
        hidden = F.relu(self.encoder_norm(self.encoder_x(x) + self.encoder_cond(cond)))
        return self.mean(hidden), self.log_variance(hidden)

    def context(self, cond: Tensor) -> Tensor:
        """``[B, H]``, what the decoder takes of the centres; the same for all samples of them."""
        return self.decoder_cond(cond)

    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """The expected features ``[B, F]`` of a neighbour, given latent vectors and :meth:`context`."""
        out = self._decode(latent, context)
        return out.sigmoid() if self.likelihood == "bernoulli" else out

    @torch.no_grad()
    def sample(self, cond: Tensor, generator: torch.Generator | None = None, latent: Tensor | None = None) -> Tensor:
        """Features of a neighbour for every row of ``cond``, without gradients: the decoder's mean for a latent vector
        from N(0, I).

        Args:
            cond: ``[N, F]``, dense or sparse CSR.
            generator: source of the latent vectors, on the CPU; None takes PyTorch's global one.
            latent: the latent vectors ``[N, d]`` themselves.
        """
        context = self.context(cond)
        if latent is None:
            latent = torch.randn(cond.size(0), self.latent_channels, generator=generator)
        elif latent.shape != (cond.size(0), self.latent_channels):
            wanted = [cond.size(0), self.latent_channels]
            raise ValueError(f"latent must have shape {wanted}, a vector a row of cond (got {list(latent.shape)})")
        return self.decode(latent.to(context), context)

    def check_features(self, x: Tensor, name: str = "x") -> None:
        """ValueError for features that the likelihood does not admit."""
        values = x.values() if x.is_sparse_csr else x
        if self.likelihood == "gaussian" or values.numel() == 0:
            return
        low, high = (float(value) for value in torch.aminmax(values.detach()))
        if low < 0 or high > 1:
            raise ValueError(
                f"{name} must lie in [0, 1] with likelihood='bernoulli' (got [{low:g}, {high:g}]); use "
                "likelihood='gaussian', or scale the features"
            )

    def _decode(self, latent: Tensor, context: Tensor) -> Tensor:
        hidden = F.relu(self.decoder_norm(self.decoder_latent(latent) + context))
        return self.output_norm(self.output(hidden))

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.latent_channels}"
        return f"{type(self).__name__}({sizes}, likelihood={self.likelihood!r})"


def negative_elbo(x: Tensor, out: Tensor, mu: Tensor, log_variance: Tensor, *, likelihood: str) -> Tensor:
    """The negative evidence lower bound of features ``x`` (dense or sparse CSR) in nats, summed over the pairs, for
    what :class:`NeighborCVAE` returned."""
    divergence = gaussian_kl(mu, log_variance).sum()
    if likelihood == "gaussian":
        return F.mse_loss(out, x.to_dense() if x.is_sparse_csr else x, reduction="sum") + divergence
    if not x.is_sparse_csr:
        return F.binary_cross_entropy_with_logits(out, x, reduction="sum") + divergence
    # -x log p - (1 - x) log(1 - p) is softplus(out) - x out, and most of x is zero.
    column = x.col_indices()
    place = ptr_to_index(x.crow_indices(), column.numel()) * x.size(1) + column
    return F.softplus(out).sum() - (x.values() * out.flatten().index_select(0, place)).sum() + divergence


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence of :math:`\mathcal N(\mu, \sigma^2)` from :math:`\mathcal N(0, 1)`, of every entry:
    :math:`-\tfrac12 (1 + \log \sigma^2 - \mu^2 - \sigma^2)`.

    Example:
        >>> gaussian_kl(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([0.5000])
    """
    return (mu.square() + log_variance.exp() - 1 - log_variance) / 2
