"""Restoration: clean features of all tokens from noisy ones, and what is good about images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data, InMemoryDataset

from graphkit.datasets.splits import IndexSplit
from graphkit.loader.packed_graphs import PackedGraphs
from graphkit.nn.models.maxim import grid_images
from graphkit.ops.tokens import TokenLayout
from graphkit.train.tasks.indexed_task import IndexedTask
from graphkit.utils.checks import check_choice, check_range
from graphkit.utils.seed import stream


def restoration_loss(
    outputs: Tensor | Sequence[Tensor], target: Tensor, freq_weight: float = 0.1, eps: float = 1e-3
) -> Tensor:
    r"""The loss of `"MAXIM: Multi-Axis MLP for Image Processing" <https://arxiv.org/abs/2201.02973>`_: the means of
    Charbonnier's smooth absolute difference and of the absolute difference of the spectra,

    .. math:: \sum_{\hat y} \overline{\sqrt{(\hat y - y)^2 + \epsilon^2}} + \lambda \overline{|F \hat y - F y|}

    Args:
        outputs: images ``[B, C, H, W]``, or several of different sizes; the target is made as small.
        target: images ``[B, C, H, W]``.
        freq_weight: :math:`\lambda`, weight of the spectra.
        eps: :math:`\epsilon`.

    Raises:
        ValueError: no images, or of other shapes.

    Example:
        >>> image = torch.zeros(1, 1, 4, 4)
        >>> float(restoration_loss(image, image))
        0.0010000000474974513
    """
    check_range(freq_weight, "freq_weight", 0)
    check_range(eps, "eps", 0)
    if isinstance(outputs, Tensor):
        if outputs.shape != target.shape:
            raise ValueError(f"outputs must be images like {list(target.shape)} (got {list(outputs.shape)})")
        outputs = [outputs]
    total = target.new_zeros(())
    for output in outputs:
        if output.dim() != 4 or output.shape[:2] != target.shape[:2]:
            raise ValueError(f"outputs must be images like {list(target.shape)} (got {list(output.shape)})")
        wanted = target
        if output.shape != target.shape:
            wanted = F.interpolate(target, output.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        total = total + charbonnier(output, wanted, eps)
        if freq_weight:
            difference = torch.fft.rfft2(output.float() - wanted.float())
            # The left half of a spectrum of real numbers mirrors the right half.
            twice = torch.full((difference.size(-1),), 2.0, device=target.device)
            twice[0] = 1
            if output.size(-1) % 2 == 0:
                twice[-1] = 1
            total = total + freq_weight * (difference.abs() * twice).sum() / output.numel()
    return total


def charbonnier(output: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of the absolute difference, smooth around 0."""
    return ((output - target).square() + eps * eps).sqrt().mean()


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of each of ``[B, ...]``, values from 0 to 1; values outside are cut off.

    Example:
        >>> psnr(torch.full((1, 4), 0.1), torch.zeros(1, 4))
        tensor([20.])
    """
    error = (output.clamp(0, 1) - target).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-12).log10()


class RestorationTask(IndexedTask):
    r"""Give back the clean features of tokens to which noise was added.

    Noise is Gaussian, :math:`\sigma` times a normal number for each feature of each token; training draws it anew in
    each step, validation and test have the same noise in each epoch. A model with the attribute ``takes_tokens`` is
    called as ``model(x, graphs)``, any other as ``model(x, edge_index)``, and returns clean features ``[N, F]``; the
    task's value is the mean over graphs of the peak signal-to-noise ratio (:func:`psnr`), in decibels.

    Args:
        graphs: the graphs with clean features ``x`` from 0 to 1, as :class:`~graphkit.loader.PackedGraphs` takes them;
            with ``freq_weight`` above 0 tokens fill grids of one size, one a pixel.
        split: ids of the training, validation and test graphs.
        sigma: deviation of the noise.
        batch_size: graphs a step.
        freq_weight: weight of the spectra in :func:`restoration_loss`; 0 is for graphs that are no images.
        seed: order of the training graphs and noise of the others.

    Raises:
        ValueError: a number out of range, an empty part of the split.
        IndexError: an id beyond the graphs.

    Example:
        >>> from graphkit.loader import ImageGraphs
        >>> split = IndexSplit(torch.arange(6), torch.arange(6, 8), torch.arange(8, 10))
        >>> RestorationTask(ImageGraphs(torch.rand(10, 1, 4, 4)), split)
        RestorationTask(graphs=10, sigma=0.2, IndexSplit(train=6, valid=2, test=2))
    """

    monitor = "PSNR"
    unit = "graph"

    def __init__(
        self,
        graphs: PackedGraphs | InMemoryDataset | Sequence[Data] | Data,
        split: IndexSplit,
        sigma: float = 0.2,
        batch_size: int = 64,
        freq_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._graphs = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs(graphs)
        self.num_graphs = len(self._graphs)
        super().__init__(split, self.num_graphs, batch_size, seed)
        self.sigma = check_range(sigma, "sigma", 0)
        self.freq_weight = check_range(freq_weight, "freq_weight", 0)

    @property
    def num_features(self) -> int:
        """Width of a token."""
        return self._graphs.num_features

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        share = batch[self.rank :: self.world_size]
        # A process without a graph of its own takes part all the same, with a loss of nothing.
        graphs = self._graphs.batch(share if share.numel() else batch[:1])
        out = self.restored(model, graphs, graphs.x + self.sigma * torch.randn_like(graphs.x))
        if self.freq_weight:
            layout = TokenLayout.of(graphs, graphs.x.size(0))
            loss = restoration_loss(grid_images(layout, out), grid_images(layout, graphs.x), self.freq_weight)
        else:
            loss = charbonnier(out, graphs.x)
        return loss * (share.numel() * self.world_size / batch.numel())

    def restored(self, model: nn.Module, graphs: Batch, noisy: Tensor) -> Tensor:
        """``[N, F]`` what the model makes of noisy features."""
        out = model(noisy, graphs if getattr(model, "takes_tokens", False) else graphs.edge_index)
        if out.shape != graphs.x.shape:
            raise ValueError(
                f"model must return features {list(graphs.x.shape)}, a row a token (got {list(out.shape)})"
            )
        return out

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        check_choice(split, "split", ("valid", "test"))
        model.eval()
        ids: Tensor = getattr(self.split, split)
        found = []
        for number, part in enumerate(ids.split(4 * self.batch_size)):
            graphs = self._graphs.batch(part)
            generator = stream(self.seed, ("valid", "test").index(split), number)
            noise = torch.randn(graphs.x.shape, generator=generator).to(graphs.x.device)
            out = self.restored(model, graphs, graphs.x + self.sigma * noise)
            error = (out.clamp(0, 1) - graphs.x).square().mean(1, keepdim=True)
            found.append(TokenLayout.of(graphs, graphs.x.size(0)).mean(error))
        ratio = -10 * torch.cat(found).clamp(min=1e-12).log10()
        return {"PSNR": float(ratio.mean())}

    def to(self, device: torch.device | str) -> RestorationTask:
        self._graphs, self.split = self._graphs.to(device), self.split.to(device)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(graphs={self.num_graphs}, sigma={self.sigma}, {self.split})"
