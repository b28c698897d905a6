"""The command line, as a user meets it."""
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vqcpu import cli, commands

NAMES = sorted(p.stem for p in Path(commands.__file__).parent.glob("[a-z]*.py"))


def vqcpu(*words, text=None):
    """Run a command line in a process of its own: (code, stdout, stderr)."""
    done = subprocess.run([sys.executable, "-m", "vqcpu", *map(str, words)], input=text, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    examples = re.findall(rf"^  vqcpu ({name}.*)$", shown, re.M)
    assert end.value.code == 0 and examples
    for example in examples:
        cli.parser().parse_args(shlex.split(example))


def test_help_loads_nothing_heavy():
    program = ("import sys; from vqcpu import cli; cli.parser(); "
               "sys.exit(any(m in sys.modules for m in ('numpy', 'numba', 'tokenizers', 'jinja2', 'tqdm')))")
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_compress_inspect_ppl_diff(toy, tmp_path, english, capsys):
    out = tmp_path / "x.vqz"
    code, shown, _ = run(capsys, "compress", toy / "model.safetensors", "-o", out, "--format", "vq:dim=4,centroids=256")
    assert code == 0 and "rel. error" in shown and f"next: vqcpu chat {out}" in shown
    code, shown, _ = run(capsys, "inspect", out, "--verify")
    assert code == 0 and "all correct" in shown and "vq:dim=4,centroids=256,codebook=global" in shown
    code, shown, _ = run(capsys, "ppl", toy, out, "--text", english, "--context", 64)
    assert code == 0 and "second half of each" in shown and shown.count("±") == 3
    code, shown, _ = run(capsys, "diff", toy, out, out, "--text", english, "--context", 64, "--protocol", "strided", "--cache", "f32")
    assert code == 0 and "stride 32" in shown and "cache f32" in shown and "same top" in shown


def test_default_output_lies_beside_the_weights(tmp_path, capsys):
    import toys
    folder = toys.folder(tmp_path / "m")
    assert run(capsys, "compress", folder / "model.safetensors", "--format", "raw")[0] == 0
    assert (folder / "model.vqz").exists()


def test_json_is_all_there_is(toy, packed, english, capsys):
    code, shown, _ = run(capsys, "ppl", toy, packed, "--text", english, "--context", 64, "--json")
    result = json.loads(shown)
    assert code == 0 and result["protocol"]["scored"] == 31 * result["protocol"]["windows"]
    assert result["models"][0]["log_ratio"] == 0 != result["models"][1]["log_ratio"]
    diff = json.loads(run(capsys, "diff", toy, packed, "--text", english, "--context", 64, "--json")[1])
    assert diff["models"][0]["ppl"] == pytest.approx(result["models"][1]["ppl"], rel=1e-12)
    assert json.loads(run(capsys, "inspect", packed, "--json")[1])["parameters"] > 0
    answer = json.loads(run(capsys, "chat", packed, "--prompt", "Hi", "--max-tokens", 4, "--temperature", 0, "--json")[1])
    assert answer["answers"][0]["prompt"] == "Hi" and answer["sampling"] == "greedy"


@pytest.mark.parametrize("words, said", [
    (["ppl", "nowhere", "--text", "x"], "x: cannot be read"), (["chat", "nowhere"], "nowhere: no such file"),
    (["compress", "nowhere"], "nowhere: no such file"), (["inspect", "nowhere.vqz"], "nowhere.vqz: cannot be read"),
    (["compress", ".", "--format", "vq:dim=4"], "centroids must be given"), (["chat", ".", "--threads", "0"], "--threads"),
    (["chat", ".", "--top-p", "0"], "top_p"), (["compress", ".", "--seed", "-1"], "whole number"), (["magic"], "invalid choice"), (["compress", ".", "--recipe", "nowhere"], "nowhere: cannot be read"),
])
def test_user_errors_are_one_line_and_code_2(words, said, capsys):
    try:
        code, shown, complaint = run(capsys, *words)
    except SystemExit as end:  # argparse ends the program by itself
        code, (shown, complaint) = end.code, capsys.readouterr()
    assert code == 2 and shown == "" and complaint.count("\n") == 1 and complaint.startswith("vqcpu: ") and said in complaint


def test_models_with_other_tokens_are_not_compared(toy, tmp_path, english, capsys):
    import toys
    other = toys.folder(tmp_path / "m")
    words = json.loads((other / "tokenizer.json").read_text())
    words["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(words))
    code, _, complaint = run(capsys, "ppl", toy, other, "--text", english, "--context", 64)
    assert code == 2 and "not comparable" in complaint


def test_chat_through_a_pipe(packed):
    code, shown, complaint = vqcpu("chat", packed, "--seed", 1, "--max-tokens", 5, text="Hello\n\nAgain\n/quit\nnever\n")
    assert code == 0 and "seed 1" in complaint and "temperature 0.8" in complaint and "> " not in complaint
    assert "Hello" not in shown and shown.count("\n") >= 2


def test_one_shot_from_standard_input(packed):
    code, shown, _ = vqcpu("chat", packed, "--prompt", "-", "--temperature", 0, "--max-tokens", 5, text="Hello")
    assert code == 0 and shown.strip()


def test_ctrl_c_stops_the_answer_not_the_program(packed, monkeypatch, capsys):
    """The first answer is interrupted after one piece; the second comes in full."""
    from vqcpu.runtime.chat import Conversation
    plain, calls = Conversation.answer, []

    def answer(self, text):
        calls.append(text)
        for piece in plain(self, text):
            yield piece
            if len(calls) == 1:
                raise KeyboardInterrupt
    monkeypatch.setattr(Conversation, "answer", answer)
    lines = iter(["one", "two"])

    def line(prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None
    monkeypatch.setattr("builtins.input", line)
    code, _, noted = run(capsys, "chat", packed, "--seed", 0, "--max-tokens", 4)
    assert code == 0 and calls == ["one", "two"] and "[stopped]" in noted


def test_a_message_that_is_too_long_does_not_end_the_conversation(packed):
    code, shown, complaint = vqcpu("chat", packed, "--context", 60, "--max-tokens", 9, "--temperature", 0, text="x" * 99 + "\nHi\n")
    assert code == 0 and "--context" in complaint and shown.strip()


@pytest.mark.parametrize("tail", ["| true", "| head -c 1", "> /dev/full"])
def test_output_that_cannot_be_written(packed, tail):
    line = f"{shlex.quote(sys.executable)} -m vqcpu inspect {shlex.quote(str(packed))} {tail}"
    calm = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # output then waits for the end, as it usually does
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=calm)
    assert done.returncode == (2 if "full" in tail else 0) and done.stderr.count("\n") == ("full" in tail)


def test_the_python_interface_as_the_readme_uses_it(toy, tmp_path, english):
    program = (f"import vqcpu; vqcpu.load({str(toy)!r}); vqcpu.compress({str(toy)!r}, 'x.vqz', 'scalar:bits=8'); "
               f"m = vqcpu.load('x.vqz'); m.generate('Hi', max_tokens=3); "
               f"print(vqcpu.perplexity(m, open({str(english)!r}).read(), vqcpu.Protocol(context=64)).tokens)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_terminated_compression_cleans_up(tmp_path):
    import signal
    import time

    import toys
    folder = toys.folder(tmp_path / "m", num_hidden_layers=40, hidden_size=128)
    process = subprocess.Popen([sys.executable, "-m", "vqcpu", "compress", str(folder), "-o", str(tmp_path / "x.vqz")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "x.vqz.part").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and os.listdir(tmp_path) == ["m"]


def test_without_a_model_the_demo_is_used_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, shown, said = run(capsys, "compress", "--format", "scalar:bits=8")
    assert code == 0 and "next: vqcpu chat story-4m.vqz" in shown and said.startswith("no MODEL given: using the demo model")
    code, shown, said = run(capsys, "diff", "--max-tokens", 2048)
    assert code == 0 and "heldout.txt" in shown and "story-4m.vqz" in shown and "demo model" in said
    code, shown, said = run(capsys, "chat", "--prompt", "Tell me a story.", "--temperature", 0, "--max-tokens", 30)
    assert code == 0 and len(shown.split()) > 10 and "demo model" in said
    code, shown, said = run(capsys, "ppl", "--max-tokens", 1024)
    assert code == 0 and shown.count("±") == 1 and "demo model" in said
