"""Composite backbones: copies of one network, each of which feeds what it found to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.nn.conv.propagate import graph_for
from graphkit.nn.conv.sparse_linear import SparseLinear
from graphkit.nn.models.gnn import GNN
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import INDEX_DTYPES, check_choice, check_int, check_probabilities, check_range

STYLES = ("dhlc", "slc", "ahlc", "allc", "fcc")
RESIZES = ("identity", "nearest")


class Level(NamedTuple):
    """The graph on which a stage works, and how it came from that of the stage before.

    Args:
        graph: what a stage gets as its second argument.
        cluster: ``[N before]`` the node of this graph that each node before became a part of; None: the same nodes.
    """

    graph: Any
    cluster: Tensor | None = None


def composite_connections(style: str, num_stages: int, shared_stages: int = 0) -> set[tuple[int, int]]:
    """Which stages get what of the backbone before: pairs ``(l, i)``, the output of its stage ``i`` goes to the input
    of stage ``l``, counted from 1.

    ``"dhlc"`` (dense higher-level composition): the same stage and all higher ones; ``"slc"`` (same level): the output
    that the stage's own input corresponds to; ``"ahlc"`` (adjacent higher level): the same stage's; ``"allc"``
    (adjacent lower level): that of two stages before; ``"fcc"`` (full connections): all.

    Raises:
        ValueError: another style, a number out of range.

    Example:
        >>> sorted(composite_connections("dhlc", 3, shared_stages=1))
        [(2, 2), (2, 3), (3, 3)]
    """
    check_choice(style, "style", STYLES)
    check_int(shared_stages, "shared_stages", 0)
    stages = range(1, check_int(num_stages, "num_stages", 1) + 1)
    wanted: dict[str, Callable[[int, int], bool]] = {
        "dhlc": lambda to, of: of >= to,
        "slc": lambda to, of: of == to - 1,
        "ahlc": lambda to, of: of == to,
        "allc": lambda to, of: of == to - 2,
        "fcc": lambda to, of: True,
    }
    return {(to, of) for to in stages if to > shared_stages for of in stages if wanted[style](to, of)}


class _Connection(nn.Module):
    """A linear map, then a scale and a shift of each channel, which start at zero."""

    def __init__(self, in_channels: int, out_channels: int, zero_init: bool) -> None:
        super().__init__()
        self.start = 0.0 if zero_init else 1.0
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.scale, self.shift = nn.Parameter(torch.empty(out_channels)), nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.lin.reset_parameters()
        nn.init.constant_(self.scale, self.start)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * self.scale + self.shift


class CompositeBackbone(nn.Module):
    r"""Copies of one backbone, of which each gets the other's higher-level features, from `"CBNet: A Composite Backbone
    Network Architecture for Object Detection" <https://arxiv.org/abs/2107.00420>`_ (CBNetV2).

    With :math:`x^k_l` the output of stage l of backbone k, the stage's input is

    .. math:: x^k_{l-1} + \sum_{i \geq l} U\big(s_{l,i} \odot x^{k-1}_i W_{l,i} + b_{l,i}\big)

    U brings features to the graph of the stage's input. Scales s and shifts b start at zero, so that at first all
    copies of equal weights give the same. The first stages are one for all: later backbones go on from there. The last
    backbone leads and answers; the assistants get a loss of their own in training (:func:`composite_loss`). Costs as
    many times the backbone as there are copies, one after the other.

    In the authors' code scale and shift are those of a normalisation that stays in evaluation mode, and a same-stage
    connection between equal widths is the identity in their Swin form, which cannot start at zero; here all start at
    zero.

    Args:
        make_backbone: makes a backbone: a module with ``stages``, a ``ModuleList`` of modules ``stage(x, graph)``, and
            possibly ``stem``, ``stem(x)`` before them, and ``levels(graph)``, a list of a :class:`Level` a stage for
            stages on different graphs. Edges and all else about tokens are passed through. Copies are drawn one after
            the other; :meth:`load_pretrained` makes them equal.
        stage_channels: width of each stage's output.
        num_backbones: number of copies K.
        style: see :func:`composite_connections`.
        shared_stages: first stages that later backbones leave out (and the stem, from 1 on). More of them prune the
            composite: later backbones then hold only their last stages.
        zero_init: connections start at zero.
        resize: U: ``"identity"`` (all stages have the same nodes), ``"nearest"`` (a node gets the features of what it
            became a part of; the mean of its parts, downwards), or ``resize(x, of, to, levels)`` from the graph after
            stage ``of`` to that after stage ``to``; 0 is the input.
        stem_channels: width of the first stage's input, for ``shared_stages=0``; that of the first stage if None.

    Shapes:
        - **input:** what the backbone takes
        - **output:** in training a list over backbones, the lead last, of lists of stage outputs; else the lead's list

    Raises:
        TypeError: what makes no backbones, or widths that are no numbers; in a call, no levels.
        ValueError: a number out of range, backbones of different or other stages than ``stage_channels`` tells, one
            module as several backbones, all stages shared; in a call, outputs of another width, different nodes with
            ``resize="identity"``, or not one level for each stage.

    Example:
        >>> make = lambda: StagedGNN(4, 8, num_stages=3)
        >>> backbone = CompositeBackbone(make, [8, 8, 8])
        >>> outputs = backbone(torch.rand(5, 4), torch.tensor([[0, 1], [1, 0]]))
        >>> len(outputs), len(outputs[0]), len(backbone.eval()(torch.rand(5, 4), torch.tensor([[0, 1], [1, 0]])))
        (2, 3, 3)
    """

    def __init__(
        self,
        make_backbone: Callable[[], nn.Module],
        stage_channels: Sequence[int],
        num_backbones: int = 2,
        style: str = "dhlc",
        shared_stages: int = 1,
        zero_init: bool = True,
        resize: str | Callable[[Tensor, int, int, list[Level]], Tensor] = "identity",
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(make_backbone, nn.Module) or not callable(make_backbone):
            raise TypeError(f"make_backbone must make a backbone, such as a partial (got {make_backbone!r})")
        self.num_backbones = check_int(num_backbones, "num_backbones", 1)
        if not isinstance(stage_channels, Sequence):
            raise TypeError(f"stage_channels must hold the width of each stage (got {stage_channels!r})")
        self.stage_channels = tuple(check_int(width, "stage_channels", 1) for width in stage_channels)
        self.num_stages = len(self.stage_channels)
        self.style = check_choice(style, "style", STYLES)
        self.shared_stages = check_int(shared_stages, "shared_stages", 0)
        if self.shared_stages >= self.num_stages:
            raise ValueError(
                f"shared_stages must be below the number of stages, {self.num_stages}, for the lead to have a stage of "
                f"its own (got {shared_stages})"
            )
        self.resize = resize if callable(resize) else check_choice(resize, "resize", RESIZES)
        self.stem_channels = self.stage_channels[0] if stem_channels is None else stem_channels
        check_int(self.stem_channels, "stem_channels", 1)
        self.backbones = nn.ModuleList(make_backbone() for _ in range(num_backbones))
        if len({id(backbone) for backbone in self.backbones}) < num_backbones:
            raise ValueError("make_backbone must make a new module at each call (got one module twice)")
        for backbone in self.backbones:
            stages = getattr(backbone, "stages", None)
            if not isinstance(stages, nn.ModuleList):
                raise ValueError(f"make_backbone must make modules with a ModuleList `stages` (got {backbone!r})")
            if len(stages) != self.num_stages:
                raise ValueError(
                    f"stage_channels must hold the width of each stage of all backbones (got {self.num_stages} widths, "
                    f"and a backbone of {len(stages)} stages)"
                )
        self.takes_index = bool(getattr(self.backbones[0], "takes_index", False))
        later: Any
        for later in list(self.backbones)[1:]:
            for stage in range(self.shared_stages):
                later.stages[stage] = nn.Identity()
            if self.shared_stages and getattr(later, "stem", None) is not None:
                later.stem = nn.Identity()
        widths = [self.stem_channels, *self.stage_channels]
        self.pairs = sorted(composite_connections(style, self.num_stages, self.shared_stages))
        self.connections = nn.ModuleList(
            nn.ModuleList(_Connection(widths[of], widths[to - 1], zero_init) for to, of in self.pairs)
            for _ in range(num_backbones - 1)
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        _reset(self.backbones)
        _reset(self.connections)

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Give every copy the weights of one trained backbone, as far as it has these stages.

        Raises:
            RuntimeError: the first backbone does not fit.
        """
        self.backbones[0].load_state_dict(state)
        for later in list(self.backbones)[1:]:
            own = later.state_dict()
            later.load_state_dict({name: value for name, value in state.items() if name in own})

    def levels(self, graph: Any = None) -> list[Level]:
        """The graphs of the stages, which the call takes in place of ``graph``, too."""
        first: Any = self.backbones[0]
        return first.levels(graph) if hasattr(first, "levels") else [Level(graph)] * self.num_stages

    def forward(self, x: Tensor, graph: Any = None) -> list[Tensor] | list[list[Tensor]]:
        levels = graph if isinstance(graph, list) else self.levels(graph)
        self._check_levels(levels)
        found: list[list[Tensor]] = []
        for k, backbone in enumerate(self.backbones):
            found.append(self._run(backbone, x, levels, k, found[-1] if found else None))
        return found if self.training else found[-1]

    def _check_levels(self, levels: list[Level]) -> None:
        for level in levels:
            if not isinstance(level, Level):
                raise TypeError(f"graph must hold a Level for each stage, if it is a list (got {type(level).__name__})")
        if len(levels) != self.num_stages:
            raise ValueError(f"graph must hold a Level for each of {self.num_stages} stages (got {len(levels)})")
        if self.resize == "identity" and self.num_backbones > 1:
            for to, of in self.pairs:
                # The input of a stage has the nodes of the stage before it.
                if any(level.cluster is not None for level in levels[min(of, to - 1) : max(of, to - 1)]):
                    raise ValueError(
                        f"resize must be 'nearest' or a function where stages have different nodes, as the input of "
                        f"stage {to} and the output of stage {of} have (got 'identity')"
                    )

    def _run(
        self, backbone: Any, x: Tensor, levels: list[Level], number: int, before: list[Tensor] | None
    ) -> list[Tensor]:
        if before is not None and self.shared_stages:
            outputs = before[: self.shared_stages]
            h = outputs[-1]
        else:
            stem = getattr(backbone, "stem", None)
            outputs, h = [], x if stem is None else stem(x)
        for stage in range(len(outputs), self.num_stages):
            if before is not None:
                connections: Any = self.connections[number - 1]
                for (to, of), connection in zip(self.pairs, connections, strict=True):
                    if to == stage + 1:
                        if stage == 0 and h.size(1) != self.stem_channels:
                            raise ValueError(
                                f"stem_channels must be {h.size(1)}, the width of the first stage's input (got "
                                f"{self.stem_channels})"
                            )
                        h = h + self._resized(connection(before[of - 1]), of, stage, levels, h)
            level = levels[stage]
            h = backbone.stages[stage](h if level.cluster is None else pooled(h, level), level.graph)
            if h.dim() != 2 or h.size(1) != self.stage_channels[stage]:
                raise ValueError(
                    f"stage_channels tells that stage {stage + 1} gives rows of {self.stage_channels[stage]} "
                    f"(got {list(h.shape)})"
                )
            outputs.append(h)
        return outputs

    def _resized(self, x: Tensor, of: int, to: int, levels: list[Level], like: Tensor) -> Tensor:
        if callable(self.resize):
            return self.resize(x, of, to, levels)
        if self.resize == "nearest":
            return nearest(x, of, to, levels)
        # Stages that pool by themselves tell no levels.
        if x.size(0) != like.size(0):
            raise ValueError(
                f"resize must be 'nearest' or a function where stages have different nodes, {x.size(0)} after stage "
                f"{of} and {like.size(0)} after stage {to} (got 'identity')"
            )
        return x

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_backbones} x {self.backbones[0]!r}, style={self.style!r}, "
            f"shared_stages={self.shared_stages})"
        )


