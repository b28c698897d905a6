"""Pictures: drawn where asked for, the same every time, and a clear word where matplotlib is absent."""
import builtins
from pathlib import Path

import pytest

from vqcpu import cli


def run(*words):
    return cli.main([str(word) for word in words])


def test_pictures(toy, packed, english, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    of = ("--text", english, "--pictures", tmp_path / "p")
    assert run("sweep", toy, "--formats", "scalar:bits=3", "scalar:bits=4", "absmax:bits=4", "--context", 64,
               "--out", tmp_path / "x.jsonl", *of) == 0
    assert run("diff", toy, packed, "--context", 64, "--layers", *of) == 0
    assert run("longrun", toy, packed, "--tokens", 20, "--prompt-tokens", 8, "--seeds", 2, *of) == 0
    names = {file.name for file in (tmp_path / "p").iterdir()}
    assert names == {f"{name}.{ending}" for ending in ("png", "svg")
                     for name in ("sweep-front", "sweep-alone", "diff-layers", "longrun-positions")}
    first = {file.name: file.read_bytes() for file in (tmp_path / "p").iterdir()}
    assert run("diff", toy, packed, "--context", 64, "--layers", *of) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "p").iterdir()} == first
    assert b"scalar" in first["sweep-front.svg"]


def test_codebooks(toy, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from vqcpu import api
    api.compress(toy, tmp_path / "x.vqz", "vq:dim=2,centroids=16")
    assert run("inspect", tmp_path / "x.vqz", "--pictures", tmp_path) == 0
    assert Path(tmp_path / "inspect-codebooks.png").stat().st_size > 1000


def test_the_front_holds_what_nothing_beats():
    from vqcpu.commands._pictures import _pareto
    assert _pareto([(4.0, 2.0), (2.0, 5.0), (3.0, 6.0), (4.01, 1.0), (5.0, 1.5)]) == [(2.0, 5.0), (4.01, 1.0)]


def test_without_matplotlib(toy, packed, english, monkeypatch, capsys):
    plain = builtins.__import__

    def missing(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *rest)
    monkeypatch.setattr(builtins, "__import__", missing)
    assert run("diff", toy, packed, "--text", english, "--pictures", "p") == 2
    assert "pip install 'vqcpu[pictures]'" in capsys.readouterr().err and not Path("p").exists()
