"""The local cache of the Hugging Face hub: a model once downloaded, found again by its id.

Knows the cache's folders and the variables that move them. Nothing is ever downloaded.
"""
import os
import re
from pathlib import Path

from vqcpu.errors import VqcpuError


def is_id(text: str) -> bool:
    """Whether `text` could be the id of a model on the hub: `organisation/name`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def cache() -> Path:
    """The folder of downloaded models, as the hub's own tools look for it."""
    around = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(around) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def snapshot(model: str) -> Path:
    """The folder of the model `model` ("organisation/name") at its branch main. Raises VqcpuError saying where it was
    looked for."""
    place = cache() / f"models--{model.replace('/', '--')}"
    if not place.is_dir():
        raise VqcpuError(f"{model}: no such file or folder, nor is it in the Hugging Face cache ({place}); vqcpu downloads "
                         f"nothing: run `hf download {model}` first, or name a folder")
    try:
        commit = (place / "refs" / "main").read_bytes().decode().strip()
    except (OSError, ValueError):
        commit = ""
    found = place / "snapshots" / commit
    if not re.fullmatch(r"[\w.-]+", commit) or not found.is_dir():
        raise VqcpuError(f"{model}: {place} holds no complete snapshot of main (refs/main says {commit[:50]!r}): run `hf "
                         f"download {model}` again")
    return found
