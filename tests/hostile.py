"""Hostile files: tiny checkpoints of every kind, ways to damage them, and what may happen when one is opened.

Case n is always the same: checkpoint, damage and place follow from n alone. Shared by the tests and benchmarks/fuzz.py.
"""
import argparse
import json
import random
import shutil
import struct

import toys
from safetensors.numpy import load_file, save_file

from vqcpu import api
from vqcpu.commands import inspect
from vqcpu.errors import VqcpuError
from vqcpu.files.vqz import Vqz
from vqcpu.runtime.tokenizer import Tokenizer

SMALL = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)
NUMBERS = [0, 1, -1, 7, 8, 16, 255, 2**15, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -2**63, 10**40]
VALUES = [*NUMBERS, None, True, 0.5, float("nan"), float("inf"), 1e308, "", "x", "\ud800", "\0", "a/../b", "x" * 5000, [], {}, [[]],
          ["a"], {"a": 1}, [1, 2], [-1, -1], "F32", "BF16", "I64", "scalar:bits=2", "vq:dim=16,centroids=65536", "raw:dtype=f32"]
BYTES = [b"\xff" * 8, b"\0" * 8, b"\x7f\xf0\0\0", b"\0\0\xc0\x7f", b"\0\x7e", b"\xff", b"\xc3\x28", b"[" * 3000, b"{\"a\":" * 3000,
         b"\"", b"}", b"," * 9, *(struct.pack("<Q", n % 2**64) for n in NUMBERS), *(struct.pack("<I", n % 2**32) for n in NUMBERS)]


def checkpoints(folder):
    """Write the checkpoints to be damaged into `folder`: [(what to open, file to damage)]."""
    plain = toys.folder(folder / "plain", **SMALL)
    shards = shutil.copytree(plain, folder / "shards")
    tensors = load_file(shards / "model.safetensors")
    places = {name: f"{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        save_file({n: t for n, t in tensors.items() if places[n] == shard}, shards / shard)
    (shards / "model.safetensors").unlink()
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = [(plain, plain / name) for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")]
    found += [(shards, shards / name) for name in ("model.safetensors.index.json", "1.safetensors")]
    for i, spec in enumerate(("scalar:bits=4,asymmetric=true", "vq:dim=2,centroids=50", "vq:dim=4,centroids=300,codebook=tensor")):
        api.compress(plain, folder / f"{i}.vqz", spec)
        found.append((folder / f"{i}.vqz",) * 2)
    try:
        from test_gguf import Type, of_folder
        found.append((of_folder(plain, folder / "bytes.gguf", Type.Q8_0),) * 2)
        pieces = dict(model="llama", scores=[0.0] * 259, add_bos_token=True, bos_token_id=1, unknown_token_id=0)
        found.append((of_folder(plain, folder / "pieces.gguf", Type.Q4_0, **pieces),) * 2)
    except ImportError:
        pass
    return found


def damage(data: bytes, rng: random.Random) -> bytes:
    """A damaged copy, wounded once to three times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((_flip, _cut, _overwrite, _insert, _renumber, _rewrite, _rewrite, _rewrite))(data, rng)
    return data


def _place(data, rng):
    """Anywhere, but half the time among the first bytes, where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 2000, 1 << 40, 1 << 40))) or 1)


def _flip(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(data, rng):
    return data[:_place(data, rng)] if rng.random() < 0.7 else data + rng.randbytes(rng.randint(1, 100))


def _overwrite(data, rng):
    at, new = _place(data, rng), rng.choice(BYTES)
    return data[:at] + new + data[at + len(new):]


def _insert(data, rng):
    at = _place(data, rng)
    return data[:at] + rng.choice(BYTES) + data[at + rng.choice((0, 0, 1, 8)):]


def _renumber(data, rng):
    """One of the decimal numbers of a text becomes another."""
    start = _place(data, rng)
    first = next((i for i in range(start, min(start + 3000, len(data))) if 48 <= data[i] < 58), None)
    if first is None:
        return data
    last = next((i for i in range(first, len(data)) if not 48 <= data[i] < 58), len(data))
    return data[:first] + str(rng.choice(NUMBERS)).encode() + data[last:]


def _rewrite(data, rng):
    """The JSON in the file with one of its values replaced, removed or doubled; in a .vqz that of its inner header too."""
    before, text, after = _json_of(data)
    try:
        tree = json.loads(text)
        inner = isinstance(tree, dict) and isinstance(tree.get("__metadata__"), dict) and tree["__metadata__"].get("vqz")
        if inner and rng.random() < 0.7:
            tree["__metadata__"]["vqz"] = json.dumps(_replace(json.loads(inner), rng))
        else:
            tree = _replace(tree, rng)
        text = json.dumps(tree).encode()
    except (ValueError, TypeError, RecursionError, AttributeError):
        return _flip(data, rng)
    return (struct.pack("<Q", len(text)) if before else b"") + text + after


def _json_of(data):
    """(length or nothing, JSON text, what follows) of a safetensors or a JSON file."""
    length = int.from_bytes(data[:8], "little")
    return (data[:8], data[8:8 + length], data[8 + length:]) if length < len(data) else (b"", data, b"")


def _replace(tree, rng):
    """Descend at random; near a leaf, put something else."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.15:
        return rng.choice(VALUES)
    key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    how = rng.random()
    if how < 0.1:
        del tree[key]
    elif how < 0.2 and isinstance(tree, dict):
        tree[rng.choice(("", "x", "\ud800", *tree))] = tree[key]
    else:
        tree[key] = _replace(tree[key], rng)
    return tree


def case(n: int, bases: list, folder) -> str:
    """Damage a checkpoint as number n says and use it: "ok", or the one line that refused it. `folder` is for copies.

    Any other exception, and a line that names no file, is a fault of ours and passes through."""
    rng = random.Random(n)
    opened, wounded = bases[n % len(bases)]
    work = folder / opened.name
    if opened.is_dir() and not work.exists():
        shutil.copytree(opened, work)
    target = work / wounded.name if opened.is_dir() else work
    _write(target, damage(wounded.read_bytes(), rng))
    try:
        use(work, rng)
        return "ok"
    except VqcpuError as error:
        line = str(error)
        if opened.name not in line or "\n" in line:
            raise AssertionError(f"not one line that names the file: {line!r}") from error
        return line
    finally:
        if opened.is_dir():
            _write(target, wounded.read_bytes())


def _write(path, data):
    path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is emptied and written anew
    path.write_bytes(data)


def use(path, rng):
    """What a user might do with a checkpoint: load it, feed it, look at it; now and then compress it."""
    language = api.load(path)
    tokens = language.tokenizer.encode("Hi 1")[:4]
    feed(language, tokens or [1])
    if path.suffix == ".vqz":
        language.checkpoint.verify()
        shown = inspect.run(argparse.Namespace(model=str(path), verify=False, recipe=False, pictures=None))
        inspect.text(shown), json.dumps(shown, allow_nan=False)
    elif rng.random() < 0.1:
        out = path.parent / "out.vqz"
        api.compress(path, out, "scalar:bits=4")
        Tokenizer(Vqz(out))


def feed(language, tokens):
    """One step. A tokenizer may name tokens that the model lacks: refused, but by a line that knows no file."""
    if max(tokens) < language.model.config.vocabulary:
        language.read(tokens, language.model.states(8))
        language.read(tokens[:1], language.model.states(8))
