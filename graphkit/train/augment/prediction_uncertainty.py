"""How unsure a trained classifier is of generated features: a score that chooses a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.ops import NeighborIndex
from graphkit.train.augment.local_augmentation import normalize_rows
from graphkit.utils.checks import check_choice, check_int

KINDS = ("bald", "agreement")


class PredictionUncertainty(nn.Module):
    r"""A score of generated features by a trained classifier with dropout, from `"Local Augmentation for Graph Neural
    Networks" <https://arxiv.org/abs/2109.03856>`_: of the generators along a training, the one with the largest score
    is kept.

    With :math:`p_t` the class probabilities of pass :math:`t` of :math:`T`, each with dropout of its own,

    - ``"bald"``: :math:`H[\mathrm{mean}_t \, p_t] - \mathrm{mean}_t \, H[p_t]`, averaged over all nodes, as the paper
      has it: features on which the passes disagree most;
    - ``"agreement"``: :math:`\mathrm{NLL}(\mathrm{mean}_t \, p_t) - \mathrm{mean}_t \, \mathrm{NLL}(p_t)` of the
      training nodes, as released. It is at most zero, and largest where the passes agree.

    A call costs ``T`` passes of the classifier.

    Args:
        critic: the classifier, called as ``critic(x, graph)``; trained on features with rows of sum one.
        graph: the graph of all nodes.
        kind: ``"bald"`` or ``"agreement"``.
        y: class of each node; only for ``"agreement"``.
        nodes: ids of the training nodes; only for ``"agreement"``.
        passes: ``T``.
        seed: seed of the dropout, the same in each call.

    Shapes:
        - **input:** ``generated`` ``[N, F]``, without normalisation
        - **output:** a number

    Raises:
        ValueError: an unknown kind, no labels for ``"agreement"``, or no passes.
    """

    nodes: Tensor
    labels: Tensor

    def __init__(
        self,
        critic: nn.Module,
        graph: NeighborIndex,
        kind: str = "bald",
        *,
        y: Tensor | None = None,
        nodes: Tensor | None = None,
        passes: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.kind = check_choice(kind, "kind", KINDS)
        if kind == "agreement" and (y is None or nodes is None):
            raise ValueError("y and nodes must be given with kind='agreement', which compares labels (got None)")
        self.critic, self.graph = critic, graph
        self.passes, self.seed = check_int(passes, "passes", 1), check_int(seed, "seed", 0)
        self.register_buffer("nodes", nodes)
        self.register_buffer("labels", None if y is None or nodes is None else y[nodes])

    @property
    def name(self) -> str:
        """Name of the score as a metric."""
        return {"bald": "BALD", "agreement": "Agreement"}[self.kind]

    @torch.no_grad()
    def forward(self, generated: Tensor) -> float:
        x, graph = normalize_rows(generated), self.graph.to(generated.device)
        training = self.critic.training
        self.critic.train()
        with torch.random.fork_rng(devices=[generated.device] if generated.is_cuda else []):
            torch.manual_seed(self.seed)
            each = torch.zeros((), device=x.device)
            total = torch.zeros((), device=x.device)
            for _ in range(self.passes):
                log_p = F.log_softmax(self.critic(x, graph), dim=1)
                total = total + log_p.exp()
                each = each + self._cost(log_p)
        self.critic.train(training)
        return float(self._cost((total / self.passes).log()) - each / self.passes)

    def _cost(self, log_p: Tensor) -> Tensor:
        """Entropy of the predictions, or negative log-likelihood of the labels, averaged over the nodes."""
        if self.kind == "bald":
            # The limit of p log p at zero is zero.
            return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0).sum(1).mean()
        return F.nll_loss(log_p[self.nodes], self.labels)
