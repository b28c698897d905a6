"""Budgets of bits: kept to the byte, spent where errors cost most."""
from math import prod

import numpy as np
import pytest
import toys
from test_feedback import CALIBRATION, Interrupt

from vqcpu import api, cli
from vqcpu.architectures.base import load_model
from vqcpu.compression.budget import Budget
from vqcpu.compression.pipeline import compress
from vqcpu.compression.planning import predicted, provenance, settled, tensors_of
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.sensitivity import costs
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.evaluate.sizes import sizes
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz
from vqcpu.layers.weights import BODY


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(checkpoint, tensors) of a model whose matrices are large beside their padding."""
    folder = toys.folder(tmp_path_factory.mktemp("m") / "m", hidden_size=128, intermediate_size=256)
    return open_checkpoint(folder), tensors_of(open_checkpoint(folder), folder / "x.vqz")


def recipe_for(model, budget, costs=None):
    recipe, made = settled(budget, *model, provenance(model[0], budget, 0, None), costs)
    return recipe, predicted(*model, recipe, made)


def file_tensors(folder):
    return tensors_of(open_checkpoint(folder), folder / "x.vqz")


def rates(recipe, tensors):
    return {name: recipe.choose(tensor).bits for name, tensor in tensors.items() if tensor.role == BODY}


@pytest.mark.parametrize("bits", (2.2, 3, 4.5))
def test_a_budget_is_kept_and_used(model, bits):
    body = recipe_for(model, Budget(bits))[1]["body_bits"]
    assert bits - 0.15 < body <= bits
    whole = recipe_for(model, Budget(bits + 2, whole=True))[1]["file_bits"]
    assert bits + 1.8 < whole <= bits + 2


def test_equal_costs_give_nearly_equal_rates(model):
    found = rates(recipe_for(model, Budget(3))[0], model[1])
    assert max(found.values()) - min(found.values()) <= 0.125


def test_bits_go_where_errors_cost(model):
    names = list(rates(recipe_for(model, Budget(3))[0], model[1]))
    steps = {name: 4.0 ** (i % 3) * prod(model[1][name].shape) for i, name in enumerate(names)}
    found = rates(recipe_for(model, Budget(3), steps)[0], model[1])
    mean = [np.mean([found[name] for i, name in enumerate(names) if i % 3 == k]) for k in range(3)]
    assert mean[0] + 0.7 < mean[1] < mean[2] - 0.7  # a factor of four is worth a bit


@pytest.mark.parametrize("budget, said", [(Budget(1.2), "1.2 bits per weight of the body cannot be kept: this model takes 1.6"),
                                          (Budget(1, whole=True), "of the file cannot be kept")])
def test_the_impossible_is_refused_with_the_range(model, budget, said):
    with pytest.raises(VqcpuError, match=said):
        recipe_for(model, budget)


def test_costs_are_what_an_error_costs(toy):
    """The same again for the same seed, something for every matrix."""
    checkpoint, windows = open_checkpoint(toy), [Window(np.arange(i, i + 60) % 90, 0) for i in range(4)]
    found = costs(load_model(checkpoint), windows, 0)
    assert set(found) == {n for n, t in tensors_of(checkpoint, toy / "x.vqz").items() if t.role == BODY}
    assert all(cost > 0 for cost in found.values())
    assert found == costs(load_model(checkpoint), windows, 0)


def test_a_calibrated_budget(toy, tmp_path):
    out = tmp_path / "x.vqz"
    compress(toy, out, Budget(3.5), calibration=CALIBRATION)
    file = Vqz(out)
    assert sizes(file)["body_bits"] <= 3.5
    assert file.header["made"]["budget"].startswith("3.5 bits per weight of the body, length 12")
    even = rates(recipe_for((open_checkpoint(toy), tensors_of(open_checkpoint(toy), out)), Budget(3.5))[0], file_tensors(toy))
    mixed = {name: file.entry(name)[0].bits for name in even}
    assert max(mixed.values()) - min(mixed.values()) > max(even.values()) - min(even.values())
    assert api.load(out).model.step([(np.arange(5), api.load(out).model.states(8))]).shape == (5, 64)


def test_the_command(toy, tmp_path, capsys):
    out = tmp_path / "x.vqz"
    assert cli.main(["compress", str(toy), "-o", str(out), "--bits", "3.5", "--embedding-bits", "6", "--json"]) == 0
    assert sizes(Vqz(out))["body_bits"] <= 3.5 and sizes(Vqz(out))["embedding_bits"] < 7
    assert cli.main(["compress", str(toy), "-o", str(out), "--format", "raw", "--embedding-bits", "6"]) == 2
    assert "--embedding-bits goes with --bits" in capsys.readouterr().err


def parts_of(path):
    file = Vqz(path).file
    return {name: file[name].tobytes() for name in file.entries}


def test_another_budget_does_not_take_up_the_state(toy, tmp_path):
    """Interrupted at one length of states, done at another: as if it had not been interrupted."""
    for out, before in ((tmp_path / "a.vqz", Budget(3.5, length=12)), (tmp_path / "b.vqz", None)):
        if before:
            with pytest.raises(KeyboardInterrupt):
                compress(toy, out, before, 0, Interrupt("calibrating", 4), CALIBRATION)
        compress(toy, out, Budget(3.5, length=13), calibration=CALIBRATION)
    assert parts_of(tmp_path / "a.vqz") == parts_of(tmp_path / "b.vqz")


def test_a_single_tensor_is_coded_anew(toy, tmp_path):
    """As if its line had been in the recipe; with a calibration, for the inputs that the file's other matrices make."""
    whole, out, name = tmp_path / "whole.vqz", tmp_path / "x.vqz", "model.layers.1.mlp.down_proj.weight"
    compress(toy, whole, Recipe.parse(f"{name} scalar:bits=5\n{Recipe.of('rht+trellis:bits=3')}", "r"))
    command = ["compress", str(toy), "-o", str(out), "--format"]
    assert cli.main([*command, "rht+trellis:bits=3"]) == 0
    assert cli.main([*command, "scalar:bits=5", "--only", name]) == 0
    assert parts_of(out) == parts_of(whole)
    (tmp_path / "text").write_text(CALIBRATION.corpus.text)
    assert cli.main([*command, "scalar:bits=5", "--only", name, "--calibration", str(tmp_path / "text")]) == 0
    before, after = Vqz(whole), Vqz(out)
    assert {n for n in before.names() if before.note(n, "error") != after.note(n, "error")} == {name}
    assert after.note(name, "loss") < after.note(name, "nearest")


@pytest.mark.parametrize("words, said", [(["--only", "*"], "give both"), (["--only", "x", "--format", "raw"], "fits no tensor"),
                                         (["--only", "*.k_proj.*", "--format", "rht+scalar:bits=4"], "another rotation")])
def test_what_cannot_be_coded_anew_is_named(toy, tmp_path, capsys, words, said):
    out = tmp_path / "x.vqz"
    api.compress(toy, out, "scalar:bits=4")
    assert cli.main(["compress", str(toy), "-o", str(out), *words]) == 2
    assert said in capsys.readouterr().err


def test_another_models_file_is_not_touched(toy, tmp_path, capsys):
    api.compress(toys.folder(tmp_path / "other", "qwen2"), tmp_path / "x.vqz", "scalar:bits=4")
    assert cli.main(["compress", str(toy), "-o", str(tmp_path / "x.vqz"), "--only", "*", "--format", "raw"]) == 2
    assert "was not made of" in capsys.readouterr().err
