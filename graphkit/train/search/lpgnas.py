"""Search for layers and bit widths together, by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphkit.datasets.splits import IndexSplit, mask_split
from graphkit.nn.models.low_precision import (
    Genotype,
    LowPrecisionGNN,
    LPGNNBlock,
    Space,
    buffer_bits,
    low_precision_space,
    make_blocks,
    model_bits,
    run_blocks,
)
from graphkit.nn.quantize.fixed_point import saturation_rates
from graphkit.nn.quantize.straight_through import Choice
from graphkit.ops import NeighborIndex
from graphkit.train.experiment import Experiment
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.utils.checks import check_choice, check_int, check_range
from graphkit.utils.cost import buffer_bytes, model_bytes
from graphkit.utils.seed import stream

KINDS = ("architecture", "quantisation")


class TableController(nn.Module):
    """Free logits for every decision, all equal at first.

    Args:
        sizes: number of options of each decision.

    Shapes:
        - **output:** list of probabilities ``[num_options]``
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.logits = nn.ParameterList(torch.zeros(size) for size in sizes)

    def forward(self, noise: float = 0.0) -> list[Tensor]:
        return [_probabilities(logits, noise) for logits in self.logits]


class ChainedController(nn.Module):
    """Logits that follow from the decisions before: a linear map of the ReLU of an embedding, which is that of the
    previous decision's options, weighted by their probabilities.

    Args:
        sizes: number of options of each decision.
        channels: width of the embeddings.

    Shapes:
        - **output:** list of probabilities ``[num_options]``
    """

    def __init__(self, sizes: Sequence[int], channels: int = 32) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(channels))
        self.linears = nn.ModuleList(nn.Linear(channels, size) for size in sizes)
        self.embeddings = nn.ParameterList(torch.randn(size, channels) for size in sizes[:-1])

    def forward(self, noise: float = 0.0) -> list[Tensor]:
        state: Tensor = self.start
        found: list[Tensor] = []
        for place, linear in enumerate(self.linears):
            if place > 0:
                state = found[-1] @ self.embeddings[place - 1]
            found.append(_probabilities(linear(state.relu()), noise))
        return found


CONTROLLERS: dict[str, Callable[[Sequence[int]], nn.Module]] = {"table": TableController, "chained": ChainedController}


def _probabilities(logits: Tensor, noise: float) -> Tensor:
    return torch.softmax(logits + noise * torch.randn_like(logits) if noise else logits, 0)


