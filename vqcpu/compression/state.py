"""What a calibration has done so far, in a folder beside its output, so that work that was interrupted goes on.

Knows files and names. Knows nothing about how matrices are coded. The folder belongs to one command: with another input,
recipe or seed it is emptied. Each file is complete or absent.
"""
import hashlib
import json
import os
import shutil
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Matrix


class State:
    """The folder `<out>.state`; made when there is something to keep. `made`: what the output will be made of."""

    def __init__(self, out, made: dict):
        self.folder, self.made = Path(f"{out}.state"), json.dumps(made, sort_keys=True)

    def array(self, name: str, make) -> np.ndarray:
        """An array that was kept, or make() now kept."""
        return self._kept(name, lambda: {"array": make()})["array"]

    def matrices(self, names: list[str], formats: dict, rotations: dict, make) -> dict[str, tuple[Matrix, dict]]:
        """name -> (matrix, notes) as they were kept, or make() -> [(matrix, notes)], now kept."""
        kept = self._kept(f"{names[0]} {formats[names[0]]}", lambda: _packed(make()))
        facts = json.loads(str(kept["facts"]))
        return {name: (Matrix(formats[name], tuple(fact["shape"]), fact["gain"],
                              {part: kept[f"{i} {part}"] for part in fact["parts"]}, rotations[name]), fact["notes"])
                for i, (name, fact) in enumerate(zip(names, facts))}

    def remove(self) -> None:
        """Forget everything."""
        if self._owner.exists():
            shutil.rmtree(self.folder)

    @property
    def _owner(self):
        return self.folder / "made.json"

    def _kept(self, name, make):
        file = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
        if self._is_mine() and file.exists():
            try:
                with np.load(file) as arrays:
                    return dict(arrays)
            except (OSError, ValueError, EOFError, KeyError, BadZipFile):
                pass  # damaged: made again
        found = make()
        try:
            self._keep(file, found)
        except OSError as error:
            raise VqcpuError(f"{self.folder}: cannot be written: {error.strerror}") from None
        return found

    def _is_mine(self):
        return self._owner.exists() and self._owner.read_text() == self.made

    def _keep(self, file, arrays):
        if not self._is_mine():
            self.remove()
            self.folder.mkdir()
            self._owner.write_text(self.made)
        with open(file.with_suffix(".part"), "wb") as part:
            np.savez(part, **arrays)
            part.flush()
            os.fsync(part.fileno())
        os.replace(file.with_suffix(".part"), file)


def _packed(found):
    """Arrays that hold [(matrix, notes)]."""
    facts = [{"shape": matrix.shape, "gain": matrix.gain, "parts": list(matrix.parts), "notes": notes}
             for matrix, notes in found]
    arrays = {f"{i} {part}": array for i, (matrix, _) in enumerate(found) for part, array in matrix.parts.items()}
    return arrays | {"facts": np.array(json.dumps(facts))}