def pooled(x: Tensor, level: Level) -> Tensor:
    """The mean of the nodes of each cluster.

    Raises:
        TypeError: clusters that are no int64.
        ValueError: not one cluster for each node.
    """
    assert level.cluster is not None
    if level.cluster.dtype not in INDEX_DTYPES:
        raise TypeError(f"cluster must be int64, the new node of each (got {level.cluster.dtype})")
    if level.cluster.shape != x.shape[:1]:
        raise ValueError(f"cluster must have shape [{x.size(0)}], a row a node (got {list(level.cluster.shape)})")
    count = int(level.cluster.max()) + 1 if level.cluster.numel() else 0
    ones = x.new_zeros(count).index_add(0, level.cluster, x.new_ones(x.size(0)))
    return x.new_zeros(count, x.size(1)).index_add(0, level.cluster, x) / ones.clamp(min=1)[:, None]


def nearest(x: Tensor, of: int, to: int, levels: list[Level]) -> Tensor:
    """Features after stage ``of`` on the nodes after stage ``to`` (0: of the input): those of the node that each is a
    part of, or the mean of its parts."""
    if of > to:
        for level in reversed(levels[to:of]):
            x = x if level.cluster is None else x.index_select(0, level.cluster)
    for level in levels[of:to]:
        x = x if level.cluster is None else pooled(x, level)
    return x


