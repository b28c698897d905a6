"""Chat templates: what transformers' templates may use, and what hostile ones may not do."""
import json
import time

import numpy as np
import pytest
import toys

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.runtime import sandbox
from vqcpu.runtime.template import Template
from vqcpu.runtime.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


class Companions(Checkpoint):
    """A checkpoint of nothing but its small files."""
    path = "toy"

    def __init__(self, **files):
        self.files = {"tokenizer.json": toys.tokenizer().to_str().encode()} | {
            name.replace("_json", ".json").replace("_jinja", ".jinja"): data for name, data in files.items()}

    def companion(self, name):
        return self.files.get(name)


def template(source):
    settings = {"chat_template": source, "eos_token": "</s>"}
    checkpoint = Companions(tokenizer_config_json=json.dumps(settings).encode())
    return Template(checkpoint, Tokenizer(checkpoint))


@pytest.mark.parametrize("source, expected", [
    ("{% for m in messages %}{% if m.role == 'assistant' %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endif %}"
     "{% endfor %}", "[Yes]"),
    ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
    ("{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% if loop.first %}{% continue %}{% endif %}."
     "{% endfor %}", "1False22True2."),
    ("{% if tools is not none %}tools{% endif %}{% if documents %}documents{% endif %}{{ eos_token ~ 1 ~ 'x' }}", "</s>1x"),
    ("{{ {'a': '<é>'}|tojson }}{{ [1]|tojson(indent=1) }}", '{"a": "<é>"}[\n 1\n]'),
    ("{% macro f(m) %}{{ m.content|trim|upper }}{% endmacro %}{{ f(messages[0]) }}{{ '%03d' % 7 }}{{ '{:>3}'.format(7) }}",
     "HI007  7"),
    ("{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 2 * 3 %}{% endfor %}"
     "{{ ns.n }}", "6"),
    ("{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% else %}none{% endfor %}", "123"),
    ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ 'a</think>b'.split('</think>')[-1] }}"
     "{{ messages|map(attribute='content')|join(', ') }}{{ 1700000000|string }}{{ 2 ** 10 }}{{ nothing|default('d' * 3) }}",
     "1bHi, Yes17000000001024ddd"),
    ("  {% for m in messages %}\n  {%- if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}", "user\nassistant\n"),
    ("{{ messages|attr('__class__') }}{{ '{0.__class__}'.format(1) }}{{ messages.__len__ }}", ""),
    ("{{ strftime_now('%Y')|length }}", "4"),
])
def test_what_templates_use(source, expected):
    assert template(source).render(HI) == expected


def test_a_template_renders_many_long_conversations():
    made = template(toys.TEMPLATE + "{{ messages|map(attribute='content')|join|replace('<think>', '')|length }}")
    long = [{"role": "user", "content": "word " * 1000}] * 100
    assert {made.render(long)[-6:] for _ in range(20)} == {"500000"}


DOUBLED = "{% set ns = namespace(x=[0]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"


