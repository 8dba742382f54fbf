"""Training on plain shards and their sidecars, here or on S3, is training on the shards with reflections."""

import json
import os
from pathlib import Path

from megatron_srp.cli.preprocess import main
from tests.distributed.jobs import Forkserver, Run
from tests.helpers.hinted import MAX_WORDS, make_hinted_corpus
from tests.helpers.object_store import BUCKET, running_store

NUM_STEPS = 6
FLAGS = ["--srp-preset", "debug", "--seq-length", "128", "--micro-batch-size", "2", "--global-batch-size", "4"]
FLAGS += ["--train-iters", str(NUM_STEPS), "--tensor-model-parallel-size", "2", "--num-workers", "1"]


def data_flags(folder: Path | str, kind: str) -> list[str]:
    data = [f"{folder}/{kind}_{name}_text_document" for name in "ab"]
    sidecars = ["--srp-sidecar", *(f"{folder}/w20_plain_{name}_text_document.srp" for name in "ba")]
    return ["--data-path", "0.6", data[0], "0.4", data[1], *(sidecars if kind == "plain" else [])]


def losses_of(forkserver: Forkserver, run: Run, data: list[str], env: dict[str, str] | None = None) -> dict[int, float]:
    finished = forkserver.run(2, [*FLAGS, *data, *run.flags], env=env)
    assert finished.codes == [0, 0], finished.log
    return run.losses()


def test_losses_are_those_of_the_built_shards(two_corpora: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    built = losses_of(forkserver, Run(tmp_path / "built"), data_flags(two_corpora, "built"))
    assert sorted(built) == list(range(1, NUM_STEPS + 1))
    assert losses_of(forkserver, Run(tmp_path / "plain"), data_flags(two_corpora, "plain")) == built
    with running_store() as client:
        for path in filter(Path.is_file, two_corpora.glob("*plain_*")):
            client.upload_file(str(path), BUCKET, f"two/{path.name}")
        cache = ["--no-mmap-bin-files", "--object-storage-cache-path", str(tmp_path / "cache")]
        data = [*data_flags(f"s3://{BUCKET}/two", "plain"), *cache]
        env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        assert losses_of(forkserver, Run(tmp_path / "s3"), data, env) == built


def test_hints_are_trained_on_through_a_sidecar(tokenizer_models, forkserver: Forkserver, tmp_path: Path) -> None:
    corpus = make_hinted_corpus(tmp_path)
    kind, model = tokenizer_models["gpt2"]
    texts = ["--input", str(corpus / "a.jsonl"), str(corpus / "b.jsonl"), "--append-eod"]
    texts += ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--max-words", MAX_WORDS]
    stored = ["--store", str(corpus / "store"), "--hints"]
    main([*texts, *stored, "--output-prefix", str(tmp_path / "built")])
    main([*texts, "--guard", "none", "--output-prefix", str(tmp_path / "plain")])
    plain = str(tmp_path / "plain_text_document")
    main(["--input-shards", plain, *stored, "--max-words", MAX_WORDS, "--output-prefix", str(tmp_path / "side")])
    assert json.loads((tmp_path / "side.srp.json").read_text())["counts"]["hints"] > 50
    sidecar = ["--srp-sidecar", str(tmp_path / "side_plain_text_document.srp")]
    losses = {}
    for name, data in (
        ("built", [str(tmp_path / "built_text_document")]),
        ("side", [plain, *sidecar]),
    ):
        run = Run(tmp_path / name)
        argv = [*FLAGS, "--tensor-model-parallel-size", "1", "--train-iters", "3", "--data-path", *data, *run.flags]
        finished = forkserver.run(1, argv)
        assert finished.codes == [0], finished.log
        losses[name] = run.losses()
    assert sorted(losses["built"]) == [1, 2, 3]
    assert losses["side"] == losses["built"]


def test_a_sidecar_of_another_shard_stops_every_rank(two_corpora: Path, forkserver: Forkserver) -> None:
    argv = [*FLAGS, "--data-path", str(two_corpora / "plain_a_text_document")]
    finished = forkserver.run(2, [*argv, "--srp-sidecar", str(two_corpora / "w20_plain_b_text_document.srp")])
    assert finished.codes[0] == 2
    (line,) = [line for line in finished.log.splitlines() if line.startswith("error")]
    assert "made for the shard plain_b_text_document with other content" in line
    assert "Traceback" not in finished.log