def pool_grid(tokens: Any) -> tuple[Tensor, TokenLayout]:
    """Squares of two by two tokens become one: ``pool`` of :class:`StagedGNN` for tokens on grids.

    Sides may be odd and tokens missing. O(N log N).

    Args:
        tokens: what :class:`~graphkit.ops.TokenLayout` takes, with ``pos``.

    Returns:
        the new token of each, and the new grids.

    Raises:
        ValueError: tokens without places.

    Example:
        >>> from torch_geometric.data import Data
        >>> grid = Data(pos=torch.cartesian_prod(torch.arange(2), torch.arange(3)), num_nodes=6)
        >>> pool_grid(grid)[0]
        tensor([0, 0, 1, 0, 0, 1])
    """
    count = tokens.num_tokens if isinstance(tokens, TokenLayout) else int(getattr(tokens, "num_nodes", 0) or 0)
    layout = TokenLayout.of(tokens, count)
    if layout.pos is None:
        raise ValueError("tokens must have pos, integer rows and columns, to be pooled on a grid (got none)")
    half = layout.pos // 2
    low = half.amin(0) if count else half.new_zeros(2)  # rows and columns may be negative
    half = half - low
    rows, columns = (half.amax(0) + 1).tolist() if count else (1, 1)
    kept, cluster = ((layout.batch * rows + half[:, 0]) * columns + half[:, 1]).unique(return_inverse=True)
    first = rows * columns * torch.arange(layout.num_graphs + 1, device=kept.device)
    place = torch.stack([kept // columns % rows, kept % columns], 1) + low
    size = None if layout.grid_size is None else (layout.grid_size + 1) // 2
    return cluster, TokenLayout(torch.searchsorted(kept, first), pos=place, grid_size=size)


def composite_loss(
    outputs: Sequence[Any],
    loss: Callable[[Any], Tensor],
    weights: Sequence[float] | None = None,
) -> Tensor:
    r"""The loss of the lead and those of its assistants, at less weight: :math:`L_K + \sum_k \lambda_k L_k`.

    Args:
        outputs: one for each backbone, the lead last, as :class:`CompositeBackbone` gives them, or logits of them.
        loss: the loss of one backbone's output; head and target are the same for all.
        weights: :math:`\lambda_k` of each assistant; 0.5 for one, 0.5 and 1 for two, as in the paper; 0.5 for each of
            more.

    Raises:
        TypeError: weights that are no numbers.
        ValueError: no output, not one weight an assistant, or a negative one.

    Example:
        >>> composite_loss([torch.tensor(2.0), torch.tensor(1.0)], lambda out: out)
        tensor(2.)
    """
    assistants = len(outputs) - 1
    if assistants < 0:
        raise ValueError("outputs must hold that of one backbone at least (got none)")
    if weights is None:
        weights = (0.5, 1.0) if assistants == 2 else (0.5,) * assistants
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights must hold one number for each of {assistants} assistants (got {weights!r})")
    if len(weights) != assistants:
        raise ValueError(f"weights must hold one number for each of {assistants} assistants (got {list(weights)})")
    for weight in weights:
        check_range(weight, "weights", 0)
    total = loss(outputs[-1])
    for weight, out in zip(weights, outputs[:-1], strict=True):
        total = total + weight * loss(out)
    return total


class CompositeClassifier(nn.Module):
    """A composite backbone under one linear head: a model of nodes. All backbones share the head.

    Args:
        backbone: the copies.
        out_channels: number of classes.
        dropout: dropout before the head.
        neck: answer for the nodes of the first stage, from linear maps of all stages that are added up there, each node
            with the features of what it became a part of; else for those of the last stage, from that alone.

    Raises:
        TypeError: another backbone.
        ValueError: a number out of range.

    Shapes:
        - **input:** what the backbone takes
        - **output:** ``[N, out_channels]`` of the lead; in training with several backbones a tuple of the lead's and
          then the assistants'

    Example:
        >>> backbone = CompositeBackbone(lambda: StagedGNN(4, 8, num_stages=2), [8, 8])
        >>> CompositeClassifier(backbone, 3).eval()(torch.rand(5, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([5, 3])
    """

    def __init__(
        self, backbone: CompositeBackbone, out_channels: int, dropout: float = 0.0, neck: bool = False
    ) -> None:
        super().__init__()
        check_probabilities(dropout=dropout)
        if not isinstance(backbone, CompositeBackbone):
            raise TypeError(f"backbone must be a CompositeBackbone (got {type(backbone).__name__})")
        self.backbone, self.dropout = backbone, nn.Dropout(dropout)
        widths = backbone.stage_channels
        width = widths[0 if neck else -1]
        self.laterals = nn.ModuleList(nn.Linear(stage, width) for stage in widths) if neck else None
        self.norm = nn.LayerNorm(width)
        self.lin = nn.Linear(width, check_int(out_channels, "out_channels", 1))
        self.takes_index = backbone.takes_index

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for part in (self.backbone, self.norm, self.lin, *(self.laterals or ())):
            part.reset_parameters()

    def forward(self, x: Tensor, graph: Any = None) -> Tensor | tuple[Tensor, ...]:
        levels = self.backbone.levels(graph)
        found = self.backbone(x, levels)
        if not self.training:
            return self._logits(found, levels)
        logits = [self._logits(outputs, levels) for outputs in reversed(found)]
        return tuple(logits) if len(logits) > 1 else logits[0]

    def _logits(self, outputs: list[Tensor], levels: list[Level]) -> Tensor:
        h = outputs[-1]
        if self.laterals is not None:
            parts = enumerate(zip(self.laterals, outputs, strict=True), 1)
            h = torch.stack([nearest(lateral(out), of, 1, levels) for of, (lateral, out) in parts]).sum(0)
        return self.lin(self.dropout(self.norm(h)))


class _Stage(nn.Module):
    """Layers of message passing, each with a norm before it, ReLU and dropout after it, and a residual connection."""

    def __init__(self, make: Callable[[], nn.Module], channels: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers))
        self.dropout = dropout

    def forward(self, x: Tensor, graph: Any) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = F.relu(layer(norm(x), graph_for(layer, graph)))
            x = x + F.dropout(h, self.dropout, self.training)
        return x


class StagedGNN(nn.Module):
    """A graph network in stages, as :class:`CompositeBackbone` takes it: a linear map, then stages of residual layers.

    Args:
        in_channels: width of a node's features.
        channels: width of all stages.
        num_stages: number of stages.
        layers_per_stage: layers of each.
        conv: ``"gcn"`` or ``"sage"`` (the layers of :class:`~graphkit.nn.GNN`), or ``conv(in_channels, out_channels)``
            that makes a layer ``layer(x, edge_index)``, such as those of PyG.
        pool: ``pool(graph)`` gives the cluster of each node and the graph of clusters, ``(cluster, graph)``, and is
            applied before each stage but the first, such as :func:`pool_grid`; no pooling if None.
        dropout: dropout of the features and after each layer.

    Shapes:
        - **input:** ``x`` ``[N, in_channels]`` (dense or sparse CSR), graph as :class:`~graphkit.ops.NeighborIndex` or
          ``edge_index`` ``[2, E]``
        - **output:** a list of stage outputs ``[N, channels]``

    Raises:
        ValueError: a number out of range.

    Example:
        >>> [h.shape for h in StagedGNN(4, 8, num_stages=2)(torch.rand(3, 4), torch.tensor([[0, 1], [1, 0]]))]
        [torch.Size([3, 8]), torch.Size([3, 8])]
    """

    takes_index = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_stages: int = 4,
        layers_per_stage: int = 1,
        conv: str | Callable[[int, int], nn.Module] = "sage",
        pool: Callable[[Any], tuple[Tensor, Any]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = check_int(in_channels, "in_channels", 1), check_int(channels, "channels", 1)
        check_int(num_stages, "num_stages", 1)
        check_int(layers_per_stage, "layers_per_stage", 1)
        check_probabilities(dropout=dropout)
        self.pool, self.dropout = pool, dropout

        def make() -> nn.Module:
            return GNN(channels, channels, 1, conv=conv) if isinstance(conv, str) else conv(channels, channels)

        self.stem = SparseLinear(in_channels, channels, dropout)
        self.stages = nn.ModuleList(_Stage(make, channels, layers_per_stage, dropout) for _ in range(num_stages))

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        _reset(self)

    def levels(self, graph: Any) -> list[Level]:
        """The graphs of the stages."""
        found = [Level(graph)]
        for _ in range(len(self.stages) - 1):
            if self.pool is None:
                found.append(Level(graph))
            else:
                cluster, graph = self.pool(graph)
                found.append(Level(graph, cluster))
        return found

    def forward(self, x: Tensor, graph: Any) -> list[Tensor]:
        h, outputs = self.stem(x), []
        for stage, level in zip(self.stages, self.levels(graph), strict=True):
            h = stage(h if level.cluster is None else pooled(h, level), level.graph)
            outputs.append(h)
        return outputs

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.channels}, stages={len(self.stages)})"


def _reset(module: nn.Module) -> None:
    for part in module.children():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            _reset(part)
