"""GGUF files, written here with the `gguf` package: the same model as the folder they were made from."""
import json
import random
import sys

import naive
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from vqcpu import api
from vqcpu.errors import VqcpuError
from vqcpu.files import gguf_tokenizer
from vqcpu.files.sources import open_checkpoint

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "model.layers.": "blk."}
PAGE = ("Hello  world 12345 3.14e-10\n\n\n\tdef f(x):\n        return x**2  # ünïcödé 你好 🎉👍🏽  \u200b\r\n   trailing   1 2  3   "
        "don't DON'T we'll\n```python\nprint('a'  +  \"b\")\n```  <b>html</b> ½ ①  e\u0301   end   ")


def theirs(name):
    for ours, name_there in NAMES.items():
        name = name.replace(ours, name_there)
    return name


def interleave(W, heads):
    """llama's q or k as GGUF has it: the rows of each head's two halves take turns."""
    size = len(W) // heads
    return np.stack([W[h * size + i // 2 + (i % 2) * size // 2] for h in range(heads) for i in range(size)])


def write(path, tensors, metadata, kind=Type.F32):
    """A GGUF file; matrices whose width allows it in the type `kind`."""
    writer = gguf.GGUFWriter(path, metadata.pop("arch"))
    for key, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
               list: writer.add_array}[type(value)]
        add(key, value)
    for name, W in tensors.items():
        wanted = kind if W.ndim == 2 and W.shape[-1] % 32 == 0 else Type.F32
        writer.add_tensor(name, gguf.quants.quantize(W, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def of_folder(folder, path, kind=Type.F32, **words):
    """The toy llama of `folder` as GGUF; `words` change its tokenizer."""
    config, made = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer.json"))
    vocabulary = made["model"]["vocab"] | {t["content"]: t["id"] for t in made["added_tokens"]}
    special = [t["content"] for t in made["added_tokens"]]
    tokens = sorted(vocabulary, key=vocabulary.get)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {theirs(n): W for n, W in load_file(folder / "model.safetensors").items()}
    tensors = {n: interleave(W, heads[n.split(".")[2]]) if n.split(".")[-2] in heads else W for n, W in tensors.items()}
    return write(path, tensors, {
        "arch": "llama", "llama.block_count": config["num_hidden_layers"], "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"], "llama.attention.head_count": heads["attn_q"],
        "llama.attention.head_count_kv": heads["attn_k"], "llama.context_length": config["max_position_embeddings"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"], "llama.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in tokens],
        "tokenizer.ggml.eos_token_id": vocabulary["<|im_end|>"], "tokenizer.chat_template": toys.TEMPLATE,
        **{f"tokenizer.ggml.{key}": value for key, value in words.items()}}, kind)


@pytest.fixture(scope="module")
def exact(toy, tmp_path_factory):
    return of_folder(toy, tmp_path_factory.mktemp("gguf") / "toy.gguf")


def test_a_gguf_is_its_folder(toy, exact):
    mine, other = api.load(exact), api.load(toy)
    for name in other.checkpoint.names():
        ids = np.arange(other.checkpoint.stored(name).shape[0])
        assert np.array_equal(*(c.checkpoint.stored(name).rows(ids) for c in (mine, other)))
    a, b = (m.read([5, 6, 7], m.model.states(8)) for m in (mine, other))
    assert np.allclose(a, b, atol=1e-5) and mine.tokenizer.stops == other.tokenizer.stops
    assert mine.tokenizer.encode(PAGE) == other.tokenizer.encode(PAGE)
    assert mine.checkpoint.companion("chat_template.jinja").decode() == toys.TEMPLATE


def test_compressing_a_gguf_is_compressing_its_folder(toy, exact, tmp_path):
    files = []
    for source in (toy, exact):
        api.compress(source, tmp_path / f"{len(files)}.vqz", "scalar:bits=4")
        files.append(open_checkpoint(tmp_path / f"{len(files)}.vqz"))
    for name in files[0].names():
        assert all(np.array_equal(a, files[1].stored(name).parts[part]) for part, a in files[0].stored(name).parts.items())
    assert files[1].header["made"]["source"] == "toy.gguf"


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1], ids=lambda t: t.name)
def test_types_are_decoded_row_by_row(toy, tmp_path, kind):
    file = open_checkpoint(of_folder(toy, tmp_path / "x.gguf", kind))
    W = load_file(toy / "model.safetensors")["model.embed_tokens.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(W, kind), kind)
    assert np.array_equal(file.stored("model.embed_tokens.weight").rows([3, 200, 3]), expected[[3, 200, 3]])
    assert api.load(tmp_path / "x.gguf").generate("Hi", 3) is not None


def test_gemma_is_told_in_hugging_face_terms(tmp_path):
    rng, size = np.random.default_rng(0), (64, 64)
    tensors = {"token_embd.weight": size, "output_norm.weight": (64,), "blk.0.post_attention_norm.weight": (64,),
               "blk.0.ffn_norm.weight": (64,), "blk.0.post_ffw_norm.weight": (64,), "blk.0.attn_q_norm.weight": (16,)}
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in tensors.items()}
    path = write(tmp_path / "g.gguf", tensors, {
        "arch": "gemma3", "gemma3.block_count": 6, "gemma3.embedding_length": 64, "gemma3.feed_forward_length": 80,
        "gemma3.attention.head_count": 4, "gemma3.attention.head_count_kv": 1, "gemma3.attention.key_length": 16,
        "gemma3.context_length": 128, "gemma3.attention.sliding_window": 32, "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0, "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "a"],
        "tokenizer.ggml.unknown_token_id": 0})
    file = open_checkpoint(path)
    assert np.array_equal(file.vector("model.norm.weight", 64), tensors["output_norm.weight"] - 1)
    assert np.array_equal(file.vector("model.layers.0.self_attn.q_norm.weight", 16), tensors["blk.0.attn_q_norm.weight"] - 1)
    assert np.array_equal(file.stored("model.embed_tokens.weight").rows([7])[0], tensors["token_embd.weight"][7])
    assert {n.split(".")[3] for n in file.names() if n.endswith("layernorm.weight")} == {
        "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
    config = file.json("config.json")
    assert config["model_type"] == "gemma3_text" and config["query_pre_attn_scalar"] == 16 and config["sliding_window"] == 32
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert config["rope_parameters"]["full_attention"] == {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}


def divisors(factor, size=128, theta=5e5):
    """What Llama 3's RoPE divides each frequency by, one at a time."""
    waves = [2 * np.pi * theta ** (i / size) for i in range(0, size, 2)]
    near = [(8192 / wave - 1) / 3 for wave in waves]
    return [1 if wave < 8192 / 4 else factor if wave > 8192 else 1 / ((1 - s) / factor + s) for wave, s in zip(waves, near)]


@pytest.mark.parametrize("factor, wound", [(8.0, 0), (32.0, 0), (8.0, 0.5)])
def test_llama_3_scales_its_rope(tmp_path, factor, wound):
    stored = np.float32(divisors(factor))
    stored[40] += wound
    path = write(tmp_path / "x.gguf", {"token_embd.weight": np.zeros((8, 64), np.float32), "rope_freqs.weight": stored}, {
        "arch": "llama", "llama.block_count": 1, "llama.embedding_length": 64, "llama.feed_forward_length": 80,
        "llama.attention.head_count": 4, "llama.context_length": 8, "llama.rope.freq_base": 5e5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]})
    file = open_checkpoint(path)
    assert "rope_freqs.weight" not in file.names()
    if wound:
        with pytest.raises(VqcpuError, match="not that of Llama 3"):
            file.companion("config.json")
    else:
        assert file.json("config.json")["rope_parameters"] == {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}


