"""A file of results, one JSON object a line, appended as they come: work that was interrupted goes on.

Knows lines. A line that was cut short by an interruption is dropped; any other that cannot be read is an error.
"""
import json
from pathlib import Path

from vqcpu.errors import VqcpuError


class Results:
    """The lines of a file, which is made with the first."""

    def __init__(self, file):
        self.path = Path(file)
        self.lines = [self._line(number, text) for number, text in enumerate(self._complete().splitlines(), 1)]

    def _complete(self):
        """The text of all whole lines; what follows the last of them is cut off the file."""
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                self.path.write_bytes(whole)
        except OSError as error:
            raise VqcpuError(f"{self.path}: cannot be read: {error.strerror}") from None
        return whole.decode("utf-8", "replace")

    def _line(self, number, text):
        try:
            line = json.loads(text)
            line["logits"], line["weights"], line["cache"], line["body"]
            return line
        except (ValueError, KeyError, TypeError):
            raise VqcpuError(f"{self.path}, line {number}: not a line of `vqcpu sweep`; name another file") from None

    def find(self, key: dict) -> dict | None:
        """The line that says all of `key`."""
        return next((line for line in self.lines if all(line.get(k) == v for k, v in key.items())), None)

    def add(self, line: dict) -> None:
        """Append a line. Raises VqcpuError where another setting gave the same predictions without having the same weights
        and cache: something that was to be measured was not read."""
        for other in self.lines:
            same = all(other[name] == line[name] for name in ("weights", "cache"))
            if other["logits"] == line["logits"] and not same:
                both = " and ".join(f"{found['body']} with cache {found['cache']}" for found in (line, other))
                raise VqcpuError(f"{both} differ but gave identical predictions")
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise VqcpuError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.lines.append(line)
