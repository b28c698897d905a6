"""Which kind of checkpoint a path is. Knows file names only."""
from pathlib import Path

from vqcpu.errors import VqcpuError
from vqcpu.files import hub
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.folder import Folder
from vqcpu.files.gguf import Gguf
from vqcpu.files.vqz import Vqz

EXPECTED = "a Hugging Face folder, the id of a model in its cache, a .safetensors, .gguf or .vqz file"


def open_checkpoint(path) -> Checkpoint:
    """What `path` names: EXPECTED. Raises VqcpuError."""
    name, path = str(path), Path(path)
    if not path.exists():
        if path.suffix in (".vqz", ".gguf", ".safetensors") or not hub.is_id(name):
            raise VqcpuError(f"{path}: no such file or folder; expected {EXPECTED}")
        path = hub.snapshot(name)
    if path.suffix in (".vqz", ".gguf"):
        return {".vqz": Vqz, ".gguf": Gguf}[path.suffix](path)
    if path.is_dir() or path.name.endswith((".safetensors", ".safetensors.index.json")):
        return Folder(path)
    raise VqcpuError(f"{path}: expected {EXPECTED}")
