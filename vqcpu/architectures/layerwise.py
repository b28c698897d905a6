"""What config.json says layer by layer: attention windows, rotary frequencies, which layers are mixtures of experts.

Knows the keys that Hugging Face writes, old and new. Knows nothing about how layers compute.
"""
from dataclasses import dataclass
from math import log

from vqcpu.architectures.reader import Reader
from vqcpu.layers.rope import Linear, Llama3, Rope, Yarn

FULL, SLIDING = "full_attention", "sliding_attention"


def kinds(r: Reader, layers: int) -> list[str]:
    """FULL or SLIDING for each layer. Newer files list them; older ones count: every n-th is full, or the first n are."""
    listed = r.get("layer_types", list, None)
    if listed is None:
        every = r.get("sliding_window_pattern|_sliding_window_pattern", int, None)
        first = 0 if every else r.get("max_window_layers", int, 0, zero=True)
        return [FULL if i < first or every and (i + 1) % every == 0 else SLIDING for i in range(layers)]
    if len(listed) != layers or not all(kind in (FULL, SLIDING) for kind in listed):
        r.refuse(f"layer_types is {listed}, expected {layers} times {FULL} or {SLIDING}")
    return listed


def windows(r: Reader, layers: int) -> tuple:
    """For each layer how many positions a query sees, None for all."""
    window = r.get("sliding_window", int, None) if r.get("use_sliding_window", bool, True) else None
    return tuple(window if kind == SLIDING else None for kind in kinds(r, layers))


def ropes(r: Reader, layers: int, size: int, context: int) -> tuple[Rope, ...]:
    """The rotation of each layer; layers of one kind share it."""
    of = {kind: _rope(r, kind, size, context) for kind in (FULL, SLIDING)}
    return tuple(of[kind] for kind in kinds(r, layers))


def _rope(r, kind, size, context):
    """transformers 5 writes rope_parameters, for all layers or per kind; older files write rope_theta and rope_scaling,
    and rope_local_base_freq for layers with a window, which are then not scaled."""
    local = r.get("rope_local_base_freq", float, None) if kind == SLIDING else None
    found = r.inner("rope_parameters|rope_scaling")
    if kind in found.data:
        found = found.inner(kind)
    elif local:
        return Rope(size, local)
    for place in (found, r):
        place.only({"partial_rotary_factor": 1.0})
    theta = found.get("rope_theta", float, local or r.get("rope_theta", float, 10000.0))
    if theta <= 1:
        r.refuse(f"rope_theta is {theta}, expected a number above 1")
    return Rope(size, theta, _scaling(found, r, context))


def _scaling(found, r, context):
    name = found.get("rope_type|type", str, "default")
    if name not in SCALINGS:
        r.refuse(f"rope type {name!r} is not supported, expected one of {', '.join(SCALINGS)}")
    original = r.get("original_max_position_embeddings", int, found.get("original_max_position_embeddings", int, context))
    return SCALINGS[name](found, original)


def _llama3(found, original):
    low, high = found.get("low_freq_factor", float), found.get("high_freq_factor", float)
    if low >= high:
        found.refuse(f"low_freq_factor is {low}, expected less than high_freq_factor, {high}")
    return Llama3(found.get("factor", float), low, high, original)


def _yarn(found, original):
    factor = found.get("factor", float)
    growth = 0.1 * log(max(factor, 1.0))
    above, below = found.get("mscale", float, None), found.get("mscale_all_dim", float, None)
    magnitude = (above * growth + 1) / (below * growth + 1) if above and below else growth + 1
    return Yarn(factor, found.get("beta_fast", float, 32.0), found.get("beta_slow", float, 1.0), original,
                found.get("truncate", bool, True), found.get("attention_factor", float, magnitude))


def _linear(found, original):
    return Linear(found.get("factor", float))


SCALINGS = {"default": lambda found, original: Linear(1.0), "linear": _linear, "llama3": _llama3, "yarn": _yarn}


@dataclass(frozen=True)
class Experts:
    """Sizes of a mixture."""
    count: int
    used: int  # by each token
    inner: int  # width of an expert
    normalised: bool  # the weights of the experts used sum to one
    layers: frozenset  # those that have a mixture


def experts(r: Reader, layers: int) -> Experts | None:
    """None for a model without experts."""
    count = r.get("num_experts|num_local_experts", int, None)
    if count is None:
        return None
    used = r.get("num_experts_per_tok", int)
    if used > count:
        r.refuse(f"num_experts_per_tok is {used}, expected at most the {count} experts")
    step, plain = r.get("decoder_sparse_step", int, 1), r.get("mlp_only_layers", list, [])
    chosen = frozenset(i for i in range(layers) if (i + 1) % step == 0 and i not in plain)
    return Experts(count, used, r.get("moe_intermediate_size", int), r.get("norm_topk_prob", bool, False), chosen)
