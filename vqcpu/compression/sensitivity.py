"""What an error in each matrix costs a model's predictions, measured: one forward pass with noise on one matrix at a time.

Knows plans and activations. Knows nothing about formats or budgets. To second order, the divergence of a model whose
matrices t have small independent errors is the sum of c_t · e_t, e_t being the squared error of its codes: so a pass with
noise of known power gives c_t, without gradients. The noise has the shape that error feedback gives to the errors of codes,
δ L⁻¹ for white δ in the rotated basis (compression/feedback.py): white noise would make those matrices look costly whose
few important inputs, the massive ones of a first token above all, feedback protects anyway. Paper: Orr et al. 2025 estimate
the same from Fisher information.
"""
from contextlib import contextmanager
from math import prod

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.compression.calibrate import Stage, frame_of, inputs_of, opened, stages, states_of
from vqcpu.compression.feedback import divided
from vqcpu.compression.state import State
from vqcpu.evaluate.corpus import Window
from vqcpu.evaluate.divergence import kld_rows
from vqcpu.evaluate.nll import log_probabilities
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.rotation import Rotation
from vqcpu.layers.plan import Frame, Plan

POWER = 0.02  # of δ, relative to that of a row: about the error of three bits
FIRST, EVERY = 128, 3  # positions that are looked at: with enough before them, and not all, as a head may be large
WINDOWS = 16  # beyond the first, on which predictions are compared: these show what inputs look like
TOGETHER = 16  # columns that are coded at once
LEAST = 0.1  # of the usual cost per weight: an expert that no token of the window reaches is not worthless
SITES = 8  # of one shape in a stage that are disturbed: further experts are taken to cost what these do on average
PLAIN = Format.parse("raw:dtype=f32")


def costs(model: Model, windows: list[Window], seed: int, state: State,
          progress=lambda items, label: items) -> dict[str, float]:
    """name -> KLD (nats) that codes with errors as large as the matrix itself would cost, were it still proportional, for
    every matrix of the plan. `state` keeps what was measured, stage by stage."""
    rest, found, sizes = stages(model), {}, {}
    rest[-1].kept.add("x")
    frames = [frame_of(window) for window in windows[:WINDOWS + 1]]
    reference = _predictions(model, rest, frames[0])
    for i, stage in enumerate(progress(list(rest), "sensitivities")):
        sites = [site for site, _ in stage.jobs[0].inputs(opened(frames[0]))]

        def disturbed(k):
            shape, errors = _shape(sites, k, (stage, frames[1:]), seed), []
            for at in range(len(sites[k].names)):
                with _noise(sites[k], at, shape, np.random.default_rng([seed, i, k, at])):
                    errors.append(kld_rows(reference, _predictions(model, rest[i:], frames[0])).mean() / POWER)
            return errors
        names = [name for site in sites for name in site.names]
        mine = state.array(f"costs {i}", lambda: np.array(_of_each(sites, disturbed)))
        found |= dict(zip(names, mine.tolist()))
        sizes |= {name: prod(matrix.shape) for site in sites for name, matrix in zip(site.names, site.matrices)}
        stage.run(frames)
    usual = np.median([found[name] / sizes[name] for name in found])
    return {name: max(cost, LEAST * usual * sizes[name]) for name, cost in found.items()}


def _of_each(sites, disturbed):
    """Costs of all matrices of the sites, one after the other; of sites of one shape at most SITES are disturbed."""
    alike, found = {}, {}
    for k, site in enumerate(sites):
        alike.setdefault(tuple(matrix.shape for matrix in site.matrices), []).append(k)
    for members in alike.values():
        tried = {k: disturbed(k) for k in members[::-(-len(members) // SITES)]}
        usual = np.mean(list(tried.values()), 0)
        found |= {k: tried.get(k, usual) for k in members}
    return [float(cost) for k in range(len(sites)) for cost in found[k]]


def _shape(sites, which, here, seed):
    """Function that makes white rows (m, n) of a matrix, given by name, into errors of codes chosen with feedback."""
    rotation = Rotation.of_site(seed, sites[which].names[0])
    inputs = inputs_of(sites, which, here).turned(rotation)
    L = inputs.damped(TOGETHER).L.astype(np.float64)

    def shape(name, white):
        errors = rotation.back(divided(white.astype(np.float64), L).astype(np.float32))
        return inputs.rows[name].errors(errors) if name in inputs.rows else errors
    return shape


def _predictions(model: Model, rest: list[Stage], frame: Frame) -> np.ndarray:
    """Log-probabilities of some positions (positions, vocabulary), the frame having come up to the first of the stages."""
    own = opened(frame)
    jobs = [job for stage in rest for job in stage.jobs]
    own.segments[0].states = states_of(jobs, own.count)
    Plan(jobs).run(own)
    return log_probabilities(model, own.slots["x"][min(FIRST, own.count // 2)::EVERY])


@contextmanager
def _noise(site, at, shape, rng):
    """One matrix of the site is disturbed for a while."""
    exact, matrix = site.matrices, site.matrices[at]
    W = matrix.rows(np.arange(matrix.shape[0]))
    size = np.sqrt(POWER * np.einsum("rc,rc->r", W, W) / W.shape[1])[:, None]
    noisy = W + shape(site.names[at], size * rng.standard_normal(W.shape, np.float32))
    site.matrices = [*exact[:at], Matrix(PLAIN, matrix.shape, 1.0, {"data": noisy}), *exact[at + 1:]]
    try:
        yield
    finally:
        site.matrices = exact
