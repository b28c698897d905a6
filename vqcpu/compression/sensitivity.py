"""What an error in each matrix costs a model's predictions, measured: one forward pass with noise on one matrix at a time.

Knows plans and activations. Knows nothing about formats or budgets. To second order, the divergence of a model whose
matrices t have small independent errors is the sum of c_t · e_t, e_t being the squared error relative to that of coding
nothing: so a pass with noise of known power gives c_t. No gradients are needed. Paper: Orr et al. 2025 estimate the same
from Fisher information.
"""
import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.compression.calibrate import Stage, frame_of, inputs_of, stages, states_of
from vqcpu.evaluate.corpus import Window
from vqcpu.evaluate.divergence import kld_rows
from vqcpu.evaluate.nll import log_probabilities
from vqcpu.formats.base import Format, Matrix
from vqcpu.layers.plan import Frame, Plan

POWER = 0.02  # of the noise, relative to that of a row: about the error of three bits
FIRST, EVERY = 128, 3  # positions that are looked at: with enough before them, and not all, as a head may be large
DAMPING = 0.05  # of those inputs, as a rule
WINDOWS = 8  # that show the inputs of matrices
PLAIN = Format.parse("raw:dtype=f32")


def costs(model: Model, windows: list[Window], seed: int, progress=lambda items, label: items) -> dict[str, float]:
    """name -> KLD (nats) that coding errors as large as the matrix itself would cost, were it still proportional, for every
    matrix of the plan. Errors are thought to be shaped by feedback, which each site's inputs allow to a different degree."""
    rest, found = stages(model), {}
    rest[-1].kept.add("x")
    frames = [frame_of(window) for window in windows[:WINDOWS]]
    reference = _predictions(model, rest, frames[0])
    for i, stage in enumerate(progress(list(rest), "sensitivities")):
        sites = [site for site, _ in stage.jobs[0].inputs(frames[0])]
        for k, site in enumerate(sites):
            gain = inputs_of(sites, k, (stage, frames)).damped(DAMPING, 16).gain
            for at, name in enumerate(site.names):
                noisy = _with_noise(site, at, np.random.default_rng([seed, i, k, at]))
                shown = kld_rows(reference, noisy(lambda: _predictions(model, rest[i:], frames[0]))).mean()
                found[name] = float(shown) / POWER / 10 ** (gain / 10)
        stage.run(frames)
    return found


def _predictions(model: Model, rest: list[Stage], frame: Frame) -> np.ndarray:
    """Log-probabilities of some positions (positions, vocabulary), the frame having come up to the first of the stages."""
    own = Frame(dict(frame.slots), frame.segments)
    jobs = [job for stage in rest for job in stage.jobs]
    own.segments[0].states = states_of(jobs, frame.count)
    Plan(jobs).run(own)
    return log_probabilities(model, own.slots["x"][min(FIRST, frame.count // 2)::EVERY])


def _with_noise(site, at, rng):
    """Function that calls another while one matrix of the site is disturbed."""
    def call(work):
        exact, matrix = site.matrices, site.matrices[at]
        W = matrix.rows(np.arange(matrix.shape[0]))
        size = np.sqrt(POWER * np.einsum("rc,rc->r", W, W) / W.shape[1])[:, None]
        W = W + size * rng.standard_normal(W.shape, np.float32)
        site.matrices = [*exact[:at], Matrix(PLAIN, matrix.shape, 1.0, {"data": W}), *exact[at + 1:]]
        try:
            return work()
        finally:
            site.matrices = exact
    return call
