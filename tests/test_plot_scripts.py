"""The pictures of docs/ are made by scripts: from small records and shipped data, alike each time."""

from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from graphkit.bench.records import Record, Row

HOME = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (HOME / "scripts").glob("plot_*.py") if path.stem != "plot_parts")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def script(monkeypatch):
    """Imports a plot script as another one does."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(HOME / "scripts"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("plot_"):
            del sys.modules[name]


def record(key: str, dataset: str, scores: dict[str, dict[str, float]], **fields) -> Record:
    rows = [Row(model, metric, "test", [value]) for model, row in scores.items() for metric, value in row.items()]
    return Record(key, dataset, "a split", "graphkit run", rows, [0], {}, "Accuracy", **fields)


def circles(picture: str) -> list[tuple[float, float]]:
    """Centres of the dots that have a tip, in their order."""
    found = [dot for dot in ElementTree.fromstring(picture).iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in found]


@pytest.mark.parametrize("name", SCRIPTS)
def test_says_how_it_is_called(name, script):
    text = (HOME / "scripts" / f"{name}.py").read_text()
    assert f"python scripts/{name}.py" in text.split('"""')[1]
    with pytest.raises(SystemExit) as stop:
        script(name).main(["--help"])
    assert stop.value.code == 0


@pytest.mark.parametrize("name", ["images", "nodes", "orders", "rows"])
def test_tokens(name, script):
    """Whole, and alike each time. An image has an outline, so has each of its 16 squares, twice, and its 64 pixels."""
    picture = script("plot_tokens").PICTURES[name]()
    outlines = [box for box in ElementTree.fromstring(picture).iter(f"{SVG}rect") if box.get("fill") == "none"]
    assert "nan" not in picture
    assert name != "images" or len(outlines) == 1 + 16 + 64 + 16
    assert picture == script("plot_tokens").PICTURES[name]()


def test_costs(script):
    scores = {"small": (80.0, 1.0), "large": (90.0, 100.0), "beaten": (70.0, 50.0)}
    made = record("lpgnas", "Cora", {m: {"Accuracy": a, "Model kB": kb} for m, (a, kb) in scores.items()})
    picture = script("plot_pareto").draw(made)
    small, beaten, large = circles(picture)  # by cost
    assert small[0] < beaten[0] < large[0]
    assert large[1] < small[1] < beaten[1]  # up is better
    (line,) = [path.get("d") for path in ElementTree.fromstring(picture).iter(f"{SVG}path")]
    assert line.count("L") == 1
    with pytest.raises(ValueError, match="no cost"):
        script("plot_pareto").draw(record("lpgnas", "Cora", {"a": {"Accuracy": 1.0}}))


def test_compactness(script):
    bins = {"edges": [-1.0, 0.0, 1.0], "compactness": [0.25, 0.75], "certified": [0.5, 0.5]}
    made = record(
        "pot_gcl", "Cora", {"GRACE": {"Accuracy": 1.0}}, histograms={"GRACE": bins, "GRACE+POT": bins, "GCA": bins}
    )
    picture = script("plot_compactness").draw(made)
    assert picture.count("GRACE:") == 2
    assert "GCA" not in picture  # there is none with POT
    made.histograms.pop("GRACE+POT")
    with pytest.raises(ValueError, match="no histograms"):
        script("plot_compactness").draw(made)


def test_poisoned_edges(script, tmp_path):
    for name, score in (
        ("Cora-LCC", 80.0),
        ("Cora-meta-0.05", 70.0),
        ("Cora-meta-0.20", 50.0),
        ("Cora-LCC+dice-0.20", 1),
    ):
        record("stable", name, {"GCN": {"Accuracy": score}, "STABLE": {"Accuracy": score + 1}}).save(tmp_path)
    out = tmp_path / "plot.svg"
    script("plot_poisoned").main(["--records", str(tmp_path), "--models", "GCN", "--out", str(out)])
    first, second, third = circles(out.read_text())
    assert (second[0] - first[0]) * 3 == pytest.approx(third[0] - second[0], abs=0.3)
    assert first[1] < second[1] < third[1]
    script("plot_poisoned").main(["--records", str(tmp_path), "--attack", "dice", "--out", str(out)])
    assert len(circles(out.read_text())) == 4
    with pytest.raises(ValueError, match="0 records of CiteSeer"):
        script("plot_poisoned").main(["--records", str(tmp_path), "--graph", "CiteSeer", "--out", str(out)])


