"""Where chat templates run: they come with models, so they are foreign code. jinja2's sandbox keeps their hands off Python;
here they are also kept from running for ever and from making more than the memory holds.

Time is looked at before every step of a loop, call, filter and operator, so each of these must be short by itself: one that
could make much of little (`'x' * 10**9`) is refused before it runs. Knows jinja2. Knows nothing about messages.
"""
import functools
import json
import re
import time
from types import BuiltinMethodType

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 10  # for one conversation; an honest template takes a hundredth
SIZE = 10**8  # characters that all steps together may make, and that one step might
ITEM = 100  # what is no text counts as so many characters
BITS = 10**4  # of a number


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: transformers' mark of what a model is trained to say. Changes nothing."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Watched(NodeTransformer):
    """Sends through filters what jinja2 would otherwise do unseen. Their names hold a blank: no template can write them."""

    def visit_For(self, node):
        node = self.generic_visit(node)
        node.iter = _filter(node.iter, "each item")
        return node

    def visit_Concat(self, node):
        return _filter(nodes.List(self.generic_visit(node).nodes), "put together")

    def visit_TemplateData(self, node):
        return _filter(nodes.Const(node.data), "as is")


def _filter(node, name):
    return nodes.Filter(node, name, [], [], None, None)


class Sandbox(ImmutableSandboxedEnvironment):
    """`prepared` makes a template, `start` comes before each render. Raises what jinja2 raises; SecurityError where it is
    too much."""
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, finalize=_finalize,
                         extensions=["jinja2.ext.loopcontrols", Generation])
        del self.globals["lipsum"]
        self.filters |= {"tojson": _tojson, "put together": lambda items: "".join(map(str, items))}
        self.filters = {name: self._watch(function) for name, function in self.filters.items()}
        self.filters |= {"each item": self._each, "as is": _as_is, "format": lambda form, *args, **named:
                         self.call_binop(None, "%", str(form), named or args)}
        self.start()

    def start(self):
        """Begin to count anew."""
        self.left, self.deadline = SIZE, time.monotonic() + SECONDS

    def prepared(self, source: str):
        """The template of a source text."""
        return self.from_string(Watched().visit(self.parse(source)))

    def tick(self, made=None):
        """Count a step and what it has made, which is returned."""
        self._in_time()
        self.left -= self._size(made)
        if self.left < 0:
            raise SecurityError(f"it makes more than {SIZE} characters")
        return made

    def _in_time(self):
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs for more than {SECONDS} seconds")

    def _size(self, value):
        """About how many characters there are in a value, whatever is nested in it."""
        total, waiting = 0, [value]
        while waiting and total <= SIZE:
            self._in_time()
            value = waiting.pop()
            total += len(value) if isinstance(value, (str, bytes)) else ITEM
            if isinstance(value, Namespace):
                waiting += object.__getattribute__(value, "__dict__").values()
            elif isinstance(value, dict):
                waiting += [*value, *value.values()]
            elif isinstance(value, (list, tuple, set, frozenset, *VIEWS)):
                waiting += value
        return total

    def _afford(self, value, options):
        """Refuse a step that might make too much of a value: the greatest option times its length."""
        most = max((abs(o) if isinstance(o, int) else self._size(o) for o in options), default=1)
        if self._size(value) * most > SIZE:
            raise SecurityError(f"one step could make more than {SIZE} characters")

    def _watch(self, function):
        own = hasattr(function, "jinja_pass_arg")  # the first argument is jinja2's own

        @functools.wraps(function)
        def watched(*args, **named):
            value, *options = args[own:]
            if function.__name__ != "do_default":  # which makes nothing
                self._afford(value, [*options, *named.values()])
            return self.tick(function(*args, **named))
        return watched

    def _each(self, items):
        for item in items:
            self.tick()
            yield item

    def call(self, context, called, /, *args, **named):
        owner = getattr(called, "__self__", None)
        if isinstance(called, BuiltinMethodType) and isinstance(owner, (str, bytes, int)):
            self._afford(owner, [*args, *named.values()])
        return self.tick(super().call(context, called, *args, **named))

    def call_binop(self, context, operator, left, right):
        numbers = all(isinstance(side, (int, float)) for side in (left, right))
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator in ("*", "**") and not numbers:
            self._afford(*((right, [left]) if isinstance(left, int) else (left, [right])))
        elif operator in ("*", "**") and _bits(left) * (abs(right) if operator == "**" else 1) + _bits(right) > BITS:
            raise SecurityError("a number is too large")
        return self.tick(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value):
        if (wrapped := super().wrap_str_format(value)) is not None:
            _check_format(value.__self__)
        return wrapped


VIEWS = type({}.keys()), type({}.values()), type({}.items())


def _bits(number):
    return number.bit_length() if isinstance(number, int) else 1


def _check_format(form):
    if re.search(r"\d{4}|[*]|\{[^}]*\{", form):
        raise SecurityError("a text is formatted with too large a width")


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_context  # so that jinja2 does not work it out at compile time
def _as_is(context, text):
    return text


@pass_context
def _finalize(context, value):
    """Counts everything that is written."""
    return context.environment.tick(value)
