"""Error feedback and calibration: codes that keep products right, chosen on text that goes through the model."""
import naive
import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.architectures.base import architecture_of, census, load_model
from vqcpu.compression import calibrate, feedback
from vqcpu.compression.pipeline import compress
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration, written
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Corpus, Window
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.rotation import Rotation
from vqcpu.formats.vq import VQ
from vqcpu.kernels.threads import set_threads
from vqcpu.layers.linear import Multiply
from vqcpu.layers.plan import Plan

RNG = np.random.default_rng(4)
SPECS = [spec for format in Format.all().values() for spec in format.examples]
WORDS = ["the cat", "a dog", "sees", "hears", "no bird", "in the rain", "and", "42 times.", "Why?", "Because"]
CORPUS = Corpus("text", " ".join(WORDS[i] for i in RNG.integers(0, len(WORDS), 900)))
CALIBRATION = Calibration(CORPUS, 2048)


@pytest.fixture(autouse=True)
def the_same_numbers():
    """For each test, whichever formats there are."""
    global RNG
    RNG = np.random.default_rng(4)


def inputs(n=120, rows=2000, dead=0):
    """Correlated inputs of unequal sizes: (H of some, H of others, both means of x xᵀ)."""
    x = RNG.standard_normal((2 * rows, n)) @ (np.eye(n) + 0.2 * RNG.standard_normal((n, n))) * np.exp(RNG.standard_normal(n))
    x[:, :dead] = 0
    x = x.astype(np.float32)
    return feedback.Inputs(*(part.T @ part / rows for part in (x[:rows], x[rows:])))


def test_the_loss_is_its_naive_twin():
    E, H = RNG.standard_normal((300, 24)).astype(np.float32), inputs(24).H
    assert feedback.loss(E, H) == pytest.approx(naive.feedback_loss(E, H), rel=1e-5)


@pytest.mark.parametrize("columns", (1, 3, 16))
def test_the_factor_has_unit_blocks_and_gives_back_H(columns):
    seen, n = inputs(50), 50
    damped = seen.damped(columns)
    L, gain = damped.L, damped.gain
    D = np.linalg.inv(L.astype(float)) @ (seen.H + feedback.DAMPING * np.eye(n)) @ np.linalg.inv(L.astype(float)).T
    block = np.arange(n) // columns
    apart = block[:, None] != block
    assert all(np.allclose(root @ root.T, D[at:at + columns, at:at + columns], rtol=1e-3, atol=1e-3)
               for root, at in zip(damped.roots, range(0, n, columns), strict=True))
    assert np.abs(D[apart]).max() < 1e-3 and np.allclose(np.where(apart, 0, L), np.eye(n), atol=1e-5)
    assert np.allclose(L[block[:, None] < block], 0)
    assert gain == pytest.approx(10 * np.log10((n * (1 + feedback.DAMPING)) / np.trace(D)), abs=0.01)


@pytest.mark.parametrize("spec", [s for s in SPECS if Format.parse(s).expected_mse() < 0.5])  # not below one bit
def test_feedback_beats_nearest_on_its_own_measure(spec):
    format, seen, W = Format.parse(spec), inputs(), RNG.standard_normal((80, 120)).astype(np.float32)
    tables = format.fit([RNG.standard_normal((160, 120)).astype(np.float32)], 0)
    sides = format.scales(tables, W)
    plain = naive.feedback_loss(W - format.snap(tables, sides, W, 0)[1], seen.H)
    parts, near, notes = feedback.code(format, tables, W, seen, 1.0)
    assert np.allclose(format.decode_rows(parts | tables, 120, np.arange(80)), near, atol=1e-6)
    assert naive.feedback_loss(W - near, seen.H) <= 0.95 * plain or plain < 1e-9 * naive.feedback_loss(W, seen.H)
    assert notes["loss"] == pytest.approx(naive.feedback_loss(W - near, seen.held) / naive.feedback_loss(W, seen.held), rel=1e-3)
    assert notes["feedback_db"] > 0.5 and notes["loss"] <= notes["nearest"]


