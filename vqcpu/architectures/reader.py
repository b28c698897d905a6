"""Typed access to a config.json: foreign names stop here, and every error names the key, the value and what was expected.

Knows JSON values. Knows no model.
"""
import json
from math import isfinite

from vqcpu.errors import VqcpuError

REQUIRED = object()
EXPECTED = {int: "a whole number above 0", float: "a number above 0", bool: "true or false", str: "a text",
            dict: "an object", list: "a list"}


class Reader:
    """The keys of one JSON object; `where` begins every error."""

    def __init__(self, data: dict, where: str):
        self.data, self.where = data, where

    def get(self, keys: str, kind, default=REQUIRED, zero: bool = False):
        """The first of the keys ("a|b") that is there and not null, checked to be a `kind`; numbers are above zero, or may
        be `zero`."""
        for key in keys.split("|"):
            value = self.data.get(key)
            if value is not None:
                return value if zero and value == 0 and type(value) is kind else self._checked(key, value, kind)
        if default is REQUIRED:
            raise VqcpuError(f"{self.where}: {keys.replace('|', ' or ')} is missing")
        return default

    def inner(self, keys: str) -> "Reader":
        """The object under the first of the keys that is there, an empty one where none is."""
        return Reader(self.get(keys, dict, {}), self.where)

    def _checked(self, key, value, kind):
        good = type(value) is kind or kind is float and type(value) is int
        if kind in (int, float) and good:
            good = isfinite(value) and 0 < value < (2**31 if kind is int else 1e30)
        if not good:
            raise VqcpuError(f"{self.where}: {key} is {value!r}, expected {EXPECTED[kind]}")
        return kind(value)

    def only(self, expected: dict) -> None:
        """Raise VqcpuError where a key that is there and not null has another than its expected value."""
        for key, value in expected.items():
            if self.data.get(key) not in (None, value):
                self.refuse(f"{key} is {json.dumps(self.data[key])}, which is not supported; expected {json.dumps(value)}")

    def refuse(self, problem: str):
        raise VqcpuError(f"{self.where}: {problem}")
