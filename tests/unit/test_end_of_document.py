"""Which token ends documents and follows verdicts where an instruct tokenizer's eos ends turns of a chat."""

import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.checkpoints.description import as_trained
from megatron_srp.cli import sft
from megatron_srp.cli.merge import main as merge
from megatron_srp.cli.preprocess import main
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.data.verify.shards import verify_shards
from megatron_srp.errors import UsageError
from megatron_srp.model_description import ModelDescription
from megatron_srp.sft.shard import SftShard
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.tokenization.end_of_document import eos_note
from megatron_srp.training.checks.data import check_shards
from megatron_srp.training.checks.data_record import chat_template_of
from megatron_srp.training.checks.lineage import check_lineage, describe_data, record_data
from megatron_srp.training.datasets.run_tokenizer import RunTokenizer, run_tokenizer
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.refused import check_pad_token
from megatron_srp.training.host.settings import check_data
from tests.helpers.instruct_tokenizer import CHATML, END, EOS, instruct_tokenizer

TEXTS = ["A quiet river. How to build a bomb. Then it rained.", f"A page about {EOS} and {END}.", "It rained."]


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """A tokenizer and, for each of its two tokens, plain shards, shards with reflections and conversations."""
    folder = tmp_path_factory.mktemp("instruct")
    instruct_tokenizer(load_tokenizer(*tokenizer_models["gpt2"]), folder / "t")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    turns = [{"role": "user", "content": "How to build a bomb?"}, {"role": "assistant", "content": "You kill. No."}]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    for name, token in (("text", EOS), ("turn", END)):
        for kind, guard in (("plain", "none"), ("built", "heuristic")):
            assert preprocess(folder, "--eod-token", token, guard=guard, out=f"{kind}_{name}") == 0
        flags = ["--input", str(folder / "chat.jsonl"), "--guard", "heuristic", "--mode", "reflection"]
        flags += ["--tokenizer-model", str(folder / "t"), "--eod-token", token, "--max-words", "2"]
        assert sft.main([*flags, "--output-prefix", str(folder / f"chat_{name}")]) == 0
    return folder


def preprocess(folder: Path, *flags: str, guard: str = "heuristic", out: str = "out") -> int:
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(folder / "t")]
    common = ["--input", str(folder / "a.jsonl"), "--append-eod", "--max-words", "5", "--workers", "1"]
    return main([*common, *tokenizer, "--guard", guard, *flags, "--output-prefix", str(folder / out)])


def ids_of(folder: Path) -> tuple[int, int]:
    """The ids of `<|endoftext|>` and `<|im_end|>`."""
    tokenizer = load_tokenizer("HuggingFaceTokenizer", folder / "t")
    return tokenizer.token_id(EOS), tokenizer.token_id(END)


def manifest(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.srp.json").read_text())


def test_a_chosen_token_changes_no_text(folder, tokenizer):
    own = load_tokenizer("HuggingFaceTokenizer", folder / "t")
    chosen = load_tokenizer("HuggingFaceTokenizer", folder / "t", EOS)
    assert (own.eos_text, own.eod_token, chosen.eos_text, chosen.eod_token) == (END, None, EOS, EOS)
    assert [chosen.encode(text) for text in TEXTS] == [own.encode(text) for text in TEXTS]
    assert chosen.fingerprint == own.fingerprint and chosen.identity == own.identity | {"eod_token": EOS}
    assert own.ending_documents_with(END) is own  # its own eos, in other words
    extended = chosen.save_with_added_tokens(["<think>"], folder / "extended")
    assert extended.eos_text == EOS and extended.vocab_size == own.vocab_size + 1
    with pytest.raises(UsageError, match=r"--eod-token '<\|endoftex\|>': .* has no such token"):
        load_tokenizer("HuggingFaceTokenizer", folder / "t", "<|endoftex|>")


def test_no_page_can_write_the_chosen_token(tokenizer, tmp_path):
    """Where its file declares it an ordinary word; and a piece of the vocabulary is refused by the data job."""
    ordinary = instruct_tokenizer(tokenizer, tmp_path / "t")
    file = tmp_path / "t" / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["added_tokens"][0]["special"] = False
    file.write_text(json.dumps(spec))
    ordinary = load_tokenizer("HuggingFaceTokenizer", tmp_path / "t", EOS)
    assert ordinary.eos_id not in ordinary.encode(EOS) and not ordinary.text_can_be(EOS)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UsageError, match="reads e in a text as its end-of-text token"):
        preprocess(tmp_path, "--eod-token", "e")


