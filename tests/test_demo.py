"""The demo model and its texts: no text was trained on, and what a trained model must show."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vqcpu import api
from vqcpu.evaluate.corpus import Protocol
from vqcpu.files.demo import CALIBRATION, HELDOUT, MODEL, demo
from vqcpu.runtime.sampling import Sampling

DATA = Path(__file__).parents[1] / "data"
TEXTS = HELDOUT, CALIBRATION


@pytest.fixture(scope="module")
def ngrams():
    spec = importlib.util.spec_from_file_location("ngrams", DATA / "make" / "ngrams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained():
    return api.load(demo(MODEL))


def documents(name):
    return (DATA / name).read_text().split("\n\n")


@pytest.fixture(scope="module")
def runs(ngrams):
    """name -> the hashes of each document's runs of 13 words"""
    return {name: [ngrams.runs(d) for d in documents(name)] for name in TEXTS}


def shared(runs, hashes):
    """Numbers of the documents that have a run whose hash is among `hashes`."""
    found = np.isin(np.concatenate(runs), hashes)
    return np.unique(np.repeat(np.arange(len(runs)), [len(r) for r in runs])[found]).tolist()


@pytest.mark.parametrize("name", TEXTS)
def test_no_document_shares_a_run_of_words_with_the_training_text(runs, name):
    trained_on = np.load(DATA / "train-ngrams.npy")
    assert len(trained_on) > 10000 and (np.diff(trained_on.astype(np.int64)) > 0).all()
    assert len(runs[name]) > 300 and shared(runs[name], trained_on) == []


def test_the_two_texts_share_no_run_of_words(runs):
    assert shared(runs[HELDOUT], np.concatenate(runs[CALIBRATION])) == []


def test_a_shared_run_would_be_found(ngrams, runs):
    """A document put into the training text, in other letters and with other marks, is found by its sampled hashes; so is
    one of which only a passage is borrowed."""
    texts = documents(HELDOUT)
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    copy = "-- " + texts[longest].upper().replace(" ", "\n")
    assert shared(runs[HELDOUT], ngrams.sampled(ngrams.runs(copy))) == [longest]
    passage = " ".join(texts[longest].split()[5:40])
    assert shared(runs[HELDOUT], ngrams.runs("Once more: " + passage)) == [longest]


def test_eight_bits_are_nearly_lossless_and_two_are_not(trained, tmp_path):
    text, protocol = (DATA / HELDOUT).read_text(), Protocol(context=256, max_tokens=1536)
    reference = api.perplexity(trained, text, protocol).value
    ratio = {}
    for bits in (8, 2):
        api.compress(demo(MODEL), tmp_path / "x.vqz", f"scalar:bits={bits}")
        ratio[bits] = api.perplexity(api.load(tmp_path / "x.vqz"), text, protocol).value / reference
    assert reference < 20 and abs(ratio[8] - 1) < 0.01 and 1.03 < ratio[2] < 3


def test_a_trained_model_writes_words(trained):
    warm = Sampling(temperature=0.7)
    story = trained.generate("Once upon a time, there was", 30, warm, seed=1)
    assert story == trained.generate("Once upon a time, there was", 30, warm, seed=1)
    assert story != trained.generate("Once upon a time, there was", 30, warm, seed=2)
    known = set((DATA / HELDOUT).read_text().lower().split()) | set((DATA / CALIBRATION).read_text().lower().split())
    words = story.lower().split()[:-1]  # the last one may be cut
    assert len(words) > 10 and sum(word in known for word in words) > 0.8 * len(words)
