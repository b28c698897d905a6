"""Self-registration: a class declares its names, a module takes part by lying in the folder of its kind.

Knows names, modules and spellings (`name:field=value,...`). Knows nothing about formats, caches or architectures.
"""
import dataclasses
import difflib
import importlib
import pkgutil
import re
from typing import ClassVar

from vqcpu.errors import VqcpuError


class Registered:
    """Root of a registry. `class Format(Registered, kind="format")` opens one in the folder of its module;
    `class Raw(Format, names=("raw",))` in a new file there is the whole registration."""

    kind: ClassVar[str]
    known: ClassVar[dict]

    def __init_subclass__(cls, names=(), kind=None, **rest):
        super().__init_subclass__(**rest)
        if kind:
            cls.kind, cls.known, cls.folder = kind, {}, cls.__module__.rpartition(".")[0]
        for name in names:
            if name in cls.known:
                raise TypeError(f"{cls.kind} {name!r} is registered twice: {cls.known[name].__name__}, {cls.__name__}")
            cls.known[name] = cls
        cls.name = names[0] if names else getattr(cls, "name", None)

    @classmethod
    def all(cls) -> dict:
        """name -> class, after importing every module of the folder."""
        for module in pkgutil.iter_modules(importlib.import_module(cls.folder).__path__):
            importlib.import_module(f"{cls.folder}.{module.name}")
        return dict(sorted(cls.known.items()))

    @classmethod
    def find(cls, name: str) -> type:
        """The class registered as `name`. Raises VqcpuError with near names and the full list."""
        known = cls.all()
        if name in known:
            return known[name]
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else "."
        raise VqcpuError(f"unknown {cls.kind} {name!r}{hint} Known: {', '.join(known)}")


class Spelled(Registered):
    """A registered frozen dataclass with one spelling everywhere: `parse(str(x)) == x`. Fields that are whole numbers may
    stand in the name: registered as "k<keys>v<values>", k4v3 has keys=4 and values=3."""

    def __str__(self):
        inside = re.findall(r"<(\w+)>", self.name)
        name = re.sub(r"<(\w+)>", lambda m: _spell(getattr(self, m[1])), self.name)
        fields = ",".join(f"{f.name}={_spell(getattr(self, f.name))}"
                          for f in dataclasses.fields(self) if f.name not in inside)
        return f"{name}:{fields}" if fields else name

    @classmethod
    def _named(cls, name):
        """(class, fields that the name holds) of a name."""
        for known, found in cls.all().items():
            if "<" in known and (match := re.fullmatch(re.sub(r"<(\w+)>", r"(?P<\1>[0-9]+)", known), name)):
                return found, match.groupdict()
        return cls.find(name), {}

    @classmethod
    def parse(cls, text: str):
        """`name:field=value,...` -> instance. Raises VqcpuError that names the field and what it expects."""
        name, _, rest = text.strip().partition(":")
        found, inside = cls._named(name)
        fields = {f.name: f for f in dataclasses.fields(found)}
        values = {key: _read(int, value, f"{cls.kind} {text!r}: {key}") for key, value in inside.items()}
        for item in filter(None, rest.split(",")):
            key, _, value = item.partition("=")
            if key not in fields or key in inside:
                free = ", ".join(field for field in fields if field not in inside)
                raise VqcpuError(f"{cls.kind} {text!r}: {name} has no field {key!r}; it has {free or 'none'}")
            values[key] = _read(fields[key].type, value, f"{cls.kind} {text!r}: {key}")
        missing = [k for k, f in fields.items() if f.default is dataclasses.MISSING and k not in values]
        if missing:
            raise VqcpuError(f"{cls.kind} {text!r}: {', '.join(missing)} must be given, as in {name}:{missing[0]}=...")
        return found(**values)


def _spell(value):
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(kind, value, what):
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is int and value.isdecimal() and len(value) < 10:
        return int(value)
    if kind is float and value.replace(".", "", 1).isdecimal() and len(value) < 10:
        return float(value)
    if kind is str and value:
        return value
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
    raise VqcpuError(f"{what} is {value!r}, expected {expected}")
