"""A training epoch of GRACE and GRACE+POT on Cora against the released formulation, and InfoNCE.

The peer is written as the released code is: PyG's GCNConv on dense features, similarities of all pairs of nodes at
once, and for POT bounds of the propagation matrix as dense N x N matrices, of which sparse ones are made in each step,
constants from the diagonal of a product of all pairs, and a collapsed weight matrix [N, F]. It shares our weights and
computes the same loss as `bound="released"`, which is checked first; ours is timed with the sound bounds that are the
default. InfoNCE is measured alone, too, and ours with as many nodes as PubMed has. Run on a quiet machine.
"""

from __future__ import annotations

import copy

import torch
from harness import allocated_mb, interleave, parser, report
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphkit.nn import AdjacencyBounds, GCNEncoder
from graphkit.recipes import get_recipe
from graphkit.recipes.pot_gcl import hyperparameters
from graphkit.train import GRACE, ContrastiveTask, info_nce


class Released:
    """GRACE with and without POT as released, around the weights of our modules."""

    def __init__(self, model: GRACE, task: ContrastiveTask, kappa: float) -> None:
        self.model, self.kappa, self.tau = model, kappa, model.tau
        self.encoder: GCNEncoder = model.encoder
        assert task.x is not None
        self.x, self.edge_index = task.x, task.edge_index
        self.bounds = None if task.pot is None else [self.dense(bounds) for bounds in task.pot.bounds]
        self.conv1 = self.conv(self.encoder.linear1.weight, self.encoder.bias1)
        self.conv2 = self.conv(self.encoder.linear2.weight, self.encoder.bias2)

    @staticmethod
    def dense(bounds: AdjacencyBounds) -> tuple[Tensor, Tensor]:
        size = bounds.graph.num_nodes
        upper, lower = torch.zeros(2, size, size)
        source, target = bounds.edge_index
        upper[target, source] = bounds.upper.float()
        lower[target, source] = bounds.lower.float()
        return upper, lower

    @staticmethod
    def conv(weight: Tensor, bias: Tensor) -> GCNConv:
        made = GCNConv(weight.size(1), weight.size(0))
        made.lin.weight, made.bias = weight, bias
        return made

    def encode(self, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.x, edge_index).relu(), edge_index).relu()

    def loss(self, view1: Tensor, view2: Tensor) -> Tensor:
        z1, z2 = self.encode(view1), self.encode(view2)
        u, v = self.model.head(z1), self.model.head(z2)
        contrast = ((one_side(u, v, self.tau) + one_side(v, u, self.tau)) / 2).mean()
        if self.bounds is None:
            return contrast
        first, second = self.bounds
        pot = (self.pot(z2, view1, *first) + self.pot(z1, view2, *second)) / 2
        return (1 - self.kappa) * contrast + self.kappa * pot

    def pot(self, reference: Tensor, view: Tensor, dense_upper: Tensor, dense_lower: Tensor) -> Tensor:
        size = reference.size(0)
        nodes = torch.randperm(size).sort().values  # the released code selects the nodes of a batch, here all
        upper = dense_upper[nodes][:, nodes].to_sparse()
        lower = dense_lower[nodes][:, nodes].to_sparse()
        hidden = self.conv1(self.x, self.edge_index).relu()
        w1, w2 = self.conv1.lin.weight, self.conv2.lin.weight
        alpha1, gamma1 = self.relax(*self.interval(upper, lower, self.conv1.lin(self.x), self.conv1.bias))
        alpha2, gamma2 = self.relax(*self.interval(upper, lower, self.conv2.lin(hidden), self.conv2.bias))
        unit = F.normalize(reference)
        contrast = unit * (size / (size - 1)) - unit.sum(0) / (size - 1)
        root = alpha2 * contrast
        # Constants as the diagonal of a product of all pairs, and offsets divided by the slopes, as released.
        offset = torch.where(contrast < 0, gamma2 / alpha2.clamp(min=1e-12), torch.zeros_like(gamma2))
        second = torch.diag(root @ (offset + self.conv2.bias).t())
        back = root @ w2
        offset = torch.where(back < 0, gamma1 / alpha1.clamp(min=1e-12), torch.zeros_like(gamma1))
        first = torch.diag((alpha1 * back) @ (offset + self.conv1.bias).t())
        collapsed = (alpha1 * back) @ w1  # [N, F]
        index, value = gcn_norm(view, num_nodes=size)
        matrix = torch.sparse_coo_tensor(index.flip(0), value, (size, size))
        own = (self.x[:, None, :] @ collapsed[:, :, None]).view(-1, 1)
        score = torch.sparse.mm(matrix, torch.sparse.mm(matrix, own) + first[:, None])[:, 0] + second
        return F.binary_cross_entropy_with_logits(score, torch.ones_like(score))

    @staticmethod
    def interval(upper: Tensor, lower: Tensor, product: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        middle = torch.sparse.mm((upper + lower) / 2, product)
        half = torch.sparse.mm((upper - lower) / 2, product.abs())
        return middle - half + bias, middle + half + bias

    @staticmethod
    def relax(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        crosses = (low < 0) & (high > 0)
        width = torch.where(crosses, high - low, torch.ones_like(low))
        alpha = torch.where(crosses, high / width, (low >= 0).to(low.dtype))
        return alpha, torch.where(crosses, -high * low / width, torch.zeros_like(low))


def one_side(u: Tensor, v: Tensor, tau: float) -> Tensor:
    """InfoNCE with the nodes of one view as anchors."""
    within = torch.exp(F.normalize(u) @ F.normalize(u).t() / tau)
    between = torch.exp(F.normalize(u) @ F.normalize(v).t() / tau)
    return -torch.log(between.diag() / (within.sum(1) + between.sum(1) - within.diag()))


def main() -> None:
    options_parser = parser(__doc__)
    options_parser.add_argument("--dataset", default="Cora", help="with the settings of the recipe for it")
    options_parser.add_argument("--nodes", type=int, default=5000, help="nodes of the loss that is compared alone")
    options_parser.add_argument("--most-nodes", type=int, default=19717, help="nodes of the loss of ours; PubMed's")
    options = options_parser.parse_args()
    recipe = get_recipe("pot_gcl")
    config = recipe.defaults(options.dataset)
    rows = []
    for name in ("GRACE", "GRACE+POT"):
        experiment = recipe.build(config, name, 0)
        task, model = experiment.task, experiment.model
        assert isinstance(task, ContrastiveTask)
        assert isinstance(model, GRACE)
        method = hyperparameters(config, "GRACE")
        if method.activation != "relu" or config.batch_size or config.pot_batch_size:
            raise ValueError(f"the peer is written for ReLU and whole graphs, unlike {options.dataset}; try Cora")
        peer = Released(copy.deepcopy(model), task, method.kappa)
        optimizer = experiment.optimizer
        peer_optimizer = torch.optim.Adam(peer.model.parameters(), method.lr, weight_decay=method.weight_decay)
        check(model, peer, recipe.build(config, f"{name}-released", 0).task if task.pot else task)

        def ours(model=model, task=task, optimizer=optimizer) -> None:
            model.train()
            for batch in task.batches(1):
                optimizer.zero_grad(set_to_none=True)
                task.loss(model, batch).backward()
                optimizer.step()

        def released(task=task, peer=peer, optimizer=peer_optimizer) -> None:
            for first, second in task.batches(1):
                optimizer.zero_grad(set_to_none=True)
                peer.loss(first.edge_index, second.edge_index).backward()
                optimizer.step()

        times = interleave({"ours": ours, "peer": released}, options.repeats)
        rows.append(
            {
                "case": f"{name}, epoch on {options.dataset}",
                "ours_ms": times["ours"],
                "peer": "released formulation, dense N x N",
                "peer_ms": times["peer"],
                "ratio": times["peer"] / times["ours"],
                "ours_peak_mb": allocated_mb(ours),
                "peer_peak_mb": allocated_mb(released),
            }
        )
    rows.append(info_nce_row(options.nodes, options.repeats, compared=True))
    rows.append(info_nce_row(options.most_nodes, 1, compared=False))
    report("pot_epoch", rows, options.out)


def check(model: GRACE, peer: Released, released: ContrastiveTask) -> None:
    """Both formulations give one loss on the same views."""
    (batch,) = released.batches(1)
    if released.pot is not None:
        released.pot.encoder = model.encoder
    with torch.no_grad():
        found = released.loss(model, batch)
        expected = peer.loss(batch[0].edge_index, batch[1].edge_index)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def info_nce_row(num_nodes: int, repeats: int, compared: bool, width: int = 256) -> dict[str, object]:
    """Time and memory of the loss of so many nodes, forward and backward, in blocks and, if they fit, all at once."""
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(num_nodes, width, generator=draw, requires_grad=True) for _ in range(2))
    cases = {"ours": lambda: info_nce(u, v, 0.5).backward()}
    if compared:
        cases["peer"] = lambda: (one_side(u, v, 0.5) + one_side(v, u, 0.5)).mean().backward()
    times = interleave(cases, repeats, warmup=1)
    peak = allocated_mb(cases["ours"])
    row = {"case": f"InfoNCE of {num_nodes:,} nodes", "ours_ms": times["ours"], "ours_peak_mb": peak}
    if compared:
        row |= {
            "peer": "all pairs at once",
            "peer_ms": times["peer"],
            "ratio": times["peer"] / times["ours"],
            "peer_peak_mb": allocated_mb(cases["peer"]),
        }
    return row


if __name__ == "__main__":
    main()
