"""Classes of pixels: labels in the shape of images, mean IoU, several answers at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphkit.datasets import IndexSplit
from graphkit.loader import ImageGraphs
from graphkit.train import CompositeTokenTask, TokenClassificationTask

PARTS = IndexSplit(*torch.arange(12).split([6, 3, 3]))


def images() -> ImageGraphs:
    """Of greys 0 to 4; classes 0, 1, 2 and 4, which has no pixel in the test part; some pixels without a label."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(5, (12, 4, 3), generator=generator)
    y = torch.tensor([0, 1, 2, -1, 4])[(grey + torch.randint(2, grey.shape, generator=generator)) % 5]
    y[9:] = y[9:].clamp(max=2)
    return ImageGraphs(grey.float(), y=y)


class Table(nn.Module):
    """Logits by grey, in training those of assistants, too."""

    def __init__(self, *tables: torch.Tensor) -> None:
        super().__init__()
        self.tables = nn.ParameterList(tables)

    def forward(self, x, tokens):
        found = tuple(table[x[:, 0].long()] for table in self.tables)
        return found if self.training and len(found) > 1 else found[0]


def tables(count: int) -> list[torch.Tensor]:
    return [*torch.randn(count, 5, 5, generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_mean_of_intersections_over_unions(split):
    graphs, (table,) = images(), tables(1)
    table += 2 * torch.eye(5)
    table[:, 3:] -= 9  # classes that nothing is said to be
    task = TokenClassificationTask(graphs, PARTS, metrics=("Mean IoU", "Accuracy"))
    assert task.monitor == "Mean IoU"
    ids = getattr(PARTS, split)
    said, y = table.argmax(1)[graphs.images[ids, 0].long()], graphs["y"][ids]
    shares = []
    for c in range(5):
        both = int(((said == c) & (y == c)).sum())
        either = int((((said == c) | (y == c)) & (y >= 0)).sum())
        if either:
            shares.append(both / either)
    assert 0 < sum(shares) < len(shares) == {"valid": 4, "test": 3}[split]
    found = task.evaluate(Table(table), split)
    assert found["Mean IoU"] == pytest.approx(100 * sum(shares) / len(shares))
    assert found["Accuracy"] == pytest.approx(100 * float((said == y)[y >= 0].float().mean()))


def test_losses_of_several_answers():
    graphs = images()
    weighted = CompositeTokenTask(graphs, PARTS, weights=(0.25,))
    lead, assistant = tables(2)
    batch = torch.tensor([0, 2, 5])
    x, y = graphs.images[batch].long().flatten(), graphs["y"][batch].flatten()
    one, other = (nn.functional.cross_entropy(t[x], y, ignore_index=-1) for t in (lead, assistant))
    torch.testing.assert_close(weighted.loss(Table(lead, assistant), batch), one + 0.25 * other)
    torch.testing.assert_close(CompositeTokenTask(graphs, PARTS).loss(Table(lead, assistant), batch), one + 0.5 * other)
    torch.testing.assert_close(weighted.loss(Table(lead), batch), one)
    assert weighted.evaluate(Table(lead, assistant), "test") == weighted.evaluate(Table(lead), "test")
    shares = []
    for rank in range(2):
        weighted.rank, weighted.world_size = rank, 2
        shares.append(weighted.loss(Table(lead, assistant), batch))
    torch.testing.assert_close(sum(shares) / 2, one + 0.25 * other)


def test_wrong_arguments():
    graphs = images()
    with pytest.raises(ValueError, match="metrics must be one of"):
        TokenClassificationTask(graphs, PARTS, metrics=("F2",))
    with pytest.raises(ValueError, match="metrics must name at least one"):
        TokenClassificationTask(graphs, PARTS, metrics=())
    with pytest.raises(ValueError, match="y with a row a token"):
        TokenClassificationTask(ImageGraphs(graphs.images, y=torch.zeros(12).long()), PARTS)
    with pytest.raises(ValueError, match="model must return logits"):
        CompositeTokenTask(graphs, PARTS).loss(Table(torch.zeros(5, 4)), PARTS.train)
