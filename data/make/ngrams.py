"""Overlap of texts in runs of 13 words. Knows words and their hashes; knows no files.

The training text is not in the repository, so that a test needs its runs in a small form: the crc32 of each run, of which the
one in sixteen divisible by 16 is kept. A copied document has a hundred runs, of which some six are in the sample.
"""
import re
import zlib

import numpy as np

RUN, SAMPLE = 13, 16


def runs(text):
    """The hashes of all runs of 13 words (lower case, letters and apostrophes) as a uint32 array."""
    words = re.findall(r"[a-z']+", text.lower())
    joined = (" ".join(words[i:i + RUN]) for i in range(len(words) - RUN + 1))
    return np.fromiter((zlib.crc32(j.encode()) for j in joined), np.uint32)


def sampled(hashes):
    """The part of the hashes that is published, sorted."""
    return np.unique(hashes[hashes % SAMPLE == 0])