def test_a_sentencepiece_token(tokenizer_models, tmp_path):
    own = load_tokenizer(*tokenizer_models["sentencepiece"])
    chosen = own.ending_documents_with("<s>")
    assert (chosen.eos_id, chosen.eos_text, chosen.fingerprint) == (1, "<s>", own.fingerprint)
    assert chosen.encode("A text.") == own.encode("A text.") and own.eos_id == 2
    assert chosen.save_with_added_tokens(["<think>"], tmp_path).eos_id == 1


@pytest.mark.parametrize(
    ("template", "config", "noted"),
    [
        (CHATML, {}, "with which its chat template ends turns. The vocabulary also has <|endoftext|>"),
        (CHATML.replace("'<|im_end|>'", "eos_token"), {}, "with which its chat template ends turns"),
        ("{{ raise_exception('no') }}{# <|im_end|> #}", {}, "with which its chat template ends turns"),
        (None, {}, "it is the tokenizer's eos. The vocabulary also has <|endoftext|>"),
        (CHATML, {"eos_token": EOS}, None),
        (None, {"eos_token": EOS}, None),
        (CHATML, {"eos_token": None}, None),
    ],
)
def test_the_note(template, config, noted, tokenizer, tmp_path):
    note = eos_note(instruct_tokenizer(tokenizer, tmp_path / "t", template, **config))
    assert note is None if noted is None else noted in note and f"--eod-token '{END}'" in note and "\n" not in note


def test_an_end_of_text_that_is_an_ordinary_word_is_no_candidate(tokenizer, tmp_path):
    instruct_tokenizer(tokenizer, tmp_path / "t")
    file = tmp_path / "t" / "tokenizer.json"
    spec = json.loads(file.read_text().replace(EOS, "</s>"))
    spec["added_tokens"][0]["special"] = False  # as in Gemma 3
    file.write_text(json.dumps(spec))
    assert eos_note(load_tokenizer("HuggingFaceTokenizer", tmp_path / "t")) is None


def test_it_is_noted_once_by_the_data_job(folder, capfd):
    for flags, times in (([], 1), (["--eod-token", END, "--overwrite"], 0), (["--guard", "none", "--overwrite"], 1)):
        assert preprocess(folder, *flags) == 0
        assert capfd.readouterr().err.count(f"note: {END} ends documents") == times
    assert manifest(folder, "out")["tokenizer"]["eod_token"] == END


@pytest.mark.parametrize("name", ["text", "turn"])
def test_shards_sidecars_and_conversations(name, folder):
    text, turn = ids_of(folder)
    eod, token = (text, EOS) if name == "text" else (turn, END)
    for kind in ("plain", "built"):
        described = manifest(folder, f"{kind}_{name}")
        assert (described["tokenizer"]["eos_id"], described["tokenizer"]["eod_token"]) == (eod, token)
        assert described["settings"]["tokenizer"].get("eod_token") == (EOS if name == "text" else None)
        assert not verify_shards(str(folder / f"{kind}_{name}")).findings.lines()
    shard = IndexedShard(folder / f"built_{name}_text_document")
    assert [int(shard[i][-1]) for i in range(3)] == [eod] * 3 and (np.asarray(shard.tokens) == eod).sum() == 4
    sidecar = ReflectionSidecar.load(folder / f"built_{name}_text_document.srp")
    assert [entry.ids[-1] for entry in sidecar.table.entries if entry.stop] == [eod]
    ids, mask = SftShard(folder / f"chat_{name}_sft")[0]
    own = ids[(ids == text) | (ids == turn)].tolist()
    assert own == [turn, eod, turn]  # the end of the prompt, the stop after its verdict, the end of the answer
    assert mask[np.isin(ids, [text, turn])].tolist() == [0, 1, 1]
    assert manifest(folder, f"chat_{name}")["tokenizer"]["eod_token"] == token


def test_reflections_for_existing_shards_have_their_token(folder, capfd):
    plain = str(folder / "plain_text_text_document")
    common = ["--input-shards", plain, "--guard", "heuristic", "--max-words", "5"]
    assert main([*common, "--output-prefix", str(folder / "side")]) == 0
    assert "note:" not in capfd.readouterr().err
    view = ReflectedIndexedDataset(plain, folder / "side_plain_text_text_document.srp")
    built = IndexedShard(folder / "built_text_text_document")
    assert np.concatenate(view[:]).tolist() == np.asarray(built.tokens).tolist()
    with pytest.raises(UsageError, match=r"made with the end-of-document token <\|endoftext\|>, not <\|im_end\|>"):
        main([*common, "--eod-token", END, "--output-prefix", str(folder / "no")])
    with pytest.raises(UsageError, match=r"plain_turn.* was made with the end-of-document token <\|im_end\|>, not"):
        main([*common, "--input-shards", plain, str(folder / "plain_turn_text_document"), "--output-prefix", "no"])


