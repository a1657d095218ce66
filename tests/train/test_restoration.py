"""The task of restoration: its loss, its value, its noise, runs that are resumed; and answers with assistants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

from graphkit.datasets import IndexSplit
from graphkit.loader import ImageGraphs
from graphkit.nn import CompositeBackbone, CompositeClassifier, OnGrids, RestorationStack, StagedGNN
from graphkit.train import CompositeNodeTask, NodeClassificationTask, RestorationTask, Trainer, psnr, restoration_loss
from graphkit.transforms import ImageTokens


def split(*sizes: int) -> IndexSplit:
    return IndexSplit(*torch.arange(sum(sizes)).split(sizes))


def stripes(count: int = 40) -> ImageGraphs:
    """Images of one bright row each."""
    images = torch.zeros(count, 1, 4, 4)
    images[torch.arange(count), 0, torch.arange(count) % 4] = 1
    return ImageGraphs(images)


class Same(nn.Module):
    def forward(self, x, edge_index):
        return x


def test_loss_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    for width in (4, 5):
        output, target = (torch.rand(2, 3, 6, width, generator=generator) for _ in range(2))
        difference = output - target
        want = (difference.square() + 1e-6).sqrt().mean() + 0.1 * torch.fft.fft2(difference).abs().mean()
        torch.testing.assert_close(restoration_loss(output, target), want)
        torch.testing.assert_close(restoration_loss(output, target, 0), (difference.square() + 1e-6).sqrt().mean())


def test_outputs_of_several_sizes_each_have_their_target():
    target = torch.rand(2, 1, 8, 8)
    small = F.interpolate(target, (4, 4), mode="bilinear", antialias=True)
    outputs = [torch.rand(2, 1, 8, 8), torch.rand(2, 1, 4, 4)]
    want = restoration_loss(outputs[0], target) + restoration_loss(outputs[1], small)
    torch.testing.assert_close(restoration_loss(outputs, target), want)


def test_gradient_of_the_loss():
    target = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    output = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: restoration_loss(h, target, 0), output)
    restoration_loss(output.float(), target.float()).backward()
    assert bool(output.grad.isfinite().all())


def test_ratio_of_noise():
    target = torch.rand(3, 1, 100, 100) * 0.2 + 0.4
    generator = torch.Generator().manual_seed(0)
    noisy = target + 0.05 * torch.randn(target.shape, generator=generator)
    torch.testing.assert_close(psnr(noisy, target), torch.full((3,), -20 * math.log10(0.05)), atol=0.1, rtol=0)
    assert torch.equal(psnr(torch.tensor([[-3.0, 2.0]]), torch.tensor([[0.0, 1.0]])), torch.tensor([120.0]))


def test_held_out_noise_stays_and_parts_have_noise_of_their_own():
    task = RestorationTask(stripes(), split(20, 10, 10), sigma=0.1, batch_size=2)
    first = task.evaluate(Same(), "valid")
    assert task.evaluate(Same(), "valid") == first
    assert task.evaluate(Same(), "test") != first
    other = RestorationTask(stripes(), split(20, 10, 10), sigma=0.1, batch_size=2, seed=1)
    assert other.evaluate(Same(), "valid") != first
    grey = RestorationTask(ImageGraphs(torch.full((3, 1, 40, 40), 0.5)), split(1, 1, 1), sigma=0.1)
    assert grey.evaluate(Same(), "test")["PSNR"] == pytest.approx(20, abs=0.3)
    assert RestorationTask(stripes(), split(20, 10, 10), sigma=0).evaluate(Same(), "test")["PSNR"] == pytest.approx(120)


def test_noise_of_training_is_drawn_anew():
    seen = []

    class Watch(Same):
        def forward(self, x, edge_index):
            seen.append(x)
            return x

    task = RestorationTask(stripes(), split(20, 10, 10), batch_size=20)
    for epoch in (1, 2):
        for batch in task.batches(epoch):
            task.loss(Watch(), batch)
    clean = [task._graphs.batch(next(task.batches(epoch))).x for epoch in (1, 2)]
    noise = [x - target for x, target in zip(seen, clean, strict=True)]
    assert not torch.allclose(noise[0], noise[1])
    assert float(torch.cat(noise).std()) == pytest.approx(0.2, rel=0.1)


def run(folder, epochs: int, resume: bool = False):
    task = RestorationTask(stripes(), split(20, 10, 10), batch_size=10)
    torch.manual_seed(0)
    model = OnGrids(RestorationStack(1, 4, 1, block=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(epochs, device="cpu", folder=folder, resume=resume, progress=False)
    return trainer.fit(model, task, optimizer), model, task


def test_noise_is_taken_away_and_resume_is_exact(tmp_path):
    whole, model, task = run(tmp_path / "whole", 12)
    assert whole.test("PSNR") > task.evaluate(Same(), "test")["PSNR"] + 3
    run(tmp_path / "parts", 5)
    again, other, _ = run(tmp_path / "parts", 12, resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_networks_of_graphs_restore_features_of_any_graphs():
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for size in (3, 5, 4, 2, 6):
        place = torch.arange(size)
        graphs.append(Data(x=torch.rand(size, 2, generator=generator), edge_index=torch.stack([place, place.roll(1)])))
    task = RestorationTask(graphs, split(3, 1, 1), freq_weight=0)
    model = SAGEConv(2, 2)
    assert bool(task.loss(model, torch.arange(3)).isfinite())
    assert task.evaluate(model, "test")["PSNR"] > 0
    with pytest.raises(ValueError, match="pos"):
        RestorationTask(graphs, split(3, 1, 1)).loss(model, torch.arange(3))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"split\.test holds no graphs"):
        RestorationTask(stripes(), IndexSplit(torch.arange(3), torch.arange(3, 5), torch.arange(0)))
    with pytest.raises(IndexError, match=r"graph 40, outside \[0, 40\)"):
        RestorationTask(stripes(), IndexSplit(torch.arange(3), torch.arange(3, 5), torch.tensor([40])))
    with pytest.raises(TypeError, match="IndexSplit"):
        RestorationTask(stripes(), torch.arange(3))
    with pytest.raises(ValueError, match="sigma must be"):
        RestorationTask(stripes(), split(20, 10, 10), sigma=-1)
    with pytest.raises(ValueError, match=r"model must return features \[64, 1\]"):
        RestorationTask(stripes(), split(20, 10, 10)).loss(SAGEConv(1, 2), torch.arange(4))
    with pytest.raises(ValueError, match="images like"):
        restoration_loss(torch.rand(1, 2, 4, 4), torch.rand(1, 1, 4, 4))
    missing = ImageTokens()(Data(image=torch.rand(1, 4, 4)))
    del missing.grid_size
    assert RestorationTask([missing] * 3, split(1, 1, 1)).evaluate(Same(), "test")["PSNR"] > 0


# Answers with assistants ----------------------------------------------------------------------------------------------


def ring() -> Data:
    place = torch.arange(12)
    edges = torch.stack([place, place.roll(1)])
    return Data(x=torch.eye(12), y=place % 2, edge_index=torch.cat([edges, edges.flip(0)], 1))


def test_lead_and_assistants_share_one_loss():
    parts = split(6, 3, 3)
    task = CompositeNodeTask(ring(), parts)
    torch.manual_seed(0)
    model = CompositeClassifier(CompositeBackbone(lambda: StagedGNN(12, 4, 2), [4, 4], 3), 2)
    lead, second, first = model(task.features(model), task.graph)
    ids, y = parts.train, ring().y

    def loss(logits):
        return F.cross_entropy(logits[ids], y[ids])

    torch.testing.assert_close(task.loss(model, ids), loss(lead) + 0.5 * loss(first) + loss(second))
    weighted = CompositeNodeTask(ring(), parts, weights=(0.0, 0.25))
    torch.testing.assert_close(weighted.loss(model, ids), loss(lead) + 0.25 * loss(second))
    with pytest.raises(ValueError, match="one number for each of 2 assistants"):
        CompositeNodeTask(ring(), parts, weights=(0.5,)).loss(model, ids)
    single = CompositeClassifier(CompositeBackbone(lambda: StagedGNN(12, 4, 2), [4, 4], 1), 2)
    plain = NodeClassificationTask(ring(), parts)
    torch.testing.assert_close(task.loss(single, ids), plain.loss(single, ids))
    assert set(task.evaluate(model, "test")) >= {"Accuracy"}
