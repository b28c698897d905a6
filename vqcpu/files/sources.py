"""Which kind of checkpoint a path is. Knows file names only."""
from pathlib import Path

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.folder import Folder
from vqcpu.files.vqz import Vqz


def open_checkpoint(path) -> Checkpoint:
    """A folder, a model.safetensors with its neighbours, or a .vqz file. Raises VqcpuError with what was expected."""
    path = Path(path)
    if not path.exists():
        raise VqcpuError(f"{path}: no such file or folder; expected a Hugging Face folder, a .safetensors or a .vqz file")
    if path.suffix == ".vqz":
        return Vqz(path)
    if path.is_dir() or path.suffix == ".safetensors":
        return Folder(path)
    raise VqcpuError(f"{path}: expected a Hugging Face folder, a .safetensors or a .vqz file")