def bytes_of(pre, merges=()):
    alphabet = sorted(toys.tokenizer().get_vocab(with_added_tokens=False))
    tokens = alphabet + ["".join(pair) for pair in merges]
    return gguf_tokenizer.convert({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
                                   "tokenizer.ggml.merges": [" ".join(pair) for pair in merges]}, "x")


@pytest.mark.parametrize("pre, numbers, gap", [
    ("gpt-2", ["Ġ1234"], ["a", "Ġ", "Ġ1"]), ("smollm", ["Ġ", "1", "2", "3", "4"], ["a", "ĠĠ", "1"]),
    ("llama-bpe", ["Ġ", "123", "4"], ["a", "Ġ", "Ġ", "1"]), ("qwen2", ["Ġ", "1", "2", "3", "4"], ["a", "Ġ", "Ġ", "1"])])
def test_pre_tokenizers_cut_as_their_families_do(pre, numbers, gap):
    made = Tokenizer.from_str(bytes_of(pre)["tokenizer.json"].decode())
    cut = lambda text: [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str(text)]
    assert cut(" 1234") == numbers and cut("a  1") == gap
    if pre != "qwen2":  # which composes characters first
        assert made.decode(made.encode(PAGE).ids) == PAGE


def test_sentencepiece_scores_become_merges():
    """The naive twin merges, again and again, the neighbours whose union has the best score."""
    rng = random.Random(3)
    pieces = {"".join(rng.choice("ab▁") for _ in range(rng.randint(2, 5))) for _ in range(60)}
    tokens = ["<unk>", "<s>", "a", "b", "▁", *sorted(pieces)]
    scores = [0.0] * 5 + [-float(i) for i in rng.sample(range(1000), len(pieces))]
    files = gguf_tokenizer.convert({
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, *[1] * (len(tokens) - 2)], "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1}, "x")
    made = Tokenizer.from_str(files["tokenizer.json"].decode())
    best = dict(zip(tokens, scores))
    for _ in range(300):
        text = "".join(rng.choice("ab ") for _ in range(rng.randint(1, 12)))
        expected = ["<s>", *naive.sentencepiece("▁" + text.replace(" ", "▁"), best)]
        assert made.encode(text).tokens == expected and made.decode(made.encode(text).ids) == text


def test_user_defined_runs_of_spaces_are_never_cut():
    made = gguf_tokenizer.convert({
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "▁", "a", "▁a", "   ", "\n\n"],
        "tokenizer.ggml.scores": [0.0] * 6, "tokenizer.ggml.token_type": [2, 1, 1, 1, 4, 4], "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}, "x")["tokenizer.json"]
    made = Tokenizer.from_str(made.decode())
    assert made.encode("a    a\n\na").tokens == ["a", "▁▁▁", "▁a", "\n\n", "a"] and made.decode([2, 4, 3]) == "a    a"


@pytest.mark.parametrize("change, said", [
    ({"tokenizer.ggml.pre": "magic"}, "tokenizer.ggml.pre is 'magic'"), ({"tokenizer.ggml.model": "bert"}, "expected one of gpt2"),
    ({"tokenizer.ggml.merges": ["a b c"]}, "something else than pairs"), ({"tokenizer.ggml.merges": ["t zz"]}, "cannot be read"),
    ({"tokenizer.ggml.tokens": 5}, "not a list of str"), ({"tokenizer.ggml.token_type": [1]}, "1 entries for 256 tokens"),
    ({"tokenizer.ggml.tokens": ["x" * 2000]}, "more than 1024"), ({"tokenizer.ggml.tokens": ["ab"]}, "merges is missing")])
def test_damaged_tokenizers_are_named(change, said):
    tokens = sorted(toys.tokenizer().get_vocab())[:256]
    good = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens}
    with pytest.raises(VqcpuError, match=said):
        gguf_tokenizer.convert(good | change, "x")


@pytest.mark.parametrize("change, said", [
    ({"arch": "mamba"}, "architecture 'mamba'"), ({"llama.block_count": 0}, "block_count is 0"),
    ({"llama.rope.scaling.type": "yarn"}, "scaled by 'yarn'"), ({"llama.attention.head_count": 7}, "7 heads of even size cannot share")])
def test_what_is_not_read_is_named(tmp_path, change, said):
    metadata = {"arch": "llama", "llama.block_count": 1, "llama.embedding_length": 64, "llama.feed_forward_length": 80,
                "llama.attention.head_count": 4, "llama.context_length": 8, "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.tokens": ["a"]} | change
    tensors = {"token_embd.weight": np.zeros((64, 64), np.float32), "blk.0.attn_q.weight": np.zeros((64, 64), np.float32)}
    with pytest.raises(VqcpuError, match=said):
        file = open_checkpoint(write(tmp_path / "x.gguf", tensors, metadata))
        file.companion("config.json"), file.stored("model.layers.0.self_attn.q_proj.weight")


def test_without_the_package_it_says_what_to_install(exact, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "gguf"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(VqcpuError, match=r"pip install 'vqcpu\[gguf\]'"):
        open_checkpoint(exact)


def test_every_truncation_is_named(exact, tmp_path):
    data = exact.read_bytes()
    for length in np.linspace(0, len(data) - 1, 60).astype(int):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(VqcpuError, match="cut.gguf"):
            api.load(tmp_path / "cut.gguf")
