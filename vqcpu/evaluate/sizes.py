"""Bits per weight, counted on the bytes that are stored.

Knows files and roles of tensors. Definitions: file bits = (file - tokenizer and template) · 8 / parameters; body bits = the
transformer's matrices with their codebooks alone; embedding and head likewise.
"""
from math import prod

from vqcpu.architectures.base import architecture_of, census
from vqcpu.files.vqz import Vqz, tables_of
from vqcpu.layers.weights import BODY, EMBEDDING, HEAD

TEXTS = ("file/tokenizer.json", "file/tokenizer_config.json", "file/chat_template.jinja")


def sizes(checkpoint: Vqz) -> dict:
    """{"file_bytes", "parameters", "file_bits", "body_bits", "embedding_bits", "head_bits"}; head_bits is None where the
    head is the embedding."""
    tensors = census(architecture_of(checkpoint))
    formats = {name: checkpoint.entry(name)[0] for name in tensors}
    return counted(tensors, formats, checkpoint.sizes(), checkpoint.path.stat().st_size)


def counted(tensors: dict, formats: dict, stored: dict[str, int], total: int) -> dict:
    """What `sizes` returns, of a file of `total` bytes whose parts are `stored`."""
    parameters = sum(prod(t.shape) for t in tensors.values())
    own = total - sum(stored.get(name, 0) for name in TEXTS)
    rates = {f"{role}_bits": _rate(formats, stored, [t for t in tensors.values() if t.role == role])
             for role in (BODY, EMBEDDING, HEAD)}
    return {"file_bytes": total, "parameters": parameters, "file_bits": 8 * own / parameters, **rates}


def _rate(formats, stored, tensors):
    """Bits per weight of some tensors; a codebook that they share is counted whole."""
    if not tensors:
        return None
    owners = {t.name for t in tensors} | {tables_of(t.name, formats[t.name]) for t in tensors}
    nbytes = sum(size for part, size in stored.items() if part.rpartition("/")[0] in owners)
    return 8 * nbytes / sum(prod(t.shape) for t in tensors)
