"""A chat guard that sees the text before a segment."""

import json

import numpy as np
import pyarrow as pa
import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.errors import SrpError, UsageError

CPU = {"device": "cpu", "batch_tokens": 2_000}
TEXTS, CONTEXTS = [" The house.", "A knife", " 9"], ["The river rises.", "", '"Quoted"']


@pytest.fixture(scope="module")
def guard(tiny_guard):
    return load_guard("qwen3guard", GuardOptions(str(tiny_guard), engine_options=CPU, context_words=4))


def test_prompts_are_those_of_a_conversation(guard, tiny_guard):
    found = guard.builder.build_in_context(pa.array(TEXTS, pa.large_string()), CONTEXTS, answer=False)
    for ids, text, context in zip(found, TEXTS, CONTEXTS, strict=True):
        turns = guard.spec.conversation("response", context, text)
        whole = guard.builder.tokenizer.render(turns, guard.spec.template, guard.spec.generation_prompt)
        assert ids.tolist() == guard.builder.tokenizer.encode_template(whole)


def test_settings_record_it_and_modes_without_a_turn_refuse_it(guard, tiny_guard):
    assert (guard.settings["context_words"], guard.settings["mode"]) == (4, "response")
    with pytest.raises(UsageError, match="pass --guard-mode response"):
        load_guard("qwen3guard", GuardOptions(str(tiny_guard), mode="prompt", context_words=4))


def test_a_context_without_room_is_left_out(guard):
    texts = pa.array(TEXTS, pa.large_string())
    long = "word " * guard.engine.max_length
    found = guard.results_in_context(texts, [CONTEXTS[0], long, CONTEXTS[2]])
    alone = guard.results_in_context(texts, [CONTEXTS[0], "", CONTEXTS[2]])
    assert [one.label for one in found] == [one.label for one in alone]
    assert np.allclose([one.score for one in found], [one.score for one in alone], atol=1e-4)


def test_a_resumed_store_needs_the_same_context(tiny_guard, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "The river rises. The house. A knife."}) + "\n")
    flags = ["--input", str(tmp_path / "in.jsonl"), "--guard", "qwen3guard", "--guard-model", str(tiny_guard)]
    flags += ["--guard-option", "device=cpu", "--max-words", "3", "--store", str(tmp_path / "store")]
    assert annotate([*flags, "--context-words", "4", "--max-failure-rate", "1"]) == 0
    with pytest.raises(SrpError, match="context_words"):
        annotate([*flags, "--context-words", "5"])


def test_an_estimate_counts_the_tokens_of_the_context(tiny_guard, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text((json.dumps({"text": "The river rises. The house. A knife."}) + "\n") * 9)
    flags = ["--input", str(tmp_path / "in.jsonl"), "--guard", "qwen3guard", "--guard-model", str(tiny_guard)]
    flags += ["--guard-option", "device=cpu", "--max-words", "3", "--estimate", "9"]

    def tokens(*more):
        assert annotate([*flags, *more]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tokens per segment: ")]
        assert line.endswith(f"{' with the words before it' if more else ''}, without the guard's prompt")
        return float(line.split()[3].rstrip(","))

    assert tokens("--context-words", "4") > tokens()
