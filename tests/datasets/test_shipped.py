"""The datasets that ship with the package, and the scripts that make their files."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import TemporalDataLoader

from graphkit.datasets import load, shipped

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    path = ROOT / "scripts" / "datasets" / f"{name}.py"
    if not path.exists():
        pytest.skip("the scripts are not part of an installed package")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imports():
    return shipped.pyimports()


@pytest.fixture(scope="module")
def flights():
    return shipped.nycflights()


@pytest.fixture(scope="module")
def make_pyimports() -> ModuleType:
    return script("make_pyimports")


@pytest.fixture(scope="module")
def make_nycflights() -> ModuleType:
    return script("make_nycflights")


# The graph of imports


def test_pyimports_statistics(imports) -> None:
    assert imports.validate()
    assert imports.x.shape == (4933, 512)
    assert imports.x.dtype == torch.float32
    assert set(imports.x.unique().tolist()) == {0.0, 1.0}
    assert imports.edge_index.shape == (2, 53600)
    assert imports.edge_index.dtype == torch.int64
    assert imports.is_undirected()
    assert imports.is_coalesced()
    assert not imports.has_self_loops()
    assert not imports.has_isolated_nodes()
    assert imports.y.dtype == torch.int64
    assert len(set(imports.module_names)) == len(imports.module_names) == 4933
    assert imports.label_names == sorted(imports.label_names)
    assert torch.bincount(imports.y).tolist() == [485, 621, 177, 287, 300, 282, 328, 576, 242, 426, 806, 403]


def test_pyimports_known_edges(imports) -> None:
    """Imports that anyone can look up: statistics alone would not notice shifted ids."""
    graph = shipped.pyimports(directed=True)
    assert graph.edge_index.shape == (2, 27860)
    names = graph.module_names
    edges = {(names[a], names[b]) for a, b in graph.edge_index.t().tolist()}
    assert ("networkx.algorithms.bipartite.matching", "networkx") in edges
    assert ("django.shortcuts", "django.http") in edges
    assert ("scipy.stats.qmc", "scipy.stats._qmc") in edges
    assert ("statsmodels.base.model", "pandas") in edges
    assert ("pandas", "statsmodels.base.model") not in edges
    assert imports.label_names[int(imports.y[names.index("sklearn.svm")])] == "scikit-learn"


def test_pyimports_common_neighbours_predict_links(imports) -> None:
    """With 30 % of the edges hidden, half of them or more beat all but 100 of as many random pairs."""
    generator = torch.Generator().manual_seed(0)
    n = imports.num_nodes
    edges = imports.edge_index[:, imports.edge_index[0] < imports.edge_index[1]]
    order = torch.randperm(edges.size(1), generator=generator)
    cut = int(0.7 * edges.size(1))
    seen, hidden = edges[:, order[:cut]], edges[:, order[cut:]]
    adjacency = torch.zeros(n, n)
    adjacency[seen[0], seen[1]] = adjacency[seen[1], seen[0]] = 1
    weight = 1 / adjacency.sum(1).clamp(min=2).log()
    random = torch.randint(n, hidden.shape, generator=generator)

    def score(pairs: torch.Tensor) -> torch.Tensor:
        return torch.cat([(adjacency[c[0]] * adjacency[c[1]]) @ weight for c in pairs.split(512, dim=1)])

    threshold = score(random).topk(100).values[-1]
    assert (score(hidden) > threshold).float().mean() > 0.5


# Flights


def test_nycflights_statistics(flights) -> None:
    assert flights.num_events == 334264
    assert flights.num_nodes == 4147
    assert [flights[key].dtype for key in ("src", "dst", "t", "y")] == [torch.int64] * 4
    assert (int(flights.src.min()), int(flights.src.max())) == (0, 4042)
    assert (int(flights.dst.min()), int(flights.dst.max())) == (4043, 4146)
    assert bool((flights.t.diff() >= 0).all())
    assert flights.msg.shape == (334264, 9)
    assert flights.msg.dtype == torch.float32
    assert bool(flights.msg.isfinite().all())
    assert bool((flights.msg[:, :3].sum(1) == 1).all())
    assert int(flights.y.sum()) == 78657
    names = shipped.nycflights_names()
    assert len(set(names)) == flights.num_nodes
    assert {"LAX", "SFO", "ORD"} <= set(names[4043:])


def test_nycflights_first_event(flights) -> None:
    """The first scheduled departure of 2013: 05:15 in New York, Newark to Houston, two minutes late."""
    names = shipped.nycflights_names()
    assert int(flights.t[0]) == 1357035300
    assert (names[int(flights.src[0])], names[int(flights.dst[0])]) == ("N14228", "IAH")
    assert flights.msg[0, :3].tolist() == [1, 0, 0]
    angle = 2 * np.pi * 5.25 / 24
    assert flights.msg[0, 3:5].tolist() == pytest.approx([np.sin(angle), np.cos(angle)])
    assert int(flights.y[0]) == 0


def test_nycflights_splits_and_batches(flights) -> None:
    train, val, test = flights.train_val_test_split(0.15, 0.15)
    assert train.num_events + val.num_events + test.num_events == flights.num_events
    assert int(train.t[-1]) < int(val.t[0])
    assert int(val.t[-1]) < int(test.t[0])
    assert next(iter(TemporalDataLoader(test, batch_size=200))).num_events == 200


def test_delay_so_far_is_known_at_t() -> None:
    minutes = np.array([0, 10, 30, 40, 100, 2000])
    plane = np.array([0, 1, 0, 1, 0, 0])
    delay = np.array([50, -5, 7, shipped._CANCELLED, 0, 0])
    result = shipped._delay_so_far(plane, minutes * 60, delay) // 60
    # The plane of 0:00 has not left at 0:30, so it is 30 minutes late so far. A day later nothing is said.
    assert result.tolist() == [0, 0, 30, -5, 7, 0]


# Digits


def test_digits() -> None:
    data = shipped.digits()
    assert data.validate()
    assert data.x.shape == (1797, 64)
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert data.num_edges == 19858
    assert data.is_undirected()
    assert data.is_coalesced()
    assert not data.has_self_loops()
    assert torch.bincount(data.edge_index[0]).min() >= 8
    assert torch.bincount(data.y).min() > 170
    same = data.y[data.edge_index[0]] == data.y[data.edge_index[1]]
    assert same.float().mean() > 0.95


def test_digits_neighbours_are_nearest() -> None:
    data = shipped.digits(k=3)
    distance = torch.cdist(data.x.double(), data.x.double())
    distance.fill_diagonal_(torch.inf)
    third = distance.kthvalue(3, dim=1).values
    a, b = data.edge_index
    assert bool((distance[a, b] <= torch.maximum(third[a], third[b]) + 1e-9).all())


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (1797, ValueError), (2.5, TypeError)])
def test_digits_refuses(k, error) -> None:
    with pytest.raises(error, match="k must be"):
        shipped.digits(k)


# Damaged files


@pytest.mark.parametrize("name", ["pyimports", "nycflights"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "bit"])
def test_damaged_file(name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data" / name / f"{name}.npz"
    path.parent.mkdir(parents=True)
    shutil.copy(str(shipped.files("graphkit.datasets") / "data" / name / f"{name}.npz"), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"missing": b"", "empty": b"", "cut": bytes(content[:1000]), "bit": bytes(content)}[damage])
    if damage == "missing":
        path.unlink()
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    with pytest.raises(
        FileNotFoundError if damage == "missing" else ValueError, match="install the package again"
    ) as e:
        getattr(shipped, name)()
    assert str(path) in str(e.value)


def test_every_dataset_has_a_card() -> None:
    for name in ("pyimports", "nycflights", "digits"):
        card = (shipped.files("graphkit.datasets") / "data" / name / "README.md").read_text()
        assert "Licence" in card


# The script that makes pyimports

TREE = {
    "shop": {
        "shop/__init__.py": b"from .cart import Cart\nfrom . import pay\n",
        "shop/cart.py": b"import shop.pay.card\nfrom tools.text import parse_price as parse\nclass Cart: pass\n",
        "shop/pay/__init__.py": b"from ..cart import *\nimport os\n",
        "shop/pay/card.py": b"def f():\n    from .. import missing, cart\n    from tools import text\n",
        "shop/0001_initial.py": b"import shop\n",
        "shop/tests/test_cart.py": b"import shop.cart\n",
        "shop/broken.py": b"import shop.cart\ndef (:\n",
        "shop/lonely.py": b"import os\n",
    },
    "tools": {
        "tools/__init__.py": b"",
        "tools/text.py": b"import tools.text\ndef parse_price(rawText): return rawText.strip()\n",
        "tools.py": b"import shop\n",
    },
}


def edges_of(arrays: dict[str, np.ndarray]) -> set[tuple[str, str]]:
    names = shipped._lines(arrays["module_names"])
    return {(names[a], names[b]) for a, b in arrays["edge_index"].T}


def test_build_pyimports(make_pyimports, capsys) -> None:
    arrays = make_pyimports.build(TREE, num_features=64)
    assert edges_of(arrays) == {
        ("shop", "shop.cart"),
        ("shop", "shop.pay"),
        ("shop.cart", "shop.pay.card"),
        ("shop.cart", "tools.text"),
        ("shop.pay", "shop.cart"),
        ("shop.pay.card", "shop"),  # "missing" is no module, so it is a name of the package
        ("shop.pay.card", "shop.cart"),
        ("shop.pay.card", "tools.text"),
    }
    assert shipped._lines(arrays["label_names"]) == ["shop", "tools"]
    assert arrays["y"].tolist() == [0, 0, 0, 0, 1]
    assert "skipped shop/broken.py" in capsys.readouterr().err


def test_build_pyimports_is_deterministic(make_pyimports, tmp_path: Path) -> None:
    backwards = {package: dict(reversed(files.items())) for package, files in reversed(TREE.items())}
    for tree, name in ((TREE, "a.npz"), (backwards, "b.npz")):
        make_pyimports.save(make_pyimports.build(tree), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["x"].shape == (5, 64)


def test_words(make_pyimports) -> None:
    assert make_pyimports.words("parseHTTPHeader_v2") == ["parse", "http", "header"]
    assert make_pyimports.words("__init__") == ["init"]
    assert make_pyimports.words("x1") == []


def test_features_leave_out_imported_names(make_pyimports) -> None:
    _, words = make_pyimports.module_facts(b"from a import secret_thing\nnew = secret_thing(other_arg=1)\n", "m", False)
    assert words == {"new", "other", "arg"}


def test_hash_is_fixed(make_pyimports) -> None:
    # The check value that defines CRC-32.
    assert make_pyimports.column("123456789", 2**32) == 0xCBF43926


# The script that makes nycflights


def flight(
    tail: str, delay: str, minute: int, hour: str = "10", origin: str = "EWR", dest: str = "IAH"
) -> dict[str, str]:
    stamp = f"2013-01-01T{hour}:00:00Z"
    return {
        "tailnum": tail, "dep_delay": delay, "minute": str(minute), "time_hour": stamp, "origin": origin, "dest": dest
    }  # fmt: skip


def weather(hour: str, wind: str, visibility: str = "10", rain: str = "0") -> dict[str, str]:
    stamp = f"2013-01-01T{hour}:00:00Z"
    return {"origin": "EWR", "time_hour": stamp, "wind_speed": wind, "visib": visibility, "precip": rain}


def test_build_nycflights(make_nycflights) -> None:
    flights = [
        flight("N3", "4.0", 15, dest="ATL"),
        flight("N1", "NA", 5, hour="11"),
        flight("N2", "-3", 15),
        flight("NA", "NA", 0, hour="12"),
    ]
    sky = [weather("09", "11.5078", rain="0.25"), weather("10", "1048.36", visibility="NA"), weather("03", "5")]
    arrays = make_nycflights.build(flights, sky)
    assert arrays["start"].tolist() == [1357035300, 1357030800]
    assert arrays["minutes"].tolist() == [0, 0, 50]
    assert arrays["plane"].tolist() == [1, 2, 0]
    assert arrays["airport"].tolist() == [1, 0, 1]
    assert arrays["delay"].tolist() == [-3, 4, make_nycflights.CANCELLED]
    # 10:00: a wind that cannot be and no visibility; 11:00: no row. The hour before stands.
    assert arrays["weather"].tolist() == [[[10, 1000, 25], [10, 1000, 0], [10, 1000, 0]]]
    again = make_nycflights.build(flights[::-1], sky[::-1])
    assert all((arrays[key] == again[key]).all() for key in arrays)


def test_a_dataset_without_features_says_who_needs_them():
    dataset = load("digits")
    dataset.require_features("a student")
    bare = replace(dataset, data=Data(edge_index=dataset.data.edge_index, num_nodes=dataset.data.num_nodes))
    with pytest.raises(ValueError, match="digits has no node features, which a student needs; `graphkit datasets`"):
        bare.require_features("a student")
