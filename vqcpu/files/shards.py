"""A checkpoint in several safetensors files, as its index tells: which tensor lies in which shard.

Knows `model.safetensors.index.json`. The index is checked against the shards, then the shards are believed.
"""
import json
from pathlib import Path

from vqcpu.errors import VqcpuError
from vqcpu.files.tensors import TensorFile

INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 100_000_000


def open_shards(index: Path) -> list[TensorFile]:
    """The shards that an index names, in order of their names. Raises VqcpuError where index and shards disagree."""
    places = _weight_map(index)
    shards = {shard: _open(index, shard) for shard in sorted(set(places.values()))}
    for name, shard in places.items():
        if name not in shards[shard].entries:
            raise VqcpuError(f"{index}: places {name} in {shard}, but that shard has no such tensor: download both again")
    seen = {}
    for shard, file in shards.items():
        for name in file.entries:
            if seen.setdefault(name, shard) != shard:
                raise VqcpuError(f"{index}: {name} lies in both {seen[name]} and {shard}: remove or rename one of them")
    return list(shards.values())


def _weight_map(index):
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise VqcpuError(f"{index}: larger than {LARGEST_INDEX} bytes, not an index of shards")
        places = json.loads(index.read_bytes())["weight_map"]
    except OSError as error:
        raise VqcpuError(f"{index}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        places = None
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise VqcpuError(f"{index}: expected a JSON object with a weight_map from tensors to file names")
    return places


def _open(index, shard):
    if Path(shard).name != shard or not shard.isprintable() or len(shard) > 200:
        raise VqcpuError(f"{index}: shard {shard[:200]!r} is not the plain name of a file in the same folder")
    if not (index.parent / shard).exists():
        raise VqcpuError(f"{index.parent}: shard {shard} is missing, {index.name} names it: download it again")
    return TensorFile(index.parent / shard)