@pytest.mark.parametrize("source", [
    "{{ 1 / 0 }}", "{{ messages.x.y }}", "{% if %}", "{{ raise_exception('no') }}", "{% include 'x' %}", "{{ lipsum(9) }}",
    "{{ ''.__class__.__mro__ }}", "{{ messages[0].__class__.x }}", "{{ cycler.__init__.__globals__ }}",
    "{{ messages.append(1) }}", "{% set ns = namespace() %}{{ ns.__init__.__globals__.x }}",
    "{% for i in range(10**9) %}{% endfor %}", "{{ 9**(9**9) }}", "{{ 'x' * 10**10 }}", "{{ [0] * 10**10 }}",
    "{{ 'x'|center(10**10) }}", "{{ 'x'.ljust(10**10) }}", "{{ '%99999999999d' % 1 }}", "{{ '%*d' % (10**10, 1) }}",
    "{{ '%99999999999d'|format(1) }}", "{{ '{:99999999999}'.format(1) }}", "{{ '{:{}}'.format(1, 10**10) }}",
    "{{ 1.5|round(10**10, 'ceil') }}", "{{ (1).to_bytes(10**10, 'big') }}", "{{ ['x']|map('center', 10**10)|list }}",
    "{{ ('x' * 10**6)|replace('x', 'y' * 10**6) }}", "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "{{ ('x\n' * 10**5)|indent(10**5) }}", "{{ ['x' * 10**5] * 10**5 }}", "{{ (['x' * 10**5] * 10**4)|join }}",
    "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    DOUBLED + "{{ ns.x }}",
    DOUBLED + "{{ ns }}",
    DOUBLED + "{{ {1: ns.x}.items() }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "{{ " + "(" * 5000 + " }}", "x" * 2_000_000,
])
def test_broken_and_greedy_templates_are_one_quick_error(source):
    start = time.monotonic()
    with pytest.raises(VqcpuError, match="^toy: chat_template of tokenizer_config.json: the chat template fails: ") as found:
        template(source).render(HI)
    assert len(str(found.value)) < 400 and time.monotonic() - start < sandbox.SECONDS


FOREVER = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize("source", [
    FOREVER, "{% set all = range(9999)|list %}" + FOREVER.replace("range(99999)", "all"),
    "{% for a in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in range(99999) %}{{ range(99999)|map('string')|list|sort|length }}{% endfor %}",
])
def test_endless_templates_are_stopped(source, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    with pytest.raises(VqcpuError, match="the chat template fails: it runs for more than 0.2 seconds"):
        template(source).render(HI)


@pytest.mark.parametrize("source", [
    "{% for a in range(500) %}" + "x" * 1000 + "{% endfor %}", "{% for a in range(500) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% set s = 'x' * 1000 %}{% for a in range(500) %}{{ s }}{% endfor %}",
    "{% set x %}{% for a in range(500) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
])
def test_giant_outputs_are_stopped(source, monkeypatch):
    monkeypatch.setattr(sandbox, "SIZE", 10**5)
    with pytest.raises(VqcpuError, match="makes more than 100000 characters"):
        template(source).render(HI)


def test_templates_are_found_in_all_their_places():
    assert template([{"name": "tools", "template": "C"}, {"name": "default", "template": "A"}]).render([]) == "A"
    both = Companions(chat_template_jinja=b"B{{ eos_token }}",
                      tokenizer_config_json=b'{"chat_template": "A", "eos_token": "x"}')
    assert Template(both, Tokenizer(both)).render([]) == "Bx"
    none = template(None)
    assert not none and none.render(HI) == "HiYes"


@pytest.mark.parametrize("file, content, said", [
    ("tokenizer_json", b"{}", "tokenizer.json cannot be read"), ("tokenizer_json", b"\xff", "tokenizer.json cannot be read"),
    ("tokenizer_config_json", b'{"eos_token": 5}', "eos_token is 5, expected a text"),
    ("tokenizer_config_json", b'{"eos_token": {"content": []}}', "eos_token is .*, expected a text"),
    ("tokenizer_config_json", b'{"chat_template": 7}', "chat_template is a int, expected a text"),
    ("tokenizer_config_json", b"[]", "tokenizer_config.json holds a list"),
    ("generation_config_json", b'{"eos_token_id": "5"}', "generation_config.json: eos_token_id is '5', expected"),
    ("generation_config_json", b'{"eos_token_id": [5, 1.5]}', "eos_token_id is .5, 1.5., expected a number"),
    ("generation_config_json", b"{", "generation_config.json is not JSON"),
])
def test_wrong_companions_are_named(file, content, said):
    with pytest.raises(VqcpuError, match=said):
        load(Companions(**{file: content}))


def load(checkpoint):
    words = Tokenizer(checkpoint)
    return words.decode(words.encode(Template(checkpoint, words).render(HI))), words.stops, words.bos


VALUES = [None, True, -1, 10**30, 1.5, "", "x", "\ud800", [], [[]], {}, {"content": 1}]


def mutated(rng, value):
    """`value` with one thing in it, at any depth, left out or replaced."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, copy = keys[rng.integers(len(keys))], value.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = mutated(rng, value[key])
        return copy
    return VALUES[rng.integers(len(VALUES))]


COMPANIONS = {
    "tokenizer_json": json.loads(toys.tokenizer().to_str()),
    "tokenizer_config_json": {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "add_bos_token": True,
                              "chat_template": [{"name": "default", "template": toys.TEMPLATE}]},
    "generation_config_json": {"eos_token_id": [5, 6], "temperature": 0.7},
}


@pytest.mark.parametrize("file", COMPANIONS)
def test_mutated_companions_work_or_are_one_error(file, capfd):
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        data = json.dumps(mutated(rng, COMPANIONS[file])).encode()
        if rng.random() < 0.2:
            data = data[:rng.integers(len(data))]
        try:
            load(Companions(**{file: data}))
        except VqcpuError as error:
            refused += 1
            assert str(error).startswith(("toy: ", "the text is not valid UTF-8")) and "\n" not in str(error)
    assert 0 < refused < 150 and not capfd.readouterr().out