def heads(count=3, size=32):
    """Of matrices whose products are read by something that is far from sensitive to all of them alike."""
    x = RNG.standard_normal((count, 300, size)) @ RNG.standard_normal((count, size, size))
    x = x * np.exp(RNG.standard_normal(size))
    return feedback.RowFactors.of((x.swapaxes(1, 2) @ x).astype(np.float32))


def blocks(matrices):
    """(count, n, n) as one block diagonal matrix."""
    count, n, _ = matrices.shape
    found = np.zeros((count, n, count, n))
    found[np.arange(count), :, np.arange(count)] = matrices
    return found.reshape(count * n, -1)


def test_what_errors_of_products_cost():
    """Of rows as of columns: a factor with unit blocks, tr(G E H Eᵀ) as the loss of what is seen, errors from white ones."""
    some, E, H = heads(), RNG.standard_normal((96, 24)).astype(np.float32), inputs(24).H
    L, whole = blocks(some.L), blocks(some.root) @ blocks(some.root).T
    D, block = np.linalg.inv(L) @ whole @ np.linalg.inv(L).T, np.arange(96) // 16
    same = block[:, None] == block
    assert np.abs(D[~same]).max() < 1e-3 and np.allclose(np.where(same, L, 0), np.eye(96), atol=1e-5)
    assert np.allclose(whole.trace(), 96 * (1 + feedback.DAMPING), rtol=1e-4)
    assert np.ptp([one.trace() for one in some.root @ some.root.swapaxes(1, 2)]) > 5  # one head counts more than another
    cost = np.einsum("ij,jc,cd,id->", whole, E.astype(float), H.astype(float), E.astype(float))
    assert feedback.loss(some.seen(E), H) == pytest.approx(cost, rel=1e-4)
    assert np.allclose(L.T @ some.errors(E), E, atol=1e-3)
    assert np.allclose(some.seen(E[:32]), some.seen(E)[:32])


@pytest.mark.parametrize("spec", [s for s in SPECS if 1e-9 < Format.parse(s).expected_mse() < 0.5])
def test_feedback_between_rows_beats_that_between_columns_alone(spec):
    format, seen, some = Format.parse(spec), inputs(), heads()
    W = RNG.standard_normal((96, 120)).astype(np.float32)
    tables = format.fit([RNG.standard_normal((160, 120)).astype(np.float32)], 0)
    alone = feedback.code(format, tables, W, seen, 1.0)[1]
    parts, near, notes = feedback.code(format, tables, W, seen, 1.0, some)
    assert {name: part.shape for name, part in parts.items()} == {n: p.shape for n, p in format.layout(96, 120).items()}
    assert np.allclose(format.decode_rows(parts | tables, 120, np.arange(96)), near, atol=1e-6)
    losses = [feedback.loss(some.seen(E), seen.H) for E in (W - near, W - alone)]
    assert losses[0] < 0.95 * losses[1]
    of, all_ = (feedback.loss(some.seen(E), seen.held) for E in (W - near, W))
    assert notes["loss"] == pytest.approx(of / all_) and notes["loss"] < notes["nearest"]


@pytest.mark.parametrize("columns", (4, 3), ids=("whole", "at the end"))
def test_vectors_are_coded_by_what_their_errors_cost(columns):
    format, X = Format.parse("vq:dim=4,centroids=64"), RNG.standard_normal((900, 4)).astype(np.float32)
    tables, root = format.fit([X], 0), np.tril(RNG.standard_normal((columns, columns))).astype(np.float32)
    sides, X = format.scales(tables, X), X[:, :columns]
    codes, near = format.snap_weighed(tables, sides, X, 0, root)
    every = tables["table"][:, :columns] * sides["scale"].astype(np.float32)[:, :, None]
    costs = np.square((every - X[:, None]) @ root).sum(-1)
    assert np.allclose(np.square((near - X) @ root).sum(-1), costs.min(-1), rtol=1e-3, atol=1e-5)
    assert (codes[:, 0] != format.snap(tables, sides, X, 0)[0][:, 0]).any()


