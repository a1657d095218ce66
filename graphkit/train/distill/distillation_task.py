"""Training a student that sees no graph on what a trained graph network says of every node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit
from graphkit.nn import code_scores
from graphkit.nn.conv.sparse_linear import select_rows
from graphkit.train.distill.losses import distillation_kl, soft_code_kl
from graphkit.train.distill.taught_task import TaughtTask
from graphkit.utils.checks import NO_FEATURES, check_choice, check_int, check_range
from graphkit.utils.seed import stream

RELATIONS = ("cosine", "l2", "released")
SCHEDULES = ("summed", "sweeps")
TERMS = ("code", "hard", "soft")


class DistillationBatch(NamedTuple):
    """Ids of the nodes of a step, and the terms of the loss in it."""

    nodes: Tensor
    terms: tuple[str, ...]


class NodeDistillationTask(TaughtTask):
    r"""Teach a module that sees features alone what a trained teacher says of the nodes of a graph.

    With a :class:`~graphkit.nn.GraphTokenizer` as the teacher this is the student's side of `"VQGraph: Rethinking Graph
    Representation Space for Bridging GNNs and MLPs" <https://arxiv.org/abs/2308.02117>`_, with any other network and
    ``w_code=0`` `"Graph-less Neural Networks: Teaching Old MLPs New Tricks via Distillation"
    <https://arxiv.org/abs/2110.08727>`_:

    .. math::
        w_\text{hard} \, \text{CE} + w_\text{soft} \, \text{KL}(\text{teacher} \,\|\, \text{student})
        + w_\text{code} \, \tau^2 \, \text{KL}\big( \text{softmax}(R^T / \tau) \,\|\, \text{softmax}(R^S / \tau) \big)

    The cross-entropy is over training nodes, the divergences over all nodes that are there: no labels are needed for
    them. :math:`R` are the similarities to the codes of the teacher's node vectors and of the student's code vectors.
    The teacher's answers are computed once, in eval mode. A step costs O(B K C) for the codes.

    A student is called as ``student(x, None)`` on the rows of a batch, and as any model of
    :class:`~graphkit.train.NodeClassificationTask` in evaluation. It returns logits or a tuple of logits and code
    vectors.

    Args:
        data, split, metrics, num_classes: as :class:`~graphkit.train.NodeClassificationTask`.
        teacher: trained before the student, for example by ``Experiment(..., start_from=(name, first))``.
        w_hard, w_soft, w_code: weights of the three terms.
        temperature: of the class distributions.
        tau: temperature of the assignment to codes.
        relation: similarity to a code: ``"cosine"``; ``"l2"``, minus the distance of the normalised vectors; or
            ``"released"``, cosines of the teacher against minus distances of the student in a divergence that takes
            probabilities for log-probabilities, as the released code has it.
        schedule: ``"summed"``: one loss a batch; ``"sweeps"`` (as released): in each epoch one pass over the batches
            for the codes, then one for the labels, then one for the soft labels, a last short batch left out.
        batch_size: nodes a step.
        seed: seed of the order of the nodes.

    Raises:
        ValueError: a weight or temperature out of range, no weight above zero, or ``w_code`` with a teacher that has no
            codes.

    Example:
        >>> from graphkit.datasets import load
        >>> from graphkit.nn import CodeDistillMLP, GNN
        >>> digits = load("digits")
        >>> teacher, student = GNN(64, 32, 2, 10), CodeDistillMLP(64, 32, 10)  # the teacher should be trained
        >>> task = NodeDistillationTask(digits.data, digits.split(seed=0), teacher)
        >>> loss = task.loss(student, next(task.batches(1)))
    """

    def __init__(
        self,
        data: Data,
        split: IndexSplit,
        teacher: Any,
        metrics: tuple[str, ...] | str | None = None,
        *,
        num_classes: int | None = None,
        w_hard: float = 0.0,
        w_soft: float = 1.0,
        w_code: float = 0.0,
        temperature: float = 1.0,
        tau: float = 0.1,
        relation: str = "cosine",
        schedule: str = "summed",
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(data, split, teacher, metrics, num_classes=num_classes)
        if self.x is None:
            raise ValueError(f"data must have features x: they are all that a student sees (got None); {NO_FEATURES}")
        self.w_hard, self.w_soft = check_range(w_hard, "w_hard", 0), check_range(w_soft, "w_soft", 0)
        self.w_code = check_range(w_code, "w_code", 0)
        self.terms = tuple(term for term in TERMS if getattr(self, f"w_{term}") > 0)
        if not self.terms:
            raise ValueError("w_hard, w_soft or w_code must be above zero (got 0 for all)")
        quantizer = getattr(teacher, "quantizer", None)
        if w_code and (quantizer is None or quantizer.heads > 1):
            raise ValueError(f"w_code needs a teacher with a codebook of one head (got {type(teacher).__name__})")
        self.temperature = check_range(temperature, "temperature", 0, low_open=True)
        self.tau = check_range(tau, "tau", 0, low_open=True)
        self.relation = check_choice(relation, "relation", RELATIONS)
        self.schedule = check_choice(schedule, "schedule", SCHEDULES)
        self.batch_size, self.seed = check_int(batch_size, "batch_size", 1), check_int(seed, "seed", 0)
        self._vectors: Tensor | None = None

    def num_batches(self) -> int:
        sizes = {"code": self.num_nodes, "soft": self.num_nodes, "hard": self.split.train.numel()}
        if self.schedule == "summed":
            return -(-self.num_nodes // self.batch_size)
        return sum(max(sizes[term] // self.batch_size, 1) for term in self.terms)

    def batches(self, epoch: int) -> Iterator[Any]:
        """A :class:`DistillationBatch` a step."""
        nodes = torch.arange(self.num_nodes)
        sweeps = [self.terms] if self.schedule == "summed" else [(term,) for term in self.terms]
        for place, terms in enumerate(sweeps):
            of = self.split.train.cpu() if self.schedule == "sweeps" and terms == ("hard",) else nodes
            order = of[torch.randperm(of.numel(), generator=stream(self.seed, 2, epoch, place))].to(self.y.device)
            if self.schedule == "sweeps" and order.numel() > self.batch_size:
                order = order[: order.numel() // self.batch_size * self.batch_size]
            for part in order.split(self.batch_size):
                yield DistillationBatch(part, terms)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        share = batch.nodes[self.rank :: self.world_size]
        out = model(select_rows(self.features(model), share), None)
        logits, code_vectors = out if isinstance(out, tuple) else (out, None)
        total = logits.new_zeros(())
        # Gradients are averaged over the processes, whose shares may differ in length.
        part = share.numel() * self.world_size / batch.nodes.numel()
        if "hard" in batch.terms:
            total = total + self.w_hard * part * self._hard(logits, share)
        if "soft" in batch.terms:
            total = total + self.w_soft * part * distillation_kl(logits, self.soft_labels()[share], self.temperature)
        if "code" in batch.terms:
            if code_vectors is None:
                raise ValueError("w_code needs a student with a code head: code_dim must be given (got None)")
            total = total + self.w_code * part * self._code(code_vectors, share)
        return total

    @torch.no_grad()
    def _code_vectors(self) -> Tensor:
        if self._vectors is None:
            self.teacher.eval()
            self._vectors = self.teacher.encode(self.features(self.teacher), self.graph)
        return self._vectors

    def _hard(self, logits: Tensor, nodes: Tensor) -> Tensor:
        """Mean cross-entropy of labelled nodes; where a batch has others, too, an unbiased estimate of it."""
        if self.schedule == "sweeps":
            return F.cross_entropy(logits, self.y[nodes])
        known = torch.zeros(self.num_nodes, dtype=torch.bool, device=nodes.device)
        known[self.split.train] = True
        y = torch.where(known[nodes], self.y[nodes], -100)
        total = F.cross_entropy(logits, y, reduction="sum", ignore_index=-100)
        return total * self.num_nodes / (nodes.numel() * self.split.train.numel())

    def _code(self, code_vectors: Tensor, nodes: Tensor) -> Tensor:
        codebook = self.teacher.quantizer.codebook.detach().to(code_vectors.dtype)
        taught = self._code_vectors()[nodes].to(code_vectors.dtype)
        if self.relation == "l2":
            codebook, taught = F.normalize(codebook, dim=1), F.normalize(taught, dim=1)
            code_vectors = F.normalize(code_vectors, dim=1)
        metric = "euclidean" if self.relation == "l2" else "cosine"
        goal = code_scores(taught, codebook, metric)
        got = code_scores(code_vectors, codebook, "euclidean" if self.relation == "released" else metric)
        return soft_code_kl(goal, got, self.tau, released=self.relation == "released")

    def to(self, device: torch.device | str) -> NodeDistillationTask:
        super().to(device)
        self._vectors = None if self._vectors is None else self._vectors.to(device)
        return self
