"""The page of all results: whole, self-contained, and safe against what records hold."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from graphkit.bench import svg
from graphkit.bench.records import Row
from graphkit.bench.report import deviation, load_benchmarks, write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
BENCHMARK = {
    "name": "spmm",
    "command": "python scripts/bench/spmm.py",
    "versions": {"torch": "2.13.0"},
    "hardware": "a processor",
    "rows": [
        {"case": "power law", "ours_ms": 10.0, "peer": "torch-sparse", "peer_ms": 43.21, "ratio": 4.321, "gb_s": None},
        {"case": "regular", "ours_ms": 10.0, "peer": "torch-sparse", "peer_ms": 5.0, "ratio": 0.5, "gb_s": 12.0},
    ],
}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write(folder, record, benchmark=None):
    record.save(folder)
    if benchmark is not None:
        (folder / "bench").mkdir()
        (folder / "bench" / "spmm.json").write_text(json.dumps(benchmark))
    return Page(write_report(folder, folder / "report.html").read_text(encoding="utf-8"))


def test_page_tells_everything(record, tmp_path):
    text = write(tmp_path, record, BENCHMARK).text
    for part in (
        "89.25 ± 1.15",  # ours
        "89.65 ± 1.36",  # the paper's
        "−0.40 (−0.3 std)",
        "58,370",
        "12.5",
        "900",
        "random split",
        record.command,
        record.commit,
        record.created,
        record.hardware,
        record.note,
        "torch 2.13.0",
        "seed 2",
        "90.50",
        "a paper, table 2",
        "Neural Common Neighbor with Completion",
        "Benchmark: spmm",
        "4.32",
    ):
        assert part in text, part


def test_colours(record, tmp_path):
    tags = write(tmp_path, record).tags
    classes = [(attributes.get("class") or "").split() for tag, attributes in tags if tag == "span"]
    assert sum("within" in words for words in classes) == 2  # NCNC, and the legend
    assert sum("miss" in words for words in classes) == 1  # CN


def test_page_is_self_contained(record, tmp_path):
    record.save(tmp_path)
    text = write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|<script|<link|<iframe|<img", text)
    for tag, attributes in Page(text).tags:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert tag == "a"
    assert text.count("<svg") == 3


def test_everything_is_escaped(record, tmp_path):
    evil = '<script>alert("1")</script>&\'"'
    record.key = record.dataset = "a&b"
    record.protocol = record.command = record.note = record.hardware = record.commit = record.created = evil
    record.monitor = evil
    record.versions = {evil: evil}
    record.config = {evil: evil}
    record.curves = {evil: [{"epoch": 1, f"valid/{evil}": 1.0}]}
    record.histograms = {evil: {"edges": [0.0, 1.0], evil: [1.0]}}
    for row in record.rows:
        row.model = row.metric = row.split = evil
        row.reported = {"mean": 1.0, "std": 1.0, "source": evil}
    record.rows[0].split = "test"
    rows = [{"case": evil, "peer": evil, "ratio": 2.0, evil: evil}]
    page = write(tmp_path, record, {**BENCHMARK, "name": evil, "command": evil, "hardware": evil, "rows": rows})
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


def test_smoke_run_is_marked(record, tmp_path):
    record.fast = True
    record.commit += "+changes"
    text = write(tmp_path, record).text
    assert "smoke run" in text
    assert "uncommitted" in text


def test_one_run_without_a_paper(record, tmp_path):
    record.seeds = [0]
    for row in record.rows:
        row.values, row.reported = row.values[:1], None
    record.curves = record.histograms = {}
    assert "One run." in write(tmp_path, record).text


def test_what_models_cost(record, tmp_path):
    """A chart a cost: every model is a point, and those that another one beats in both are not on the line."""
    scores = {"small": (80.0, 1.0), "large": (90.0, 100.0), "beaten": (70.0, 50.0)}
    record.rows = [
        Row(model, metric, split, [value] * 3)
        for model, values in scores.items()
        for metric, value in zip(("Hits@100", "Model kB"), values, strict=True)
        for split in ("test", "valid")
    ]
    page = write(tmp_path, record)
    assert "Against cost" in page.text
    (line,) = [attributes["points"] for tag, attributes in page.tags if attributes.get("class") == "front"]
    assert line.count(",") == 2
    places = {
        (attributes["class"], f"{attributes['cx']},{attributes['cy']}")
        for tag, attributes in page.tags
        if tag == "circle" and attributes.get("r") == "4.5" and attributes["class"] in ("ours", "beaten")
    }
    assert sum(kind == "beaten" for kind, _ in places) == 1
    assert {place for place in line.split()} <= {place for kind, place in places if kind == "ours"}
    assert not any(("beaten", place) in places for place in line.split())


def test_of_errors_the_smallest_is_best(record, tmp_path):
    record.monitor = "MSE"
    record.rows = [
        Row(model, metric, "test", [value] * 3)
        for model, values in {"good": (1.0, 1.0), "bad": (2.0, 3.0)}.items()
        for metric, value in zip(("MSE", "Latency us"), values, strict=True)
    ]
    (line,) = [
        attributes["points"] for _, attributes in write(tmp_path, record).tags if attributes.get("class") == "front"
    ]
    assert line.count(",") == 1


def test_no_costs_no_chart(record, tmp_path):
    assert "Against cost" not in write(tmp_path, record).text


def test_only_benchmarks(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "spmm.json").write_text(json.dumps(BENCHMARK))
    assert "spmm" in Page(write_report(tmp_path, tmp_path / "a.html").read_text(encoding="utf-8")).text


@pytest.mark.parametrize("folder", [".", "none"])
def test_nothing_to_report(folder, tmp_path):
    with pytest.raises(ValueError, match="graphkit run ncnc --out"):
        write_report(tmp_path / folder, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_damaged_record_is_named_and_the_page_stays(record, tmp_path):
    write(tmp_path, record)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "ncnc" / "Cora.json").write_text('{"key": "ncnc", "rows": [')
    with pytest.raises(ValueError, match=r"ncnc.Cora\.json"):
        write_report(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize("content", [[], {}, {**BENCHMARK, "rows": 3}, {**BENCHMARK, "rows": [{"ratio": 1}]}])
def test_damaged_benchmark_is_named(content, tmp_path):
    (tmp_path / "spmm.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"spmm\.json is no benchmark record"):
        load_benchmarks(tmp_path)


def test_deviation():
    assert deviation(Row("a", "m", "test", [3.0, 5.0], {"mean": 3.0, "std": 2.0})) == pytest.approx(0.5)
    own = deviation(Row("a", "m", "test", [3.0, 5.0], {"mean": 3.0, "std": None}))
    assert own == pytest.approx(1 / math.sqrt(2))  # in our own deviations
    assert deviation(Row("a", "m", "test", [3.0], {"mean": 3.0, "std": None})) is None
    assert deviation(Row("a", "m", "test", [3.0])) is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (88.1, 88.4), (0, 25), (1e-9, 1.1e-9), (-1e6, 1e6)])
def test_ticks(low, high):
    marks = svg.ticks(low, high)
    assert 2 <= len(marks) <= 7
    assert all(low - 1e-12 <= mark <= high + 1e-12 for mark in marks)
    steps = [b - a for a, b in pairwise(marks)]
    assert max(steps) == pytest.approx(min(steps))


def test_charts_of_equal_values():
    assert "nan" not in svg.scores([svg.Score("a", [1.0], 1.0, 0.0)], "x")
    assert "nan" not in svg.lines({"a": [(1, 1.0)]}, "epoch", "y")
    assert "nan" not in svg.histogram([0.0, 0.0], {"links": [0.0]}, "a")
    assert "nan" not in svg.ratios([("a", 1.0)])
    assert "nan" not in svg.front({"a": (1.0, 1.0), "b": (1.0, 1.0)}, ["a", "b"], "kB", "y")