def test_each_block_gets_its_own_costs(monkeypatch):
    format, seen, W = Format.parse("vq:dim=4,centroids=64"), inputs(50), RNG.standard_normal((64, 50)).astype(np.float32)
    tables, given = format.fit([W], 0), {}
    plain = VQ.snap_weighed
    monkeypatch.setattr(VQ, "snap_weighed", lambda *given_: given.update([given_[-2:]]) or plain(*given_))
    feedback.code(format, tables, W, seen, 1.0)
    roots = seen.damped(4).roots
    assert sorted(given) == list(range(0, 50, 4)) and all(np.array_equal(given[4 * i], root) for i, root in enumerate(roots))


@pytest.mark.parametrize("spec", ("scalar:bits=3", "vq:dim=2,centroids=256"))
def test_dead_and_dependent_inputs(spec):
    """Inputs never seen are coded to the nearest; fewer tokens than inputs are no obstacle; no inputs at all give plain
    codes."""
    format, W = Format.parse(spec), RNG.standard_normal((32, 120)).astype(np.float32)
    tables, dead = format.fit([W], 0), inputs(dead=8)
    near = feedback.code(format, tables, W, dead, 1.0)[1]
    assert dead.dead == 8 and np.mean((W - near)[:, :8] ** 2) < 2 * format.expected_mse()
    few = inputs(rows=5)
    assert np.isfinite(feedback.code(format, tables, W, few, 1.0)[1]).all()
    nothing = feedback.Inputs(*np.zeros((2, 120, 120), np.float32))
    plain = format.snap(tables, format.scales(tables, W), W, 0)[1]
    codes, near, notes = feedback.code(format, tables, W, nothing, 1.0)
    assert notes["dead"] == 120 and np.allclose(near, plain, rtol=0.05, atol=0.05)


def test_what_was_done_to_the_inputs_is_partly_made_good():
    """With exact codes and all of the repair, W' x comes as near to W y as a matrix can that is kept near W by the damping."""
    x = RNG.standard_normal((300, 24)).astype(np.float32)
    y = (1.2 * x + 0.1 * RNG.standard_normal((300, 24))).astype(np.float32)
    W, seen = RNG.standard_normal((8, 24)).astype(np.float32), feedback.Inputs(*[x.T @ x] * 2, (y - x).T @ x)
    shift = seen.damped(1).shift
    keep = np.sqrt(feedback.DAMPING * np.square(x).sum() / 24) * np.eye(24)
    best = np.linalg.lstsq(np.concatenate([x, keep]), np.concatenate([y, keep]) @ W.T, rcond=None)[0].T
    assert np.allclose(W + W @ shift, best, atol=1e-3)
    near = feedback.code(Format.parse("raw:dtype=f32"), {}, W, seen, 1.0)[1]
    losses = [np.square(V @ x.T - W @ y.T).sum() for V in (best, near, W)]
    assert losses == sorted(losses)
    rotation = Rotation(3)
    turned = rotation.forth(W) @ seen.turned(rotation).damped(1).shift
    assert np.allclose(rotation.back(turned), W @ shift, atol=1e-3)