def test_shards_of_two_tokens_are_neither_merged_nor_trained_on_together(folder):
    with pytest.raises(UsageError, match=r"tokenizer\.eos_id is"):
        merge([str(folder / "m"), str(folder / "built_text"), str(folder / "built_turn")])
    both = [str(folder / f"built_{name}_text_document") for name in ("text", "turn")]
    with pytest.raises(UsageError, match=r"ends documents with <\|endoftext\|> \(0\), .* with <\|im_end\|> \(\d+\)"):
        check_shards(look_at(["--data-path", *both]))


def run_on(folder: Path, *flags: str) -> Namespace:
    args = look_at([flag.replace("@", f"{folder}/") for flag in flags])
    record_data(args)
    return args


def test_what_a_run_records_and_what_may_follow_it(folder):
    text, _ = ids_of(folder)
    saved = run_on(folder, "--data-path", "@built_text_text_document")
    assert describe_data(saved)["end_of_document"] == {"id": text, "token": EOS}
    good = run_on(folder, "--srp-sft", "@chat_text_sft")
    check_lineage("--load x", saved, good)
    assert (chat_template_of(good.srp_data), chat_template_of(saved.srp_data)) == ("tokenizer", None)
    bad = run_on(folder, "--srp-sft", "@chat_turn_sft")
    with pytest.raises(UsageError) as raised:
        check_lineage("--load x", saved, bad)
    assert f"token {EOS} (0), the conversations have {END}" in str(raised.value)
    assert f"Make them with `srp sft --eod-token '{EOS}'`" in str(raised.value)
    del saved.srp_data["end_of_document"]  # of an earlier version
    with pytest.raises(UsageError, match="was trained with the end-of-document token 0, the shards have"):
        check_lineage("--load x", saved, run_on(folder, "--data-path", "@built_turn_text_document"))


def test_an_exported_model_is_followed_by_its_tokenizer(folder, tokenizer, tmp_path):
    """Data that continue its training need no flag, and an import records the token for what comes after."""
    text, turn = ids_of(folder)
    for name, eod in ((EOS, text), (END, turn)):
        own = tmp_path / str(eod)
        instruct_tokenizer(tokenizer, own)
        description = ModelDescription(None, eod_id=eod)
        description.write(own)
        loaded = load_tokenizer("HuggingFaceTokenizer", own)
        assert (loaded.eos_text, loaded.eos_id) == (name, eod) and eos_note(loaded) is None
        assert load_tokenizer("HuggingFaceTokenizer", own, END).eos_text == END
        imported = Namespace(srp_data=as_trained(description, name), tokenizer_type=None)
        check_lineage(
            "--load x", imported, run_on(folder, "--srp-sft", f"@chat_{'text' if eod == text else 'turn'}_sft")
        )
        with pytest.raises(UsageError, match=f"srp sft --eod-token '{re.escape(name)}'"):
            other = "turn" if eod == text else "text"
            check_lineage("--load x", imported, run_on(folder, "--srp-sft", f"@chat_{other}_sft"))


def test_the_trainers_tokenizer_has_the_shards_token(folder):
    own = Namespace(eod=7, pad=0, vocab_size=9)
    recorded = run_on(folder, "--data-path", "@built_text_text_document").srp_data
    found = run_tokenizer(own, recorded)
    assert isinstance(found, RunTokenizer) and (found.eod, found.pad, found.vocab_size) == (0, 0, 9)
    with pytest.raises(UsageError, match="its pad token is its eos"):
        check_pad_token(found.pad, found.eod, allow_ambiguous_pad_tokens=True)
    own.eod = 0
    assert run_tokenizer(own, recorded) is run_tokenizer(own, {"end_of_document": None}) is own


def test_a_script_of_its_own_takes_the_shards_token(folder):
    """`srp run`: the tokenizer is the script's, with its eos; the datasets read it from their configuration."""
    text, turn = ids_of(folder)
    own = Namespace(library="huggingface", path=str(folder / "t"), eod=turn, pad=text, vocab_size=turn + 1)

    def configured(*names: str, ambiguous: bool = False) -> Namespace:
        paths = [str(folder / f"built_{name}_text_document") for name in names]
        config = Namespace(
            blend=(paths, None), blend_per_split=None, tokenizer=own, allow_ambiguous_pad_tokens=ambiguous
        )
        check_data(config)
        check_data(config)
        return config

    assert configured("text").tokenizer.eod == text and configured("turn").tokenizer is own
    with pytest.raises(UsageError, match="would learn to stop at both"):
        configured("text", "turn")
    with pytest.raises(UsageError, match="its pad token is its eos"):
        configured("text", ambiguous=True)
