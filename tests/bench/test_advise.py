"""`graphkit advise` from end to end: table, plot, references and mistakes."""

from __future__ import annotations

import pytest

from graphkit.bench.advise import advise
from graphkit.cli import main

FAST = ["--graphs", "30", "--resolution", "8", "--min-nodes", "8"]


def test_table_and_plot(tmp_path, capsys) -> None:
    out = tmp_path / "made" / "plot.png"
    assert (
        main(["advise", "--pretrain", "pyimports", "Digits", "--downstream", "digits", *FAST, "--out", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    assert "Feasibility of pre-training for digits" in printed
    assert "pyimports + digits" in printed
    assert "(density alone)" in printed
    assert "best  " in printed
    assert str(out) in printed
    assert out.read_bytes().startswith(b"\x89PNG")


def test_scores_and_references(tmp_path, capsys) -> None:
    words = {"graphs": 30, "resolution": 8, "min_nodes": 8, "out": str(tmp_path / "plot.svg")}
    advice = advise(["pyimports", "digits"], "digits", **words)
    scores = {name: result.score for name, result in advice.results.items()}
    assert scores["digits"] > scores["pyimports"]
    # More to mix is never worse by much: the clusters differ, the domains are added.
    assert scores["pyimports + digits"] > scores["pyimports"]
    assert advice.density < advice.itself <= 0
    assert advice.share(advice.itself) == 1
    assert advice.share(advice.density) == 0
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    again = advise(["pyimports"], "digits", **words)
    assert again.results["pyimports"].score == scores["pyimports"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pretrain", "pyimprts", "--downstream", "digits"], "did you mean 'pyimports'"),
        (["--pretrain", "pyimports", "--downstream", "dgits"], "did you mean 'digits'"),
        (["--pretrain", "digits", "Digits", "--downstream", "digits"], "every dataset once"),
        (["--pretrain", "nycflights", "--downstream", "digits"], "nycflights is a stream of events"),
        (["--pretrain", "digits", "--downstream", "digits", "--out", "plot.txt"], "out must end in"),
        (["--pretrain", "digits", "--downstream", "digits", "--min-nodes", "900"], "none of"),
        (["--pretrain", "digits", "--downstream", "digits", "--resolution", "0"], "resolution"),
        (["--downstream", "digits"], "pretrain"),
        (["--pretrain", "digits"], "downstream"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["advise", *FAST, *words])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    assert status == 2
    assert message in said.err + said.out
    assert "Traceback" not in said.err
    assert not list(tmp_path.glob("*.png"))


def test_data_that_is_not_there(tmp_path, capsys) -> None:
    (tmp_path / "no-folder").write_text("")  # nothing can be downloaded into a file
    words = ["advise", "--pretrain", "Cora", "--downstream", "digits", "--root", str(tmp_path / "no-folder")]
    assert main([*words, "--out", str(tmp_path / "plot.png")]) == 2
    assert "Cora" in capsys.readouterr().err


def test_help(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["advise", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "graphkit advise --pretrain pyimports --downstream digits" in " ".join(out.split())
    assert "--no-" not in out
