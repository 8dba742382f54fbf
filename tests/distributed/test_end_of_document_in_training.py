"""The end-of-document token that was chosen for the data, on its way through training to the exported model."""

import json
from pathlib import Path

from megatron_srp.cli import sft
from megatron_srp.cli.preprocess import main
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.toy_corpus.chat import write_chat
from megatron_srp.toy_corpus.corpus import texts, train_tokenizer
from tests.distributed.jobs import Forkserver
from tests.helpers.instruct_tokenizer import END, EOS, instruct_tokenizer

SMALL = ["--srp-preset", "debug", "--num-layers", "2", "--hidden-size", "64", "--ffn-hidden-size", "192"]
SMALL += ["--seq-length", "192", "--max-position-embeddings", "192", "--global-batch-size", "4"]
SMALL += ["--train-iters", "1", "--save-interval", "1", "--eod-mask-loss"]


def conversations(folder: Path, token: str) -> str:
    name = "text" if token == EOS else "turn"
    argv = ["--input", str(folder / "chat.jsonl"), "--guard", "heuristic", "--mode", "reflection", "--max-words", "20"]
    argv += ["--tokenizer-model", str(folder / "t"), "--eod-token", token, "--seq-length", "192"]
    assert sft.main([*argv, "--output-prefix", str(folder / name)]) == 0
    return str(folder / f"{name}_sft")


def test_from_the_shard_to_the_model(forkserver: Forkserver, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.generation.engines.hf.model import GuardedModel

    train_tokenizer(tmp_path / "plain", vocab_size=512)
    tokenizer = instruct_tokenizer(load_tokenizer("HuggingFaceTokenizer", tmp_path / "plain"), tmp_path / "t")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(30)))
    write_chat(tmp_path / "chat.jsonl", 20)
    argv = ["--input", str(tmp_path / "a.jsonl"), "--tokenizer-type", "HuggingFaceTokenizer", "--guard", "heuristic"]
    argv += ["--tokenizer-model", str(tmp_path / "t"), "--append-eod", "--eod-token", EOS]
    assert main([*argv, "--output-prefix", str(tmp_path / "corpus")]) == 0

    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    data = ["--data-path", str(tmp_path / "corpus_text_document"), "--save", str(pretrained)]
    finished = forkserver.run(1, [*SMALL, *data])
    assert finished.codes == [0], finished.log
    start = [*SMALL, "--pretrained-checkpoint", str(pretrained), "--save", str(tuned), "--srp-sft"]
    finished = forkserver.run(1, [*start, conversations(tmp_path, END)])
    assert finished.codes == [2] and f"Make them with `srp sft --eod-token '{EOS}'`" in finished.log, finished.log
    finished = forkserver.run(1, [*start, conversations(tmp_path, EOS)])
    assert finished.codes == [0], finished.log

    text, turn = tokenizer.token_id(EOS), tokenizer.token_id(END)
    for folder in (pretrained, tuned):
        export_hf(folder, folder / "model")
        for name in ("config.json", "generation_config.json"):
            assert json.loads((folder / "model" / name).read_text())["eos_token_id"] == [text, turn], name
    model = GuardedModel(str(tuned / "model"), device="cpu")
    assert {text, turn} <= model.vocabulary.eos_ids
    assert "<|im_start|>" in model.tokenizer.chat_template
