"""Token models on the task of graphs: images are learned, a resumed run is the same run."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from graphkit.datasets import IndexSplit
from graphkit.loader import PackedGraphs
from graphkit.nn import GatedLinearAttention, TokenModel
from graphkit.train import GraphClassificationTask, Trainer
from graphkit.transforms import ImageTokens


def bars(count: int = 120) -> PackedGraphs:
    """Images that are bright above or below."""
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(count):
        image = torch.rand(1, 4, 4, generator=generator)
        image[0, 2 * (i % 2) : 2 * (i % 2) + 2] += 1
        graphs.append(ImageTokens()(Data(image=image, y=torch.tensor([i % 2]))))
    return PackedGraphs(graphs)


def run(folder, epochs: int, resume: bool = False):
    graphs = bars()
    part = torch.arange(120).split([80, 20, 20])
    task = GraphClassificationTask(graphs, graphs["y"], IndexSplit(*part), batch_size=20)
    torch.manual_seed(0)
    model = TokenModel(1, 16, 2, lambda c: GatedLinearAttention(c, 2), 1, head="mean", max_positions=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = Trainer(epochs, device="cpu", folder=folder, resume=resume, progress=False)
    return trainer.fit(model, task, optimizer), model


def test_images_are_learned_and_resume_is_exact(tmp_path):
    whole, model = run(tmp_path / "whole", 12)
    assert whole.test("Accuracy") >= 95
    run(tmp_path / "parts", 5)
    again, other = run(tmp_path / "parts", 12, resume=True)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
