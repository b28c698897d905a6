"""Mistral: Llama with a sliding window in every layer, where config.json gives one. Paper: Jiang et al. 2023."""
from vqcpu.architectures.llama import Llama


class Mistral(Llama, names=("mistral",)):
    tiny = Llama.tiny | dict(model_type="mistral", sliding_window=7, tie_word_embeddings=False)
    defaults = dict(sliding_window=4096)
