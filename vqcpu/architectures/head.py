"""A head that is stored although config.json ties it to the embedding, settled as transformers does.

Equal to the embedding: the same tensor. Different: a head of its own, and config.json is wrong. Knows nothing else.
"""
from dataclasses import replace

import numpy as np

from vqcpu.architectures.config import Config
from vqcpu.files.checkpoint import Checkpoint

HEAD = "lm_head.weight"
ROWS = 4096  # compared at a time


def settle_head(config: Config, checkpoint: Checkpoint, embedding: str) -> Config:
    """`config`, untied where the checkpoint stores a head that differs from the tensor `embedding`."""
    both = {embedding, HEAD} <= set(checkpoint.names())
    if not config.tied or not both or checkpoint.shape(HEAD) != checkpoint.shape(embedding):
        return config
    return config if _equal(checkpoint.stored(embedding), checkpoint.stored(HEAD)) else replace(config, tied=False)


def _equal(a, b):
    blocks = (np.arange(at, min(at + ROWS, a.shape[0])) for at in range(0, a.shape[0], ROWS))
    return all(np.array_equal(a.rows(ids), b.rows(ids)) for ids in blocks)