class LPGNASSupernet(nn.Module):
    """All networks of a space in one, with shared weights, and two controllers that choose among them: one for layers
    and one for bit widths, as in `"Learned Low Precision Graph Neural Networks" <https://arxiv.org/abs/2009.09232>`_.

    A forward pass computes the most probable network. A backward pass to the controllers computes every other option of
    each decision once, and keeps none of them. On a GPU there is one wait a pass, for the choices.

    Args:
        in_channels: width of the features.
        base_channels: hidden width of which the others are multiples.
        out_channels: number of classes.
        num_blocks: number of blocks.
        controller: ``"chained"`` or ``"table"``, see :class:`ChainedController` and :class:`TableController`.
        dropout: of the input of every linear map while training.
        sample_grad: estimate the gradient of the probabilities by one other option, drawn at random, instead of all.
        options: of :func:`~graphkit.nn.models.low_precision.low_precision_space`: ``attention``, ``heads``,
            ``aggregation``, ``activation``, ``widths``, ``weight_options``, ``activation_options``, ``shortcuts``.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]``
        - **output:** logits ``[N, out_channels]``; with ``penalty=True`` also the logarithm of the expected sizes

    Raises:
        ValueError: an unknown controller or option, or an empty list of options.

    Example:
        >>> supernet = LPGNASSupernet(5, 8, 3, attention=["gat", "gcn"])
        >>> supernet(torch.randn(4, 5), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([4, 3])
        >>> supernet.genotype().blocks[1]["width"]
        3
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        out_channels: int,
        num_blocks: int = 2,
        *,
        controller: str = "chained",
        dropout: float = 0.0,
        sample_grad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.in_channels = check_int(in_channels, "in_channels", 1)
        check_choice(controller, "controller", tuple(CONTROLLERS))
        self.space = low_precision_space(base_channels, out_channels, num_blocks, **options)
        self.sample_grad, self.dropout = sample_grad, dropout
        self.blocks = make_blocks(in_channels, self.space, dropout)
        self.decisions: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
        for place, block in enumerate(self.space):
            for name, candidates in block.items():
                if len(candidates) > 1:
                    self.decisions[KINDS[name.startswith("format.")]].append((place, name))
        self.controllers = nn.ModuleDict(
            {
                kind: CONTROLLERS[controller]([len(self.space[place][name]) for place, name in decisions])
                for kind, decisions in self.decisions.items()
            }
        )

    def reset_parameters(self) -> None:
        """Draw the shared weights anew; the controllers stay."""
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]

    def choose(self, noise: float = 0.0) -> list[dict[str, Choice]]:
        """The choices of every block with their probabilities; ``noise`` is the deviation of what logits get added."""
        places = [place for kind in KINDS for place in self.decisions[kind]]
        probs = [p for kind in KINDS for p in self.controllers[kind](noise)]
        indices = torch.stack([p.argmax() for p in probs]).tolist() if probs else []
        found: list[dict[str, Choice]] = [{} for _ in self.space]
        for (block, name), p, index in zip(places, probs, indices, strict=True):
            found[block][name] = Choice(p, index)
        return found

    def forward(
        self, x: Tensor, edge_index: NeighborIndex | Tensor, noise: float = 0.0, penalty: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        choices = self.choose(noise)
        out = run_blocks(self.blocks, x, edge_index, choices, self.sample_grad)
        return (out, self.log_size(choices).to(out.dtype)) if penalty else out

    def log_size(self, choices: Sequence[Mapping[str, Choice]]) -> Tensor:
        """Logarithm of the expected bits of all weights plus that of the expected bits of the buffer of a node."""
        sizes = (model_bits(self.blocks, choices), buffer_bits(self.blocks, choices))
        return sum(torch.as_tensor(size, dtype=torch.float64).log() for size in sizes)  # type: ignore[return-value]

    def genotype(self) -> Genotype:
        """The most probable network."""
        indices = [{name: choice.taken for name, choice in block.items()} for block in self.choose()]
        return Genotype.take(self.in_channels, self.space, indices)

    @torch.no_grad()
    def inherit(self, genotype: Genotype | None = None) -> LowPrecisionGNN:
        """A network of the space with its part of the shared weights; the most probable one if None.

        Raises:
            ValueError: the genotype is of another space.
        """
        genotype = genotype or self.genotype()
        self._check_member(genotype)
        first = self.blocks[0]
        assert isinstance(first, LPGNNBlock)
        model = LowPrecisionGNN(genotype, self.dropout).to(first.linear)
        shared = self.state_dict()
        for name, weight in model.state_dict().items():
            # A narrower map is the first rows and columns of the widest.
            weight.copy_(shared[name][tuple(slice(size) for size in weight.shape)])
        return model

    def _check_member(self, genotype: Genotype) -> None:
        if genotype.in_channels != self.in_channels or len(genotype.blocks) != len(self.space):
            raise ValueError(
                f"genotype must have in_channels={self.in_channels} and {len(self.space)} blocks (got in_channels="
                f"{genotype.in_channels} and {len(genotype.blocks)} blocks)"
            )
        for place, (block, taken) in enumerate(zip(self.space, genotype.blocks, strict=True)):
            for name in sorted({*block, *taken}):
                if taken.get(name) not in block.get(name, ()):
                    raise ValueError(
                        f"genotype is of another space: {name} of block {place} is {taken.get(name)!r}, not among "
                        f"{block.get(name, ())}"
                    )

    def model_bytes(self) -> int:
        """Bytes of the most probable network's weights."""
        return LowPrecisionGNN(self.genotype()).model_bytes()

    def buffer_bytes(self, num_nodes: int) -> int:
        """Bytes of the most probable network's activations."""
        return LowPrecisionGNN(self.genotype()).buffer_bytes(num_nodes)

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind} decisions: {len(places)}" for kind, places in self.decisions.items())
        return f"{type(self).__name__}({self.in_channels}, blocks: {len(self.blocks)}, {counts})"


# Training -------------------------------------------------------------------------------------------------------------


class SizedNodeClassificationTask(NodeClassificationTask):
    """Node classification that also tells what the trained model weighs: ``Model kB`` and ``Buffer kB``, thousand bytes
    of its weights and of the activations alive together, and ``Saturated``, the percentage of aggregated values outside
    the range of their format, in the block where it is highest."""

    @torch.no_grad()
    def final_metrics(self, model: nn.Module) -> dict[str, dict[str, float]]:
        found = {"Model kB": model_bytes(model) / 1000}
        graph = self.graph if getattr(model, "takes_index", False) else self.edge_index
        own: Any = getattr(model, "buffer_bytes", None)
        if own is not None:
            found["Buffer kB"] = own(self.num_nodes) / 1000
            rates = saturation_rates(model, self.features(model), graph)
            found["Saturated"] = 100 * max(
                (rate for name, rate in rates.items() if name.endswith("aggregated")), default=0.0
            )
        else:
            # The model inside, whose linear maps see the features themselves.
            inner, bits = getattr(model, "model", model), getattr(model, "a_bits", 32)
            found["Buffer kB"] = buffer_bytes(inner, self.features(model), graph, bits=bits) / 1000
            found["Saturated"] = 0.0  # floats, or steps that follow the values
        return {name: {"valid": value, "test": value} for name, value in found.items()}


