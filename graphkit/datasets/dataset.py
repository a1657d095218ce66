"""A named dataset: its facts, its data, and the split that its protocol prescribes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch_geometric.data import Data, InMemoryDataset

from graphkit.datasets.event_split import EventSplit
from graphkit.datasets.events import EventStream
from graphkit.datasets.series import SeriesSplit
from graphkit.datasets.splits import (
    IndexSplit,
    LinkSplit,
    NCNRandomLinkSplit,
    cross_validation_split,
    fold_split,
    full_split,
    inductive_split,
    mask_split,
    per_class_split,
    random_link_split,
    random_node_split,
)
from graphkit.utils.checks import check_choice


class Protocol(NamedTuple):
    """A way to split: the task that it serves, and what it does in one sentence."""

    task: str
    text: str


PROTOCOLS = {
    "link": Protocol("link", "70/10/20 % random undirected links, as many negatives as NCN's protocol has; by seed"),
    "link-64-16-20": Protocol("link", "64/16/20 % random undirected links, as many fixed non-links; by seed"),
    "public": Protocol("node", "the one public split that comes with the data"),
    "fixed": Protocol("node", "the ten splits that come with the data; seed i takes split i mod 10"),
    "full": Protocol(
        "node", "the 500 validation and 1,000 test nodes that come with the data; all others for training"
    ),
    "geom-gcn": Protocol("node", "the ten Geom-GCN splits, 48/32/20 %; seed i takes split i mod 10"),
    "per-class": Protocol("node", "20 training and 30 validation nodes of each class, the rest for test; by seed"),
    "unseen-nodes": Protocol(
        "node", "as per-class, with a fifth of the test nodes and their edges hidden while models are trained; by seed"
    ),
    "five-fold": Protocol(
        "node", "64/16/20 %: five folds, seed i tests on fold i mod 5, a fifth of the rest validates"
    ),
    "random": Protocol("node", "48/32/20 % of each class; by seed"),
    "random-10": Protocol("node", "10/10/80 % of each class; by seed"),
    "folds": Protocol("graph", "ten stratified folds; seed i tests on fold i mod 10, validates on the next"),
    "few-shot": Protocol(
        "graph",
        "10 training and 10 validation graphs of each class (of each domain), the rest for test; of images the test "
        "part is that of `images`; by seed",
    ),
    "images": Protocol(
        "graph",
        "the official test images, a tenth of the training images of each class for validation; without an official "
        "part 40/10/50 % of each class; by seed",
    ),
    "sequences": Protocol("token", "12,800 sequences for training, 1,280 for validation and 1,280 for the test"),
    "canvases": Protocol(
        "token", "1,000 canvases for training, 250 for validation and 250 for the test, of digits of their own"
    ),
    "position": Protocol("text", "the first 80 % of the text for training, then 10 %, then 10 %"),
    "points": Protocol(
        "regression", "half of the points for training, a quarter each for validation and test; by seed"
    ),
    "triples": Protocol("link", "the published training, validation and test triples, as ids of edges"),
    "series-60-20-20": Protocol("series", "the first 60 % of the rows for training, then 20 %, then 20 %"),
    "series-months": Protocol("series", "the first 12 months of 30 days for training, then 4, then 4"),
    "drawn": Protocol(
        "pointing",
        "2,000 validation and 2,000 test graphs, drawn once; training graphs are drawn anew in every epoch, by seed",
    ),
    "time": Protocol("temporal", "first 70 % of the events, next 15 %, last 15 %, by quantiles of time"),
    "inductive": Protocol(
        "temporal", "as time, with a tenth of the nodes hidden until the test, which has their events only; by seed"
    ),
    "ogb-link": Protocol("link", "OGB's split and negatives"),
    "ogb-node": Protocol("node", "OGB's split"),
    "ogb-graph": Protocol("graph", "OGB's split"),
}


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a dataset, known without reading it.

    Args:
        name: Name for :func:`graphkit.datasets.load`.
        nodes: Number of nodes; the average for a set of many graphs.
        edges: Number of undirected edges without self-loops (average for many graphs); events of a temporal graph,
            triples of a knowledge graph; rows of a series, of which each node is a variable.
        features: Width of ``x`` (of ``msg`` for a temporal graph); 0 if there is none.
        classes: Number of classes; 0 if there are none.
        graphs: Number of graphs.
        metric: The protocol's metric.
        protocols: Keys of ``PROTOCOLS`` that :meth:`Dataset.split` accepts; the first is the default.
        licence: Licence of the data.
        source: Where the data comes from.
        origin: ``"shipped"`` (in the package), ``"built"`` (made from another package), ``"file"`` (read by GraphKit),
            ``"pyg"`` or ``"ogb"``.
        folder: Folder (or file) under the root; empty if no file is needed.
        targets: Number of labels of each node or graph.
    """

    name: str
    nodes: float
    edges: float
    features: int
    classes: int
    graphs: int
    metric: str
    protocols: tuple[str, ...]
    licence: str
    source: str
    origin: str
    folder: str = ""
    targets: int = 1

    @property
    def task(self) -> str:
        """Task of the default protocol: ``"node"``, ``"link"``, ``"graph"``, ``"temporal"`` or ``"series"``."""
        return PROTOCOLS[self.protocols[0]].task

    @property
    def protocol(self) -> str:
        """The default protocol in words."""
        return PROTOCOLS[self.protocols[0]].text

    def protocol_for(self, task: str, name: str | None = None) -> str:
        """The protocol ``name`` if it serves ``task``; the first that does if None.

        Raises:
            ValueError: the dataset has no such protocol.
        """
        names = [known for known in self.protocols if PROTOCOLS[known].task == task]
        if not names:
            raise ValueError(
                f"{self.name} has no protocol for {task} tasks; it has {', '.join(self.protocols)} "
                "(`graphkit datasets` lists what each dataset has)"
            )
        return names[0] if name is None else check_choice(name, "protocol", names)


