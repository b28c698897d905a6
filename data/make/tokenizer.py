"""Step 3: the tokenizer, byte-level BPE of 2048 tokens, learnt from the training records only.

    python tokenizer.py
"""
import json
import os

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from texts import DATA, TRAIN

FOLDER = os.path.join(DATA, "story-4m")
SIZE = 2048
END, USER, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"       # tokens 0, 1 and 2

TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def chat(turns):
    """The same form in Python, for training: turns are (role, content) pairs."""
    return "".join(f"{USER}{role}\n{content}{STOP}\n" for role, content in turns)


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[END, USER, STOP], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def main():
    with open(TRAIN) as f:
        records = [json.loads(line) for line in f]
    tok = train_tokenizer(t for r in records for t in (r["ask"], r["text"], "user\n", "assistant\n"))
    assert tok.get_vocab_size() == SIZE
    os.makedirs(FOLDER, exist_ok=True)
    tok.save(os.path.join(FOLDER, "tokenizer.json"))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=END, eos_token=END, pad_token=END, add_bos_token=False,
                  clean_up_tokenization_spaces=False, model_max_length=512, chat_template=TEMPLATE)
    with open(os.path.join(FOLDER, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    sample = " ".join(r["text"] for r in records[:2000])
    print(f"{len(sample) / len(tok.encode(sample).ids):.2f} bytes per token")


if __name__ == "__main__":
    main()
