"""The catalog of papers holds what it says: names import, files exist, results are there."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from graphkit.bench import catalog
from graphkit.bench.catalog import Paper, check_catalog, main, papers
from graphkit.bench.records import Record, Row
from graphkit.recipes import get_recipe, recipe_keys

ROOT = Path(__file__).parents[1]
LISTING = ROOT.parent / "shared" / "papers.md"
ENTRY = """
[[paper]]
key = "one"
name = "One"
title = "A title"
family = "graph"
home = ["nn"]
api = []
status = "planned"
claim = "Does something."
"""


@pytest.fixture
def paper() -> Paper:
    return next(paper for paper in papers() if paper.key == "ncnc")


def test_catalog_is_in_order():
    assert len(papers()) == 68
    assert check_catalog() == []


def test_catalog_equals_the_list_of_papers():
    if not LISTING.exists():
        pytest.skip("the list of papers is not beside the checkout")
    assert check_catalog(listing=LISTING) == []


def test_recipes_of_the_catalog_exist():
    for row in papers():
        if row.recipe is not None:
            assert get_recipe(row.recipe).key == row.recipe
    assert "ncnc" in recipe_keys()


def test_links_and_claims():
    links = [row.link for row in papers() if row.link]
    assert len(set(links)) == len(links)
    assert all(link.startswith("https://") for link in links)
    claims = [row.claim for row in papers()]
    assert len(set(claims)) == len(claims)
    assert all(claim.endswith(".") and len(claim) <= 120 for claim in claims)


def test_command(capsys):
    assert main(["--check"]) == 0
    assert "68 papers" in capsys.readouterr().out


def test_command_fails_on_problems(monkeypatch, capsys, paper):
    monkeypatch.setattr(catalog, "papers", lambda: [replace(paper, api=("graphkit.nn.NoSuchLayer",))])
    assert main(["--check"]) == 1
    assert "graphkit.nn.NoSuchLayer cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api": ("graphkit.no_module.Layer",)}, "cannot be imported"),
        ({"api": ("os.path",)}, "not a name of graphkit"),
        ({"api": ()}, "names no API"),
        ({"home": ("nn/none",)}, "graphkit/nn/none does not exist"),
        ({"recipe": "none"}, r"recipes/none\.py does not exist"),
        ({"status": "planned"}, "planned, but"),
        ({"status": "done"}, "holds no record of a whole run"),
        ({"status": "done", "recipe": None}, "names no recipe"),
    ],
)
def test_problems_are_found(changes, message, paper, tmp_path):
    problems = check_catalog([replace(paper, **changes)], results=tmp_path)
    assert problems
    assert any(re.search(message, problem) for problem in problems)


def test_done_needs_a_record_of_a_whole_run(paper, tmp_path):
    row = Row("NCN", "Hits@100", "test", [1.0])
    record = Record("ncnc", "Cora", "", "graphkit run ncnc", [row], [0], {}, "Hits@100", fast=True)
    done = [replace(paper, status="done")]
    record.save(tmp_path)
    assert len(check_catalog(done, results=tmp_path)) == 1
    record.fast = False
    record.save(tmp_path)
    assert check_catalog(done, results=tmp_path) == []
    (tmp_path / "ncnc" / "PubMed.json").write_text("{")
    assert "PubMed.json" in check_catalog(done, results=tmp_path)[0]


def test_differences_from_the_list(paper, tmp_path):
    place = tmp_path / "papers.md"
    place.write_text(
        "| # | key | n | h | c | t |\n|---|---|---|---|---|---|\n| 1 | `ncnc` | X | nn/decoder | a.md | T |\n"
    )
    problems = check_catalog([paper, replace(paper, key="other", status="started")], listing=place)
    assert [problem.split(":")[0] for problem in problems] == ["other", "ncnc", "ncnc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[paper", "no TOML"),
        ("", "must hold"),
        ("paper = 3", "must hold"),
        ("other = 3" + ENTRY, "must hold"),
        (ENTRY + ENTRY, "'one' occurs more than once"),
        (ENTRY.replace("planned", "finished"), "status must be one of planned, started, done"),
        (ENTRY.replace('"graph"', '"grahp"'), "family must be one of"),
        (ENTRY.replace('title = "A title"\n', ""), "title is missing"),
        (ENTRY + "colour = 3\n", "unknown field 'colour'"),
        (ENTRY + 'year = "2024"\n', "year must be a whole number"),
        (ENTRY.replace('"A title"', '"  "'), "title must be one line"),
        (ENTRY.replace("api = []", 'api = "graphkit.nn.GNN"'), "api must be a list"),
        (ENTRY.replace('["nn"]', "[]"), "home must name a folder"),
        (ENTRY.replace('"one"', '"No key"'), "key must be"),
    ],
)
def test_bad_catalog(text, message, tmp_path):
    path = tmp_path / "papers.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as info:
        papers(path)
    assert str(path) in str(info.value)


def test_catalog_is_shipped():
    """The file is package data, so an installed package has it too."""
    assert "papers.toml" in (ROOT / "setup.cfg").read_text()
    assert tomllib.loads((ROOT / "graphkit" / "papers.toml").read_text(encoding="utf-8"))