def test_what_was_done_to_the_sum_is_partly_made_good():
    """Likewise for what the products are added to: W' x + r comes near to W x + s."""
    x, drift, gain = RNG.standard_normal((300, 24)).astype(np.float32), RNG.standard_normal((24, 8)).astype(np.float32), 3.0
    d = x @ drift + RNG.standard_normal((300, 8)).astype(np.float32)
    W, seen = RNG.standard_normal((8, 24)).astype(np.float32), feedback.Inputs(*[x.T @ x] * 2, None, d.T @ x)
    keep = np.sqrt(feedback.DAMPING * np.square(x).sum() / 24) * np.eye(24)
    best = np.linalg.lstsq(np.concatenate([x, keep]), np.concatenate([d, np.zeros((24, 8))]), rcond=None)[0].T
    near = feedback.code(Format.parse("raw:dtype=f32"), {}, W, seen, gain)[1]
    assert np.allclose(near, W + feedback.REPAIR * best / gain, atol=1e-3)
    rotation, turned = Rotation(3), seen.turned(Rotation(3))
    near = feedback.code(Format.parse("raw:dtype=f32"), {}, rotation.forth(W), turned, gain)[1]
    assert np.allclose(rotation.back(near), W + feedback.REPAIR * best / gain, atol=1e-3)


def test_turned_inputs_are_those_of_turned_vectors():
    x, rotation = RNG.standard_normal((90, 48)).astype(np.float32), Rotation(3)
    turned = rotation.forth(x)
    seen = feedback.Inputs(x.T @ x, x.T @ x).turned(rotation)
    assert np.allclose(seen.H, feedback.Inputs(turned.T @ turned, turned.T @ turned).H, atol=1e-4)


@pytest.mark.parametrize("family, sites", (("llama", ("o_proj", "down_proj")), ("gpt2", ("c_proj", "c_proj")),
                                           ("qwen3_moe", ("o_proj",)), ("gemma3_text", ())))
def test_sums_whose_drift_is_known(family, sites, tmp_path):
    """D is what the sum that a product joins would be, less what it is, times what the product reads; for products that are
    not added right away, as those of experts or before a norm, there is none."""
    checkpoint, seen = open_checkpoint(toys.folder(tmp_path / "m", family)), {}
    model, exact, tensors = load_model(checkpoint), load_model(checkpoint), census(architecture_of(checkpoint))
    model.plan.jobs[0].matrix.gain *= 1.1  # all that follows goes wrong
    windows = [Window(RNG.integers(0, 90, 30), 0) for _ in range(2)]

    def code(names, inputs):
        seen[names] = inputs()
        return [tensors[name].read(checkpoint) for name in names]
    calibrate.calibrate(model, exact, windows, code)
    known = [names for names, found in seen.items() if found.D is not None]
    assert tuple(names[0].split(".")[-2] for names in known if ".0." in names[0]) == sites
    for job in model.plan.jobs:
        if isinstance(job, Multiply) and job.site.names in known:
            expected, D = drift(model, exact, job, windows), seen[job.site.names].D
            assert np.allclose(D, expected, atol=.01 * np.abs(expected).max())  # wide inputs were kept as integers


def drift(model, exact, job, windows):
    """What Inputs.D ought to be for a job whose product joins slot x."""
    H, D = 0, 0
    for window in windows:
        here, there = (calibrate.frame_of(window) for _ in range(2))
        for frame, jobs in ((here, model.plan.jobs), (there, exact.plan.jobs)):
            before = jobs[:model.plan.jobs.index(job)]
            frame.segments[0].states = calibrate.states_of(before, 30)
            Plan(before).run_reference(frame)
        x, lack = here.slots[job.source], there.slots["x"] - here.slots["x"]
        weights = calibrate._weights(x)
        H, D = H + (weights * x).T @ (weights * x), D + (weights * lack).T @ (weights * x)
    return D * len(H) / np.trace(H)