class SearchStep(NamedTuple):
    """A step of the search: what learns (``"weights"`` or a tuple of controllers), on which nodes, with which noise."""

    learning: tuple[str, ...]
    ids: Tensor
    noise: float
    size: int


class LPGNASTask(SizedNodeClassificationTask):
    """The search as a task: an epoch is one step of the shared weights on the training nodes and, once the controllers
    move, one of theirs on the validation nodes. See :class:`LPGNASSearch` for the arguments."""

    def __init__(self, *args: Any, search: LPGNASSearch, **options: Any) -> None:
        super().__init__(*args, **options)
        self.beta, self.arch_start, self.quant_start = search.beta, search.arch_start, search.quant_start
        self.noise, self.noise_steps, self.single_level = search.noise, search.noise_steps, search.single_level

    def num_batches(self) -> int:
        return 2

    def size(self, batch: SearchStep) -> int:
        return batch.size

    def batches(self, epoch: int) -> Iterator[SearchStep]:  # type: ignore[override]
        noise = self.noise * max(0.0, 1 - epoch / self.noise_steps) if self.noise_steps else 0.0
        moving = [kind for kind, start in zip(KINDS, (self.arch_start, self.quant_start), strict=True) if epoch > start]
        yield SearchStep(("blocks",), self.split.train, noise, 1 if moving else 2)
        if moving:
            ids = self.split.train if self.single_level else self.split.valid
            yield SearchStep(tuple(f"controllers.{kind}" for kind in moving), ids, noise, 1)

    def loss(self, model: nn.Module, batch: SearchStep) -> Tensor:  # type: ignore[override]
        if self.world_size > 1:
            raise ValueError(f"a search runs in one process (got {self.world_size})")
        weights = batch.learning == ("blocks",)
        with _only(model, batch.learning):
            out = model(self.features(model), self.graph, noise=batch.noise, penalty=not weights)
        logits, size = (out, 0.0) if weights else out
        return F.cross_entropy(logits[batch.ids], self.y[batch.ids]) + self.beta * size


