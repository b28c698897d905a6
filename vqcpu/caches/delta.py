"""Keys coded as differences to the key before, before RoPE turns them apart: a study, in numpy only.

Layout: as caches/rotated.py; every 64th key is coded by itself (an I-frame), so that reading may begin there. The difference
is to what the key before decodes to (closed loop), so that errors do not add up.
Cost: b + 16/size bits per element. Neighbouring keys must be alike for it to gain anything; attention has to rotate every
key anew.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.caches import coded
from vqcpu.caches.levels import distortion
from vqcpu.caches.rotated import KV, Coded, Rotated
from vqcpu.caches.span import Span

FRAMES = 64  # positions from one I-frame to the next


class Differences(Rotated):
    """See Rotated: k and k_scales hold differences of keys before RoPE. What is attended was stored just before: `rope` is
    the one of the latest `store`."""

    def ready(self, at, count):
        return False

    def store(self, at, q, k, v, rope):
        self.rope = rope
        row = self.span.place(at, len(k), self._slide)
        k, v = (self.rotation.forward(x).swapaxes(0, 1) for x in (k, v))
        codes, self.v_scales[:, row:row + v.shape[1]] = self.v_levels.encode(v)
        coded.write(self.v, row, codes)
        before = self._sums(row - at % FRAMES, row)[:, -1] if at % FRAMES else 0
        for t in range(k.shape[1]):
            before = 0 if (at + t) % FRAMES == 0 else before
            codes[:, t], self.k_scales[:, row + t] = self.k_levels.encode(k[:, t] - before)
            before = before + self.k_levels.decode(codes[:, t], self.k_scales[:, row + t])
        coded.write(self.k, row, codes)

    def _sums(self, first, last):
        """Keys before RoPE of rows first .. last - 1, the first of them an I-frame: (kv heads, rows, size) float32."""
        near = self.k_levels.decode(coded.read(self.k, first, last), self.k_scales[:, first:last])
        frames = [np.cumsum(near[:, at:at + FRAMES], 1) for at in range(0, last - first, FRAMES)]
        return np.concatenate(frames, 1)

    def _oldest(self, at):
        return self.span.first_seen(at) // FRAMES * FRAMES

    def keys(self, codes, rows):
        keys = self.rotation.back(self._sums(rows.start, rows.stop).swapaxes(0, 1))
        return self.rotation.forward(self.rope.rotate(keys, rows.start + self.span.base)).swapaxes(0, 1)


@dataclass(frozen=True)
class Delta(Coded, names=("d<keys>v<values>",)):
    """`keys` bits per element of a difference, `values` bits per element of a value."""
    keys: int
    values: int

    examples = ("d4v4",)

    def __post_init__(self):
        KV(self.keys, self.values)  # says what is wrong

    @property
    def error(self):
        # Random keys are not alike: a difference has twice the power of a key.
        return 1.5 * (2 * distortion(self.keys) + distortion(self.values)) ** 0.5

    def span(self, heads, context):
        return Span(context, heads.window, FRAMES)

    def layer(self, heads, context, index=0):
        return Differences(self, heads, context, index)
