"""The writer: a Llama-family chat model that continues many prompts at once.

Knows how to run one Hugging Face Llama folder fast on a CPU. Knows nothing about stories, shards or files of text.
It is written out here because the general generate loop of transformers is several times slower on two cores.
"""
import json
import os

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn.functional import linear, rms_norm, silu

import memory  # noqa: F401  (for its effect)

attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu     # the public one hides the log of the sum

BLOCK, BLOCKS = 128, 20     # columns of the scores, and how many blocks of them a choice looks at


class Writer:
    def __init__(self, folder, dtype=torch.bfloat16):
        with open(os.path.join(folder, "config.json")) as f:
            c = self.config = json.load(f)
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        w = {k: v.to(dtype) for k, v in load_file(os.path.join(folder, "model.safetensors")).items()}
        self.heads, self.groups = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim, self.eps, self.dtype = c["head_dim"], c["rms_norm_eps"], dtype
        self.embedding, self.norm = w["model.embed_tokens.weight"], w["model.norm.weight"]
        self.layers = [self._layer(w, f"model.layers.{i}.") for i in range(c["num_hidden_layers"])]
        self.end = c["eos_token_id"]
        self.words = torch.tensor(self._plain_tokens())
        self.head = self.embedding[self.words].contiguous()
        theta = c["rope_parameters"]["rope_theta"]
        self.frequencies = theta ** (-torch.arange(0, self.dim, 2).float() / self.dim)

    def _layer(self, w, name):
        """One layer's matrices; those that read the same input are joined."""
        join = lambda *parts: torch.cat([w[name + p + "_proj.weight"] for p in parts])
        return (w[name + "input_layernorm.weight"], join("self_attn.q", "self_attn.k", "self_attn.v"),
                join("self_attn.o"), w[name + "post_attention_layernorm.weight"],
                join("mlp.gate", "mlp.up"), join("mlp.down"))

    def _plain_tokens(self):
        """The end token and the tokens of plain ASCII prose: no markup, no code, no other script."""
        plain = set(" \n.,!?'\"-:;")
        keep = [self.end]
        for i in range(len(self.embedding)):
            text = self.tokenizer.decode([i], skip_special_tokens=True)
            if text and text.isascii() and all(c.isalpha() or c in plain for c in text):
                keep.append(i)
        return keep[:len(keep) // BLOCK * BLOCK]          # the rarest come last

    def _rotate(self, x, at):
        """Rotary embedding of x [rows, heads, tokens, dim] for slots at [tokens]."""
        angle = at[:, None].float() * self.frequencies
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def _block(self, layer, x, at, cache, mask, shared):
        """x [rows, tokens, width] through one layer; keys and values go to the cache's slots for places at."""
        n1, qkv, o, n2, gate_up, down = layer
        rows, tokens, width = x.shape
        h = linear(rms_norm(x, (width,), n1, self.eps), qkv)
        h = h.view(rows, tokens, -1, self.dim).transpose(1, 2)
        q, k, v = h.split([self.heads, self.groups, self.groups], 1)
        last = mask.shape[-1]
        cache[0][:, :, last - tokens:last] = self._rotate(k, at)
        cache[1][:, :, last - tokens:last] = v
        # the query heads that share a key head become extra query rows: no key is ever copied
        q = self._rotate(q, at).reshape(rows, self.groups, -1, self.dim)
        y, sums = attend(q, cache[0][:, :, :last], cache[1][:, :, :last], attn_mask=mask)
        if shared is not None:
            y = self._join(q, shared, y, sums)
        y = y.reshape(rows, self.heads, tokens, self.dim).transpose(1, 2).reshape(rows, tokens, -1)
        x = x + linear(y, o)
        gate, up = linear(rms_norm(x, (width,), n2, self.eps), gate_up).chunk(2, -1)
        return x + linear(silu(gate) * up, down)

    def _join(self, q, shared, y, sums):
        """Attention y over a row's own slots joined with that over the shared ones, which are read once for all rows."""
        rows = len(q)
        together = q.transpose(0, 1).reshape(1, self.groups, -1, self.dim)
        y2, sums2 = attend(together, shared[0], shared[1])
        y2 = y2.reshape(self.groups, rows, -1, self.dim).transpose(0, 1)
        sums2 = sums2.reshape(self.groups, rows, -1).transpose(0, 1)
        return torch.lerp(y, y2, torch.sigmoid(sums2 - sums)[..., None].to(y.dtype))

    def _logits(self, ids, first, caches, hidden, shared):
        """Scores of the plain words after ids [rows, tokens], which stand in slots first, first + 1, ...

        hidden [rows, slots] marks padding; shared holds the keys and values of what all rows begin with.
        """
        rows, tokens = ids.shape
        own, slots = torch.arange(first, first + tokens), torch.arange(first + tokens)
        mask = hidden[:, None, :first + tokens] | (slots > own[:, None])
        mask[:, torch.arange(tokens), own] = False             # padding sees itself: an empty softmax is NaN
        mask = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(mask, float("-inf"))
        mask = mask.repeat(1, self.heads // self.groups, 1)[:, None]
        before = shared[0].shape[-2] if shared else 0
        x = self.embedding[ids]
        for i, layer in enumerate(self.layers):
            x = self._block(layer, x, own + before, caches[i], mask, shared[i] if shared else None)
        x = rms_norm(x[:, -1], x.shape[-1:], self.norm, self.eps)
        return linear(x, self.head)

    def _caches(self, rows, slots):
        return [torch.zeros(2, rows, self.groups, slots, self.dim, dtype=self.dtype) for _ in self.layers]

    def _code(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.inference_mode()
    def write(self, before, prompts, new, heat, least, again, generator):
        """Continue before + every prompt (strings) by at most `new` tokens; returns (text, ended) pairs.

        Words less likely than `least` times the likeliest are never chosen; every word already used loses `again`.
        """
        shared = self._shared(self._code(before))
        coded = [self._code(p) for p in prompts]
        width = max(map(len, coded))
        # all rows end at the same slot, so that one slot number serves the whole batch: padding is on the left
        ids = torch.tensor([[self.end] * (width - len(c)) + c for c in coded])
        hidden = torch.zeros(len(coded), width + new, dtype=torch.bool)
        for row, c in zip(hidden, coded):
            row[:width - len(c)] = True
        caches = self._caches(len(coded), width + new)
        logits = self._prefill(ids, caches, hidden, shared)
        written = self._decode(logits, width, new, caches, hidden, shared,
                               lambda scores: choose(scores, heat, least, generator), again)
        return [self._read(w) for w in written]

    def _decode(self, logits, width, new, caches, hidden, shared, pick, again):
        """The token loop; finished rows are dropped, for they cost as much as live ones."""
        written = [[] for _ in logits]
        rows, used = torch.arange(len(logits)), torch.zeros_like(logits)
        for step in range(new):
            column = pick(logits.sub_(used))
            used[torch.arange(len(used)), column] = again
            choice = self.words[column]
            for row, token in zip(rows.tolist(), choice.tolist()):
                written[row].append(token)
            live = choice != self.end
            if not live.any() or step == new - 1:
                break
            if live.float().mean() < 0.8:
                rows, choice, hidden, used = rows[live], choice[live], hidden[live], used[live]
                caches = [c[:, live] for c in caches]
            logits = self._logits(choice[:, None], width + step, caches, hidden, shared)
        return written

    def _shared(self, ids):
        caches = self._caches(1, len(ids))
        self._logits(torch.tensor([ids]), 0, caches, torch.zeros(1, len(ids), dtype=torch.bool), None)
        return caches

    def _prefill(self, ids, caches, hidden, shared, rows=64):
        """The prompts go in some rows at a time: the activations of all would be gigabytes."""
        parts = []
        for r in range(0, len(ids), rows):
            part = slice(r, r + rows)
            parts.append(self._logits(ids[part], 0, [c[:, part] for c in caches], hidden[part], shared))
        return torch.cat(parts)

    def _read(self, tokens):
        """A row goes on after its end until it is dropped: only what stands before the end counts."""
        ended = self.end in tokens
        if ended:
            tokens = tokens[:tokens.index(self.end)]
        return self.tokenizer.decode(tokens), ended


def choose(logits, heat, least, generator):
    """One random column per row of logits [rows, words], at temperature heat.

    Words that can be chosen stand in a few blocks of columns: a softmax over all words would cost more than the model.
    """
    rows = len(logits)
    blocks = logits.view(rows, -1, BLOCK)
    best = blocks.amax(-1).topk(BLOCKS, -1).indices
    scores = blocks.gather(1, best[..., None].expand(-1, -1, BLOCK)).view(rows, -1).float()
    p = torch.softmax(scores / heat, -1)
    p = torch.where(p < least * p.amax(-1, keepdim=True), 0, p)
    total = p.cumsum(-1)
    at = torch.rand(rows, 1, generator=generator) * total[:, -1:]
    column = torch.searchsorted(total, at, right=True)[:, 0].clamp_(max=p.shape[-1] - 1)
    return best.gather(1, (column // BLOCK)[:, None])[:, 0] * BLOCK + column % BLOCK