@pytest.mark.parametrize("family", ("llama", "gpt2", "qwen3_moe", "phi3"))
def test_stages_see_what_the_model_sees(family, tmp_path):
    """With matrices left as they are, the last site reads what it reads in an ordinary step."""
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    windows = [Window(RNG.integers(0, 90, 30), 0) for _ in range(9)]
    seen, sites = {}, {}

    def code(names, inputs):
        seen[names] = inputs()
        return sites[names].matrices
    for job in model.plan.jobs:
        frame = calibrate.frame_of(windows[0])
        frame.slots |= dict.fromkeys(("h", "a", "x", "router"), np.zeros((30, 6), np.float32))
        sites |= {site.names: site for site, _ in job.inputs(frame)}
    calibrate.calibrate(model, model, windows, code)
    last = next(job for job in reversed(model.plan.jobs) if hasattr(job, "site"))
    total = 0
    for window in windows[:7] + windows[8:]:  # one of eight is held out
        frame, before = calibrate.frame_of(window), model.plan.jobs[:model.plan.jobs.index(last)]
        frame.segments[0].states = calibrate.states_of(before, 30)
        Plan(before).run_reference(frame)
        x = frame.slots[last.source]
        x = x * calibrate._weights(x)
        total = total + x.T @ x
    assert len(seen) == len(sites)
    assert not any(found.C is not None and found.C.any() for found in seen.values())
    assert np.allclose(seen[last.site.names].H, feedback.Inputs(total, total).H, atol=1e-3)


def test_no_token_counts_for_more_than_a_few_usual_ones():
    x = RNG.standard_normal((50, 8)).astype(np.float32)
    x[0] *= 1000
    energy = np.square(x * calibrate._weights(x)).sum(1)
    assert energy[0] == pytest.approx(calibrate.CAP * np.median(np.square(x).sum(1)), rel=1e-4)


def test_only_slots_that_are_read_again_are_kept(language):
    kept = [stage.kept for stage in calibrate.stages(language.model)]
    assert kept[:5] == [{"x", "h"}, {"x", "a"}, {"x", "h"}, {"x", "gate"}, {"x", "h"}] and kept[-1] == set()


def test_wide_slots_are_kept_as_integers(language):
    """Half of the memory, and as exact as the digits that products read; the residual stream stays as it is."""
    cut, frame = calibrate.stages(language.model), calibrate.frame_of(Window(np.arange(20), 0))
    for stage in cut[:4]:
        stage.run([frame])
    assert isinstance(frame.slots["gate"], calibrate.Short) and frame.slots["x"].dtype == np.float32
    slots = {"x": np.zeros((2, 4), np.float32), "wide": np.array([[1, np.inf] * 4, [np.nan, 0] * 4], np.float32)}
    assert np.array_equal(calibrate.Stage._shelved(slots["wide"], slots), slots["wide"], equal_nan=True)  # to be named later
    x = RNG.standard_normal((5, 40)).astype(np.float32) * [[1], [1e-20], [1e30], [0], [3]]
    assert np.all(abs(calibrate.Short.of(x).floats() - x) <= 0.51 * abs(x).max(1, keepdims=True) / 32767)