@dataclass(eq=False)
class Dataset:
    """A dataset in memory.

    Args:
        info: Facts.
        data: The graph, for a single graph; an :class:`~graphkit.datasets.EventStream` for a temporal one.
        graphs: The graphs, for a set of many.
        splitters: Functions of the seed for the protocols whose split comes from files.
        make_evaluator: Makes the official evaluator, if there is one.

    Example:
        >>> dataset = load("pyimports")
        >>> split = dataset.split(seed=0)
    """

    info: DatasetInfo
    data: Any = None
    graphs: InMemoryDataset | None = None
    splitters: dict[str, Callable[[int], Any]] = field(default_factory=dict, repr=False)
    make_evaluator: Callable[[], Any] | None = field(default=None, repr=False)

    def split(self, seed: int = 0, protocol: str | None = None) -> Any:
        """The split of ``protocol`` (default: the dataset's own) for ``seed``.

        Returns:
            :class:`~graphkit.datasets.splits.LinkSplit` for links,
            :class:`~graphkit.datasets.EventSplit` for events,
            :class:`~graphkit.datasets.SeriesSplit` for rows of series,
            :class:`~graphkit.datasets.splits.IndexSplit` for nodes, graphs and triples.

        Raises:
            ValueError: the dataset has no such protocol.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer from 0 on (got {seed!r})")
        name = protocol or self.info.protocols[0]
        check_choice(name, "protocol", self.info.protocols)
        return self.splitters[name](seed) if name in self.splitters else _split(self, name, seed)

    def require_features(self, user: str) -> None:
        """Check that the nodes of a single graph have features, which ``user`` (in words) needs.

        Raises:
            ValueError: they have none.
        """
        if getattr(self.data, "x", None) is None:
            raise ValueError(
                f"{self.info.name} has no node features, which {user} needs; `graphkit datasets` lists which have"
            )

    def evaluator(self) -> Any:
        """The official evaluator of the dataset (OGB).

        Raises:
            ValueError: the dataset has none.
        """
        if self.make_evaluator is None:
            raise ValueError(f"{self.info.name} has no official evaluator; its metric is {self.info.metric}")
        return self.make_evaluator()


def _split(dataset: Dataset, protocol: str, seed: int) -> LinkSplit | EventSplit | IndexSplit | SeriesSplit:
    if protocol in ("folds", "few-shot"):
        assert dataset.graphs is not None
        y = dataset.graphs._data.y
        return fold_split(y, fold=seed) if protocol == "folds" else per_class_split(y, 10, 10, seed)
    data = dataset.data
    if isinstance(data, EventStream):
        return EventSplit.make(data, new_nodes=0.1 if protocol == "inductive" else 0, seed=seed)
    assert isinstance(data, Data)
    if protocol == "series-60-20-20":
        return SeriesSplit.by_share(data)
    if protocol == "series-months":
        return SeriesSplit.by_months(data)
    if protocol == "link":
        return NCNRandomLinkSplit(seed=seed).split(data)
    if protocol == "link-64-16-20":
        return random_link_split(data, seed=seed)
    if protocol == "five-fold":
        return cross_validation_split(data.y, fold=seed)
    if protocol == "full":
        return full_split(data)
    if protocol == "per-class":
        return per_class_split(data.y, seed=seed)
    if protocol == "unseen-nodes":
        return inductive_split(per_class_split(data.y, seed=seed), seed=seed)
    if protocol == "random":
        return random_node_split(data.y, seed=seed)
    if protocol == "random-10":
        return random_node_split(data.y, 0.1, 0.1, seed)
    # "public", "fixed" and "triples" come with the data as masks.
    return mask_split(data, seed)
