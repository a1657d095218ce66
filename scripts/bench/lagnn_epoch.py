"""A training epoch of LAGCN on Cora with the paper's settings, against the formulation of the released code.

An epoch is the whole recipe's: four generated matrices for the step, one for the evaluation, losses, optimizer, and
the validation. The peer keeps features dense, decodes every matrix anew, draws an input dropout for each branch of each
view with PyTorch's dropout, and runs view by view and branch by branch, with a sparse matrix as the graph. It starts
with our weights and computes the same loss, which is checked first. ``--pool 0`` makes new samples on our side as well.
Run on a quiet machine.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from harness import interleave, parser, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphkit.recipes import get_recipe
from graphkit.train import LocalAugmentationTask
from graphkit.utils.seed import stream


class Released(nn.Module):
    """Branches of dropout, convolution and ReLU, and an output convolution, with our weights and a sparse matrix."""

    def __init__(self, model: nn.Module, adjacency: Tensor, dropout: float) -> None:
        super().__init__()
        self.adjacency, self.dropout = adjacency, dropout
        parts = [*model.branches, model.rest]
        self.weights = nn.ParameterList(part.neighbor_linears[0].weight.detach().clone() for part in parts)
        self.biases = nn.ParameterList(part.biases[0].detach().clone() for part in parts)

    def conv(self, x: Tensor, number: int) -> Tensor:
        return torch.spmm(self.adjacency, F.linear(x, self.weights[number])) + self.biases[number]

    def forward(self, x_list: list[Tensor]) -> Tensor:
        hidden = []
        for number, x in enumerate(x_list):
            hidden.append(F.relu(self.conv(F.dropout(x, self.dropout, self.training), number)))
        h = F.dropout(torch.cat(hidden, dim=-1), self.dropout, self.training)
        return self.conv(h, len(x_list))


class Generator(nn.Module):
    """The decoder as one network of latent vector and features side by side."""

    def __init__(self, cvae: nn.Module) -> None:
        super().__init__()
        latent, cond = cvae.decoder_latent, cvae.decoder_cond
        self.first = nn.Linear(latent.in_features + cond.in_features, cond.out_features)
        self.first.weight.data.copy_(torch.cat([latent.weight, cond.weight], dim=1))
        self.first.bias.data.copy_(cond.bias)
        self.last = copy.deepcopy(cvae.output)

    def forward(self, latent: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.last(F.relu(self.first(torch.cat([latent, x], dim=-1)))))


class Peer:
    """The released epoch."""

    def __init__(self, task: LocalAugmentationTask, model: nn.Module, config) -> None:
        self.task, self.config = task, config
        edge_index, value = gcn_norm(task.edge_index, num_nodes=task.num_nodes)
        adjacency = torch.sparse_coo_tensor(edge_index.flip(0), value, (task.num_nodes, task.num_nodes)).coalesce()
        self.network = Released(model.network, adjacency, config.dropout)
        self.generator = Generator(task.cvae)
        self.raw = task.condition.to_dense() if task.condition.is_sparse_csr else task.condition
        self.x = self.raw / self.raw.sum(1, keepdim=True).clamp(min=1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.lr, weight_decay=config.weight_decay)

    @torch.no_grad()
    def sample(self, latent: Tensor | None = None) -> list[Tensor]:
        made = []
        for _ in range(self.config.generated):
            z = torch.randn(self.x.size(0), self.config.cvae_latent) if latent is None else latent
            out = self.generator(z, self.raw)
            made.append(out / out.sum(1, keepdim=True))
        return made

    def loss(self, samples: list[list[Tensor]]) -> Tensor:
        task, train = self.task, self.task.split.train
        views = [F.log_softmax(self.network([self.x, *made]), dim=-1) for made in samples]
        supervised = sum(F.nll_loss(view[train], task.y[train]) for view in views) / len(views)
        probs = [view.exp() for view in views]
        mean = sum(probs) / len(probs)
        power = mean ** (1 / task.temperature)
        target = (power / power.sum(dim=1, keepdim=True)).detach()
        agreement = sum((p - target).pow(2).sum(1).mean() for p in probs) / len(probs)
        return supervised + task.weight * agreement

    def epoch(self) -> None:
        self.network.train()
        self.optimizer.zero_grad()
        self.loss([self.sample() for _ in range(self.task.num_samples)]).backward()
        self.optimizer.step()
        self.network.eval()
        with torch.no_grad():
            out = self.network([self.x, *self.sample()])
            F.cross_entropy(out[self.task.split.valid], self.task.y[self.task.split.valid])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dataset", default="Cora", help="Cora, CiteSeer or digits")
    arguments.add_argument("--pool", type=int, default=20, help="samples of our pool; 0 makes new ones each step")
    options = arguments.parse_args()
    recipe = get_recipe("lagnn")
    config = replace(recipe.defaults(options.dataset), pool_size=options.pool or None, row_normalize=True)
    experiment = recipe.build(config, "LAGCN", 0)
    task, model, optimizer = experiment.task, experiment.model, experiment.optimizer
    assert isinstance(task, LocalAugmentationTask)
    assert optimizer is not None
    peer = Peer(task, copy.deepcopy(model), config)
    _check_same_loss(task, model, peer)
    epoch = 0

    def ours() -> None:
        nonlocal epoch
        epoch += 1
        model.train()
        for batch in task.batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            task.loss(model, batch).backward()
            optimizer.step()
        task.evaluate(model, "valid")

    times = interleave({"ours": ours, "peer": peer.epoch}, options.repeats)
    pool = f"pool of {options.pool}" if options.pool else "new samples"
    row = {
        "case": f"LAGCN, epoch on {options.dataset}, {pool}",
        "ours_ms": times["ours"],
        "peer": "released formulation",
        "peer_ms": times["peer"],
        "ratio": times["peer"] / times["ours"],
    }
    report("lagnn_epoch", [row], options.out)


def _check_same_loss(task: LocalAugmentationTask, model: nn.Module, peer: Peer) -> None:
    (batch,) = task.batches(1)
    numbers = [batch.first + view for view in range(task.num_samples)]
    shape = peer.x.size(0), peer.config.cvae_latent
    latents = [torch.randn(shape, generator=stream(task.augment.seed, number)) for number in numbers]
    model.eval(), peer.network.eval()
    with torch.no_grad():
        theirs = peer.loss([peer.sample(latent) for latent in latents])
        torch.testing.assert_close(task.loss(model, batch), theirs, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main()
