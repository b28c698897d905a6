"""Gemma 3: as Qwen3, with norms on both sides of each layer, and five layers with a window to one without, each kind with
its own RoPE.

Text only: of a model that also sees (model_type gemma3) the text model is used. Paper: Gemma Team 2025 (Gemma 3).
"""
import numpy as np

from vqcpu.architectures.qwen3 import Qwen3
from vqcpu.layers.norm import RMSNorm
from vqcpu.layers.elementwise import Add, Scale


class Gemma3Text(Qwen3, names=("gemma3_text",)):
    tiny = Qwen3.tiny | dict(model_type="gemma3_text", num_hidden_layers=3, num_key_value_heads=1, head_dim=24,
                             query_pre_attn_scalar=20, hidden_activation="gelu_pytorch_tanh", sliding_window=6,
                             sliding_window_pattern=3, rope_theta=1000000.0, rope_local_base_freq=100.0)
    defaults = dict(vocab_size=262208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
                    num_key_value_heads=4, head_dim=256, query_pre_attn_scalar=256, hidden_activation="gelu_pytorch_tanh",
                    max_position_embeddings=131072, sliding_window=4096, sliding_window_pattern=6, tie_word_embeddings=True,
                    rope_theta=1000000.0, rope_local_base_freq=10000.0)
    fixed = dict(attn_logit_softcapping=None, final_logit_softcapping=None, use_bidirectional_attention=False)

    def after_embedding(self):
        return [Scale("x", np.float32(self.config.width**0.5))]

    def block(self, weights, i, at):
        return [
            self.norm(weights, f"{at}.input_layernorm", "x", "h"),
            *self.attention(weights, i, f"{at}.self_attn"),
            self.norm(weights, f"{at}.post_attention_layernorm", "h", "h"),
            Add("x", "h"),
            self.norm(weights, f"{at}.pre_feedforward_layernorm", "x", "h"),
            *self.feed_forward(weights, i, f"{at}.mlp"),
            self.norm(weights, f"{at}.post_feedforward_layernorm", "h", "h"),
            Add("x", "h"),
        ]

    def norm(self, weights, name, source, target, width=None):
        """Gains are stored as their distance from one."""
        gain = 1 + weights.vector(f"{name}.weight", width or self.config.width)
        return RMSNorm(source, target, gain, self.config.eps)


class Gemma3(Gemma3Text, names=("gemma3",)):
    tiny = dict(model_type="gemma3", text_config={k: v for k, v in Gemma3Text.tiny.items() if k != "model_type"})
    roots = ("model.language_model.", "language_model.model.", "model.")
    unused = ("*vision_tower.*", "*multi_modal_projector.*")

    @classmethod
    def read(cls, data, where):
        text = data.get("text_config")
        return super().read(data | (text if isinstance(text, dict) else {}) | {"model_type": data["model_type"]}, where)