def test_memory_against_depth(script, tmp_path):
    rows = [
        {"depth": d, "ours_saved_mb": 1.0, "peer_saved_mb": 1.0 * d, "ours_peak_mb": 2.0, "peer_peak_mb": 2.0 * d}
        for d in (1, 2, 4)
    ]
    path = tmp_path / "forward_memory.json"
    path.write_text(json.dumps({"rows": [*rows, {"case": "something else"}]}))
    script("plot_forward_memory").main(["--record", str(path), "--out", str(tmp_path / "plot.svg")])
    dots = circles((tmp_path / "plot.svg").read_text())
    assert len(dots) == 12
    assert dots[0][1] == dots[1][1] == dots[2][1]  # layer by layer, depth costs nothing
    assert dots[3][1] > dots[4][1] > dots[5][1]
    with pytest.raises(ValueError, match="no row with a depth"):
        script("plot_forward_memory").draw([{"case": "something else"}])


def test_principal_components(script):
    """Of points on a line all lie on the first one, whatever the direction's sign."""
    t = torch.linspace(-1, 1, 21)
    points = script("plot_parts").principal(t[:, None] * torch.tensor([3.0, -4.0]) + 7)
    torch.testing.assert_close(points[:, 0].abs(), 5 * t.abs().double(), atol=1e-6, rtol=0)
    assert float(points[:, 1].abs().max()) < 1e-6


def test_names_lie_apart():
    from graphkit.bench.svg import beside

    points = [(0.0, 0.0), (4.0, 1.0), (8.0, 0.0), (90.0, 0.0)]
    names = ["first", "second", "third", "fourth"]
    boxes = []
    for (x, y), name, (dx, dy, anchor) in zip(points, names, beside(points, names, -100, 100, 6), strict=True):
        left = x + dx - (6 * len(name) if anchor == "end" else 0)
        boxes.append((left, y + dy - 10, left + 6 * len(name), y + dy + 2))
    assert all(a >= -100 and c <= 100 for a, _, c, _ in boxes)
    for place, (a, b, c, d) in enumerate(boxes):
        assert not any(a < g and e < c and b < h and f < d for e, f, g, h in boxes[:place])


def test_recall(script):
    made = record("hopfield_recall", "digits", {"Hopfield": {"Accuracy": 1.0}})
    table = {"patterns": [10, 10, 100, 100], "beta": [1.0, 4.0, 1.0, 4.0], "Recalled": [90.0, 100.0, 50.0, 80.0]}
    made.tables = {"Hopfield": table, "cosine": {"patterns": [10, 100], "beta": [0, 0], "Recalled": [70.0, 60.0]}}
    picture = script("plot_recall").draw(made)
    dots = circles(picture)
    assert "Hopfield, beta 4" in picture
    assert len(dots) == 6
    assert dots[3][1] < dots[1][1]  # beta 4 recalls more of 100 images than beta 1
    made.tables = {}
    with pytest.raises(ValueError, match="no table"):
        script("plot_recall").draw(made)


def test_pretraining(script):
    made = record("w2pgnn", "graphon-domains", {"GIN": {"Accuracy": 1.0}})
    made.tables = {
        "GIN": {"source": ["a", "b"], "target": ["x", "y"], "Feasibility": [-2.0, -1.0], "gain": [-1.0, 3.0]}
    }
    (a, b) = circles(script("plot_pretraining").draw(made))
    assert a[0] < b[0]
    assert a[1] > b[1]
    made.tables = {}
    with pytest.raises(ValueError, match="no tables"):
        script("plot_pretraining").draw(made)
