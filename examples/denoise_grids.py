"""Signals of nodes on grids, cleaned by MAXIM's mixer (https://arxiv.org/abs/2201.02973) and by GraphSAGE.

Each graph is a grid of nodes, each linked to the eight around it; its signal is a few waves, which repeat over the
whole grid, so that a node can learn from nodes far away. The mixer sees near nodes and, across the grid, far ones;
GraphSAGE sees what its layers reach.

    python examples/denoise_grids.py [--fast]
"""

import argparse

import torch
from torch import nn

from graphkit.loader import ImageGraphs
from graphkit.nn import GNN, MultiAxisGatedMLP, TokenModel
from graphkit.train import psnr

SIDE, SIGMA = 24, 0.3


def waves(count: int, generator: torch.Generator) -> torch.Tensor:
    """``[count, 1, SIDE, SIDE]`` signals from 0 to 1, each the sum of three plane waves."""
    place = torch.arange(SIDE) / SIDE
    down, right = torch.meshgrid(place, place, indexing="ij")
    times = torch.randint(1, 6, (2, count, 3, 1, 1), generator=generator)
    phase = torch.rand(count, 3, 1, 1, generator=generator)
    signal = torch.sin(2 * torch.pi * (times[0] * down + times[1] * right + phase)).mean(1)
    return (signal[:, None] + 1) / 2


class OnEdges(nn.Module):
    """GraphSAGE with the call of a mixer's model."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gnn = GNN(1, channels, 4, 1, conv="sage", residual=True)

    def forward(self, x, graphs):
        return self.gnn(x, graphs.edge_index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--fast", action="store_true", help="a run of seconds")
    args = parser.parse_args()
    epochs, train, channels = (2, 16, 8) if args.fast else (args.epochs, 200, 24)

    generator = torch.Generator().manual_seed(0)
    signals = ImageGraphs(waves(train + 50, generator))
    test = signals.batch(torch.arange(train, train + 50))
    test_noise = SIGMA * torch.randn(test.x.shape, generator=generator)
    print(f"noisy: {psnr((test.x + test_noise).view(50, -1), test.x.view(50, -1)).mean():.2f} dB")

    for name in ("GraphSAGE", "MAXIM"):
        torch.manual_seed(0)
        if name == "MAXIM":
            # Blocks of 6 x 6 nodes, and cells of which there are 6 x 6.
            model = TokenModel(1, channels, 1, lambda width: MultiAxisGatedMLP(width, block_size=6), num_layers=2)
        else:
            model = OnEdges(2 * channels)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for part in torch.randperm(train).split(16):
                batch = signals.batch(part)
                noisy = batch.x + SIGMA * torch.randn_like(batch.x)
                # Models say what to change.
                loss = (noisy + model(noisy, batch) - batch.x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            noisy = test.x + test_noise
            clean = noisy + model(noisy, test)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{name}: {psnr(clean.view(50, -1), test.x.view(50, -1)).mean():.2f} dB, {parameters:,} parameters")


if __name__ == "__main__":
    main()
