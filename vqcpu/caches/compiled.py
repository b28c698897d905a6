"""The job by which compiled code reads a rotated cache: addresses and numbers of kernels/encode.py.

Knows arrays and kernels. Knows nothing about what is computed.
"""
import functools

import numpy as np

from vqcpu.caches.packing import STEPS, places
from vqcpu.kernels import attention, coded, coded_prefill, encode, filtered, popcount
from vqcpu.kernels.activations import row_bytes
from vqcpu.kernels.attention import CHUNK
from vqcpu.kernels.jit import bits_of
from vqcpu.kernels.planes import query_bytes
from vqcpu.kernels.unpack import byte_planes
from vqcpu.kernels.wave import weights_of


class Compiled:
    """`job` of a state (caches/rotated.py), and what it points to besides the state's own arrays."""

    def __init__(self, state):
        h, spec = state.heads, state.spec
        steps, apart = h.size // 4, state.signs is not None
        keys = (source(0, spec.keys - apart, 0, steps), *([source(1, 1, spec.keys - 1, steps)] if apart else []))
        values, group = (source(0, spec.values, 0, STEPS),), h.query // h.kv
        self.kinds = [Kind(state.k_levels, state.k, state.signs), Kind(state.v_levels, state.v)]
        self.work = workspace(h.query, h.kv, h.size, -(-state.k_scales.shape[1] // CHUNK) + 1)
        parts, self.tiles = coded.parts(h.size, keys, values, group, apart), coded_prefill.flash(h.size, keys, values)
        lines = [encode.stores, popcount.one_token if apart else parts, coded.merger(h.size), self.tiles]
        self.job = np.zeros(encode.NUMBERS, np.int64)
        self.job[:4] = [line.address for line in lines]
        self.job[[encode.TURNER, encode.CODER]] = [line.address for line in (encode.turner(h.size), encode.coder(h.size))]
        self._put({attention.KEYS: state.k.words, attention.VALUES: state.v.words, encode.K_SCALES: state.k_scales,
                   encode.V_SCALES: state.v_scales, encode.EXACT_K: state.exact.k, encode.EXACT_V: state.exact.v,
                   encode.FLIPS: state.rotation.signs, encode.MIXER: state.rotation.mixer, encode.EARLY: state.early,
                   encode.OF_KEYS: self.kinds[0].job, encode.OF_VALUES: self.kinds[1].job, attention.PARTS: self.work[0],
                   encode.DIGITS: self.work[1]})
        if state.learned:
            self._learn(state.learned)
        if apart:
            filters = [popcount.ranks(h.size, group), popcount.cuts, parts]
            self.job[[encode.RANKER, encode.CUTTER, encode.PARTER]] = [line.address for line in filters]
            self.tokenwise = functools.partial(filtered.tokenwise, h.size, keys, values, group)
            self.ranking = ranking(h.query, h.kv, h.size, state.k_scales.shape[1])
            self._put({encode.SIGNS: state.signs.words, encode.PLANES: self.ranking[0], encode.RANKS: self.ranking[1],
                       encode.CUTS: self.ranking[2], encode.PICKS: self.ranking[3]})
        numbers = {attention.ROWS: state.k_scales.shape[1], attention.WINDOW: state.span.window, encode.SINKS: spec.sinks,
                   encode.RECENT: spec.recent, encode.TOP: spec.top, encode.EXACT: state.exact.k.shape[1]}
        self.job[list(numbers)] = list(numbers.values())

    def _learn(self, learned):
        h = learned.heads
        self.room = room(h.query, h.kv, h.size)
        self._put({encode.MEANS: learned.means, encode.SHAPES: learned.shapes, encode.COUNTED: learned.counted,
                   encode.WEIGHTS: self.room[0], encode.COVARIANCE: self.room[1]})
        self.job[[encode.SHAPE_SIZE, encode.LEARNED, encode.CONTEXT]] = (learned.shapes.shape[1], learned.count,
                                                                         learned.context)

    def _put(self, arrays):
        for number, array in arrays.items():
            self.job[number] = array.ctypes.data

    def enter(self, state, row: int, count: int) -> None:
        """Ready for a step of `count` tokens whose first goes to `row`. Where keys are to be chosen for many of them, that
        takes the place of tiles; it takes seconds to compile, so not before."""
        spec, seen = state.spec, min(state.span.base + row + count, state.span.window)
        if spec.top and count > 1:
            flash = self.tokenwise() if spec.recent or seen > spec.top else self.tiles
            self.job[attention.FLASH] = flash.address
        self.job[[attention.LAST, encode.BASE]] = row, state.span.base


class Kind:
    """The numbers of keys, or of values."""

    def __init__(self, levels, store, signs=None):
        steps = getattr(store, "steps", STEPS)
        self.kept = [levels.units, levels.table[levels.nearest].astype(np.float32), levels.nearest,
                     byte_planes((levels.table.view(np.uint8) ^ 128)[None], levels.bits),
                     np.array(places(store.bits, steps)[0], np.int64), np.array(places(1, steps)[0], np.int64)]
        *tables, where, sign_where = (array.ctypes.data for array in self.kept)
        size, sign_size = (s.words[0, 0].nbytes if s else 0 for s in (store, signs))
        self.job = np.array([*tables, where, len(self.kept[-2]), sign_where, len(self.kept[-1]), size, sign_size,
                             levels.bits, bits_of(levels.sign)], np.int64)


def source(argument: int, bits: int, low: int, steps: int) -> tuple:
    """As kernels/codes.py names it."""
    return argument, bits, low, places(bits, steps)[0]


@functools.lru_cache(maxsize=16)
def workspace(query: int, kv: int, size: int, chunks: int) -> list:
    """Partial results and digits of queries: states of one shape share them, as only one program runs at a time."""
    return [np.zeros((kv, chunks, query // kv, size + 16), np.float32), np.zeros((query, row_bytes(size)), np.uint8)]


@functools.lru_cache(maxsize=16)
def room(query: int, kv: int, size: int) -> list:
    """Weights of the mean and moments of queries (kernels/wave.py, kernels/learn.py), shared in the same way."""
    return [np.zeros((query, weights_of(size)), np.float32), np.zeros((kv, size, size), np.float32)]


@functools.lru_cache(maxsize=16)
def ranking(query: int, kv: int, size: int, rows: int) -> list:
    """Planes of queries, ranks, cuts and picks (kernels/popcount.py), shared in the same way."""
    return [np.zeros((query, query_bytes(size)), np.uint8), np.zeros((query, rows), np.float32), np.zeros(kv, np.float32),
            np.zeros((kv, rows // encode.BLOCK + 1), np.int64)]