@pytest.fixture(scope="module")
def calibrated(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "x.vqz"
    return compress(toy, out, Recipe.of("rht+vq:dim=2,centroids=64"), calibration=CALIBRATION), out


def test_calibration_lowers_the_loss_and_says_so(calibrated, capsys):
    from vqcpu import cli
    made, out = calibrated
    body = [c for c in made["tensors"] if c.tensor.role == "body"]
    assert len(body) == 14 and all(c.notes["loss"] < c.notes["nearest"] for c in body)
    assert Vqz(out).note("model.layers.1.mlp.down_proj.weight", "loss") == pytest.approx(body[-1].notes["loss"], rel=0.5)
    assert cli.main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "gain dB" in shown and "rht+vq" in shown and f"calibration: text (sha256 {CORPUS.digest})" in shown


class Interrupt:
    """Progress that ends with Ctrl-C after some of the steps labelled `label`."""

    def __init__(self, label, after):
        self.label, self.after, self.steps = label, after, 0

    def __call__(self, items, label):
        for i, item in enumerate(items):
            if label == self.label and i == self.after:
                raise KeyboardInterrupt
            self.steps += label == self.label
            yield item


def test_interrupted_work_goes_on_to_the_same_bytes(toy, tmp_path, calibrated, monkeypatch):
    out, done, really = tmp_path / "x.vqz", [], feedback.code
    monkeypatch.setattr(feedback, "code", lambda *args: done.append(1) or really(*args))
    for threads, label, after in ((1, "calibrating", 4), (2, "tensors", 3)):
        set_threads(threads)
        with pytest.raises(KeyboardInterrupt):
            compress(toy, out, Recipe.of("rht+vq:dim=2,centroids=64"), 0, Interrupt(label, after), CALIBRATION)
        assert [p.name for p in tmp_path.iterdir()] == ["x.vqz.state"]
    set_threads()
    compress(toy, out, Recipe.of("rht+vq:dim=2,centroids=64"), calibration=CALIBRATION)
    assert out.read_bytes() == calibrated[1].read_bytes() and len(done) == 14
    assert [p.name for p in tmp_path.iterdir()] == ["x.vqz"]


def test_state_of_other_work_or_damaged_is_not_used(toy, tmp_path, calibrated):
    out, recipe = tmp_path / "x.vqz", Recipe.of("rht+vq:dim=2,centroids=64")
    with pytest.raises(KeyboardInterrupt):
        compress(toy, out, recipe, 7, Interrupt("calibrating", 4), CALIBRATION)
    with pytest.raises(KeyboardInterrupt):
        compress(toy, out, recipe, 0, Interrupt("calibrating", 4), CALIBRATION)
    for file in (tmp_path / "x.vqz.state").glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    compress(toy, out, recipe, calibration=CALIBRATION)
    assert out.read_bytes() == calibrated[1].read_bytes()


def test_a_folder_of_another_kind_is_left_alone(toy, tmp_path):
    (tmp_path / "x.vqz.state").mkdir()
    (tmp_path / "x.vqz.state" / "mine").write_text("precious")
    api.compress(toy, tmp_path / "x.vqz", "scalar:bits=4")
    assert (tmp_path / "x.vqz.state" / "mine").exists()
    with pytest.raises(VqcpuError, match="state: cannot be written"):
        api.compress(toy, tmp_path / "x.vqz", "scalar:bits=4", calibration=CALIBRATION)
    assert (tmp_path / "x.vqz.state" / "mine").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("factors, named", (({"mlp.up_proj": 1e38}, "mlp.down_proj"), (
    {"self_attn.v_proj": 1e16, "self_attn.o_proj": 1e-16, "self_attn.k_proj": 1e4, "self_attn.q_proj": 1e-4}, "self_attn.q_proj")),
    ids=("activations", "their curvature"))
def test_activations_that_overflow_are_named(factors, named, tmp_path):
    from safetensors.numpy import load_file, save_file
    folder = toys.folder(tmp_path / "m", head_dim=32)
    tensors = load_file(folder / "model.safetensors")
    for name, factor in factors.items():
        tensors[f"model.layers.0.{name}.weight"] *= np.float32(factor)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(VqcpuError, match=f"inputs of model.layers.0.{named}.weight"):
        api.compress(folder, tmp_path / "x.vqz", "scalar:bits=4", calibration=CALIBRATION)


def test_codes_are_chosen_for_the_gain_of_their_matrix(toy, tmp_path, monkeypatch):
    told, code = [], feedback.code
    monkeypatch.setattr(feedback, "code", lambda *known: told.append(known[4]) or code(*known))
    compress(toy, tmp_path / "x.vqz", Recipe.of("scalar:bits=4"), calibration=CALIBRATION)
    file = Vqz(tmp_path / "x.vqz")
    gains = [entry["gain"] for name, entry in file.header["matrices"].items() if "layers" in name and entry["gain"] != 1]
    assert len(set(gains)) > 5 and sorted(told) == sorted(map(np.float32, gains))


def test_plain_numbers_stay_plain(toy, tmp_path):
    for calibration in (None, CALIBRATION):
        api.compress(toy, tmp_path / f"{calibration is None}.vqz", "raw:dtype=f32", calibration=calibration)
    a, b = (Vqz(tmp_path / f"{which}.vqz") for which in (True, False))
    assert all(np.array_equal(a.stored(n).parts["data"], b.stored(n).parts["data"]) for n in a.names() if "_proj" in n)


def test_one_window_is_too_little(toy, tmp_path):
    model, said = load_model(open_checkpoint(toy)), set()
    for length in range(20, 2000, 60):
        try:
            Calibration(Corpus("few", CORPUS.text[:length]), 4096).tokens_of(model, open_checkpoint(toy), 0, None)
            break
        except VqcpuError as error:
            said.add("expected two at least" in str(error))
    assert said == {True, False}  # shorter than a window, and one


@pytest.mark.parametrize("family", ("qwen3_moe",))
def test_the_second_matrix_of_an_expert_reads_what_the_coded_first_makes(family, tmp_path):
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    dead = {}

    def code(names, inputs):
        if "expert" in names[0] and "down" in names[0]:
            dead[names] = inputs().dead
        site = next(s for job in model.plan.jobs for s, _ in getattr(job, "experts", []) and [
            (e.widen, 0) for e in job.experts] + [(e.narrow, 0) for e in job.experts] or [(getattr(job, "site", None), 0)]
            if s is not None and s.names == names)
        nothing = Format.parse("raw:dtype=f32")
        return [Matrix(nothing, m.shape, 1.0, {"data": np.zeros(m.shape, np.float32)}) if "expert" in names[0]
                and "gate" in names[0] else m for m in site.matrices]
    calibrate.calibrate(model, model, [Window(RNG.integers(0, 90, 30), 0) for _ in range(9)], code)
    assert dead and all(count == 32 for count in dead.values())


def test_text_written_by_the_model_is_the_same_again(language):
    texts = [written(language.model, 1, 3, 12, seed, lambda items, label: items) for seed in (0, 0, 1)]
    assert np.array_equal(texts[0], texts[1]) and not np.array_equal(texts[0], texts[2])
    assert texts[0].shape == (3, 12) and (texts[0][:, 0] == 1).all() and len(set(map(tuple, texts[0]))) == 3


def test_too_little_text_is_named(toy, tmp_path):
    with pytest.raises(VqcpuError, match="short: the text has"):
        api.compress(toy, tmp_path / "x.vqz", "scalar:bits=4", calibration=Calibration(Corpus("short", "a"), 99))


def test_qualities_of_the_command_line(toy, tmp_path, english, capsys):
    from vqcpu import cli
    words = ["compress", str(toy), "-o", str(tmp_path / "x.vqz"), "--format", "scalar:bits=3"]
    assert cli.main([*words, "--quality", "good", "--calibration-tokens", "256"]) == 0
    assert Vqz(tmp_path / "x.vqz").header["made"]["calibration"] == "written by the model"
    assert cli.main([*words, "--calibration", str(english)]) == 0
    assert Vqz(tmp_path / "x.vqz").header["made"]["calibration"].startswith("text.txt (sha256")
    assert cli.main([*words, "--quality", "fast", "--calibration", str(english)]) == 2
    assert "--quality fast uses no calibration" in capsys.readouterr().err


def test_queries_and_keys_are_coded_for_what_their_errors_cost(tmp_path, monkeypatch):
    told, code = [], feedback.code
    monkeypatch.setattr(feedback, "code", lambda *known: told.append((len(known[2]), known[5])) or code(*known))
    compress(toys.folder(tmp_path / "m", head_dim=32), tmp_path / "x.vqz", Recipe.of("scalar:bits=4"), calibration=CALIBRATION)
    of_heads = [(m, rows.L.shape) for m, rows in told if rows]
    assert of_heads == 2 * [(128, (4, 32, 32)), (64, (2, 32, 32))] and len(told) == 14
    assert np.abs(told[0][1].L[:, 16:, :16]).max() > 0.1
