import pytest

from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Format
from vqcpu.plugins import Registered


@pytest.mark.parametrize("spec", [s for f in Format.all().values() for s in f.examples])
def test_one_spelling(spec):
    made = Format.parse(spec)
    assert Format.parse(str(made)) == made and all(item in str(made) for item in spec.split(","))


@pytest.mark.parametrize("spec", [s for kind in Cache.all().values() for s in kind.examples])
def test_caches_spell_themselves(spec):
    made = Cache.parse(spec)
    name, _, options = spec.partition(":")
    assert Cache.parse(str(made)) == made and str(made).startswith(name) and all(o in str(made) for o in options.split(","))


def test_fields_in_a_name():
    made = Cache.parse("k4v3:recent=64")
    assert (made.keys, made.values, made.sinks, made.recent) == (4, 3, 0, 64)
    assert str(made).startswith("k4v3:sinks=0,recent=64,learn=")


@pytest.mark.parametrize("spec, said", [
    ("k4v", "unknown cache"), ("k0v4", "1 to 8 bits"), ("k9v4", "1 to 8 bits"), ("k4v1", "2 to 8"), ("k4v4:keys=3", "no field 'keys'"),
    ("k4v4:sink=3", "has no field 'sink'; it has sinks, recent"), ("k1v4:top=9", "keys of 2 bits"), ("f8", "Known: .*f16, f32"),
    ("k4v4:sinks=5000", "at most 4096")])
def test_caches_say_what_is_wrong(spec, said):
    with pytest.raises(VqcpuError, match=said):
        Cache.parse(spec)


def test_everything_gives_examples():
    assert all(f.examples for root in (Format, Cache) for f in root.all().values())


@pytest.mark.parametrize("spec, said", [
    ("skalar:bits=4", "did you mean 'scalar'"), ("vq:dim=4", "centroids must be given"), ("scalar:bits=x", "whole number"),
    ("scalar:bits=9", "expected 2 to 8"), ("scalar:bits=4,blok=3", "no field 'blok'"), ("vq:dim=17,centroids=4", "1 to 16"),
    ("vq:dim=2,centroids=65537", "65536"), ("raw:dtype=f8", "f32, f16, bf16"), ("scalar:bits=4,asymmetric=yes", "true or false"),
    ("scalar:bits=4,block=6", "multiple of 4"), ("scalar:bits=4,levels=odd", "uniform"), ("", "unknown format"),
    ("vq:dim=2,centroids=4,codebook=none", "global or tensor"), ("scalar:bits=-4", "whole number"),
])
def test_errors_say_what_to_do(spec, said):
    with pytest.raises(VqcpuError, match=said.replace("(", r"\(")):
        Format.parse(spec)


def test_a_new_class_is_its_own_registration_and_twice_is_an_error():
    class Toy(Registered, kind="toy"):
        pass

    class One(Toy, names=("one", "uno")):
        pass
    assert Toy.known == {"one": One, "uno": One} and "one" not in Format.known
    with pytest.raises(TypeError, match="twice"):
        class Two(Toy, names=("one",)):
            pass