@contextmanager
def _only(model: nn.Module, parts: Sequence[str]) -> Iterator[None]:
    """Inside, only parameters of these parts get gradients: the others keep None, and Adam leaves them alone."""
    frozen = [p for name, p in model.named_parameters() if not any(f"{part}." in name for part in parts)]
    frozen = [p for p in frozen if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        genotype: the network.
        history: a row a step: step number, loss, seconds.
    """

    genotype: Genotype
    history: list[dict[str, float]] = field(default_factory=list)


class LPGNASSearch:
    r"""One round of gradient descent on shared weights and on what chooses layers and bit widths, as in `"Learned Low
    Precision Graph Neural Networks" <https://arxiv.org/abs/2009.09232>`_.

    Weights descend the cross-entropy of the training nodes; controllers that of the validation nodes plus
    :math:`\beta \, (\log S + \log B)` with S the expected size of the model and B that of its buffer, to first order.
    After it, train :class:`~graphkit.nn.LowPrecisionGNN` of the genotype from scratch.

    Args:
        supernet: the networks to search.
        beta: weight of the sizes.
        steps: steps in all.
        arch_start: steps before the layers' controller moves.
        quant_start: steps before the bit widths' controller moves.
        noise_steps: steps over which the noise on the logits sinks to zero.
        noise: its standard deviation at first.
        lr, weight_decay: of Adam for the weights.
        controller_lr: of Adam for the controllers.
        single_level: let the controllers learn from the training nodes, too.

    Raises:
        ValueError: an argument out of range, or ``arch_start`` after ``quant_start``.

    Example:
        >>> search = LPGNASSearch(LPGNASSupernet(16, 8, 3), beta=0.1, steps=200)  # doctest: +SKIP
        >>> search.fit(data).genotype  # doctest: +SKIP
    """

    def __init__(
        self,
        supernet: LPGNASSupernet,
        beta: float = 0.1,
        steps: int = 400,
        arch_start: int = 40,
        quant_start: int = 80,
        noise_steps: int = 200,
        *,
        noise: float = 1.0,
        lr: float = 5e-3,
        weight_decay: float = 5e-4,
        controller_lr: float = 3e-3,
        single_level: bool = False,
    ) -> None:
        self.supernet = supernet
        self.beta = check_range(beta, "beta", 0)
        self.steps = check_int(steps, "steps", 1)
        self.arch_start, self.quant_start = (
            check_int(arch_start, "arch_start", 0),
            check_int(quant_start, "quant_start", 0),
        )
        if arch_start > quant_start:
            raise ValueError(f"arch_start must be at most quant_start={quant_start} (got {arch_start})")
        self.noise_steps, self.noise = check_int(noise_steps, "noise_steps", 0), check_range(noise, "noise", 0)
        self.lr, self.weight_decay, self.controller_lr = lr, weight_decay, controller_lr
        self.single_level = single_level

    def experiment(self, data: Data, split: IndexSplit, **options: Any) -> Experiment:
        """The search as a stage of training; ``options`` are those of the task.

        Only the last step is evaluated: at an earlier one with a better validation value the controllers may not even
        have moved.
        """
        task = LPGNASTask(data, split, search=self, **options)
        groups = [
            {"params": [*self.supernet.blocks.parameters()], "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": [*self.supernet.controllers.parameters()], "lr": self.controller_lr},
        ]
        groups = [group for group in groups if group["params"]]
        return Experiment(task, self.supernet, torch.optim.Adam(groups), self.steps, eval_every=self.steps)

    def fit(self, data: Data, split: IndexSplit | None = None, **trainer: Any) -> SearchResult:
        """Search on a graph.

        Args:
            data: the graph, with labels.
            split: training, validation and test nodes; the masks of ``data`` if None.
            trainer: arguments of :class:`~graphkit.train.Trainer`.

        Raises:
            ValueError: the graph has no masks, and no split is given.
        """
        result = self.experiment(data, split or mask_split(data)).run(**trainer)
        return SearchResult(self.supernet.genotype(), result.history)


@dataclass
class SearchedExperiment(Experiment):
    """An experiment whose model is known after the one that it starts from.

    Args:
        make: the experiment with its model and optimizer, made from the trained first model.
    """

    make: Callable[[nn.Module], Experiment] | None = None

    def begin(self) -> None:
        assert self.start_from is not None
        assert self.make is not None
        made = self.make(self.start_from[1].model)
        self.model, self.optimizer = made.model, made.optimizer


# The baseline ---------------------------------------------------------------------------------------------------------


class RandomCandidates(nn.Module):
    """Networks drawn at random from a space, trained side by side.

    Args:
        in_channels: width of the features.
        space: decisions with their options.
        count: number of networks.
        seed: seed of the draw.
        dropout: of the networks.

    Shapes:
        - **input:** as :class:`~graphkit.nn.LowPrecisionGNN`
        - **output:** ``[count, N, out_channels]``
    """

    takes_index = True

    def __init__(
        self, in_channels: int, space: Sequence[Space], count: int, seed: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_int(count, "count", 1)
        source = stream(seed)

        def draw(options: Sequence[Any]) -> int:
            return int(torch.randint(len(options), (), generator=source))

        drawn = [[{name: draw(options) for name, options in block.items()} for block in space] for _ in range(count)]
        genotypes = [Genotype.take(in_channels, space, indices) for indices in drawn]
        self.candidates = nn.ModuleList(LowPrecisionGNN(genotype, dropout) for genotype in genotypes)

    def forward(self, x: Tensor, edge_index: NeighborIndex | Tensor) -> Tensor:
        return torch.stack([candidate(x, edge_index) for candidate in self.candidates])


class RandomSearchTask(NodeClassificationTask):
    """Trains :class:`RandomCandidates`; scores are those of the best one, see :meth:`best`."""

    def __init__(self, *args: Any, beta: float = 0.1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.beta = check_range(beta, "beta", 0)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        if self.world_size > 1:
            raise ValueError(f"a search runs in one process (got {self.world_size})")
        logits = model(self.features(model), self.graph)[:, batch]
        # The sum: each network learns as it would alone.
        return F.cross_entropy(logits.flatten(0, 1), self.y[batch].repeat(logits.size(0))) * logits.size(0)

    @torch.no_grad()
    def best(self, model: RandomCandidates) -> LowPrecisionGNN:
        """The network of the least validation loss plus beta times the logarithm of its sizes."""
        model.eval()
        logits = model(self.features(model), self.graph)[:, self.split.valid]
        costs = []
        for candidate, logit in zip(model.candidates, logits, strict=True):
            assert isinstance(candidate, LowPrecisionGNN)
            sizes = torch.tensor([float(candidate.model_bytes()), float(candidate.buffer_bytes(self.num_nodes))])
            costs.append(F.cross_entropy(logit, self.y[self.split.valid]) + self.beta * sizes.log().sum().to(logit))
        found = model.candidates[int(torch.stack(costs).argmin())]
        assert isinstance(found, LowPrecisionGNN)
        return found

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        assert isinstance(model, RandomCandidates)
        return super().evaluate(self.best(model), split)
