"""`srp trace` compared with reading the run's own dataset sample by sample."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron_srp import register
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.cli.trace import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import SrpError
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.host.readings import CONFIG_FIELDS, Reading, append_reading, load_readings
from megatron_srp.training.host.trace import Trace
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
BATCH, LENGTH, NUM_SAMPLES = 4, 96, 120


@pytest.fixture(scope="module")
def run(tokenizer_models, tmp_path_factory) -> SimpleNamespace:
    """A blend of a sidecar and a plain shard for several epochs, as a run would build it, and three starts: from
    scratch, from step 10 after a kill at 14, and from step 20."""
    folder = tmp_path_factory.mktemp("traced@2")  # Megatron's name of a sidecar has an @ too
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for seed, name in enumerate("ab"):
        builder = ReflectionIndexedDatasetBuilder(folder / name, tokenizer, guard=None)
        builder.add_documents(random_texts(seed, 14, 120))
        builder.finalize()
    shard, plain = (str(folder / f"{name}_text_document") for name in "ab")
    guard = ["--guard", "heuristic", "--max-words", "15", "--output-prefix", str(folder / "w15")]
    preprocess(["--input-shards", shard, *guard])
    sidecar = str(folder / "w15_a_text_document.srp")
    register()
    eos = tokenizer.eos_id
    own = SimpleNamespace(eod=eos, eos=eos, pad=-1, vocab_size=tokenizer.vocab_size, unique_identifiers={})
    resets = dict.fromkeys(("reset_position_ids", "reset_attention_mask", "eod_mask_loss"), False)
    blend = ([sidecar, plain], [0.7, 0.3])
    config = GPTDatasetConfig(
        random_seed=5, sequence_length=LENGTH, blend=blend, split="90,10,0", tokenizer=own,
        path_to_cache=str(folder / "cache"), **resets,
    )  # fmt: skip
    dataset = BlendedMegatronDatasetBuilder(GPTDataset, [NUM_SAMPLES, 4, 0], lambda: True, config).build()[0]
    fields = {field: getattr(config, field) for field in CONFIG_FIELDS}
    from megatron_srp.data.shards.sidecar import read_header

    for iteration in (0, 10, 20):
        start = Reading(iteration, iteration * BATCH, BATCH, "single", [NUM_SAMPLES, 4, 0], fields,
                        {sidecar: read_header(sidecar)["fingerprint"]})  # fmt: skip
        append_reading(folder / "save", start)
    low_level = {sidecar: ReflectedIndexedDataset(shard, sidecar), plain: dataset.datasets[1].dataset}
    return SimpleNamespace(save=folder / "save", dataset=dataset, low_level=low_level, sidecar=sidecar, plain=plain)


def tokens_of(run: SimpleNamespace, sample: int) -> np.ndarray:
    read = run.dataset[sample]
    return np.concatenate([read["tokens"].numpy(), read["labels"].numpy()[-1:]])


def test_the_documents_of_every_sample_are_what_it_reads(run):
    trace = Trace(load_readings(run.save))
    for sample in range(NUM_SAMPLES):
        parts = trace.parts(sample // BATCH + 1, sample % BATCH)
        read = [run.low_level[p.path].get(p.sequence, offset=p.begin, length=p.end - p.begin) for p in parts]
        assert np.array_equal(np.concatenate(read), tokens_of(run, sample))


def test_a_document_is_read_where_its_samples_say(run):
    """Every use of every document, against the documents of all samples."""
    trace = Trace(load_readings(run.save))
    expected = defaultdict(list)
    for sample in range(NUM_SAMPLES):
        step, number = sample // BATCH + 1, sample % BATCH
        for part in trace.parts(step, number):
            expected[part.path, part.sequence].append((step, number, part.begin, part.end))
    assert len(expected) > 15
    for (path, sequence), places in expected.items():
        uses = [(use.step, use.sample, use.begin, use.end) for use in trace.uses(path, sequence)]
        assert uses == sorted(places)


def test_verdicts_are_those_written_in_the_tokens(run, tokenizer):
    """A reflection that is in the tokens as a whole is among those that are named."""
    trace = Trace(load_readings(run.save))
    seen = 0
    for step in range(1, NUM_SAMPLES // BATCH + 1):
        for part in trace.parts(step, 0):
            if part.path != run.sidecar:
                assert part.segments is None
                continue
            text = tokenizer.decode(run.low_level[part.path].get(part.sequence, part.begin, part.end - part.begin))
            written = [piece.split()[0].rstrip(":") for piece in text.split("<think>")[1:] if "</think>" in piece]
            assert part.segments is not None and len(part.segments) == len(part.verdicts)
            named = " ".join(part.verdicts)
            assert " ".join(written) in named
            seen += len(written)
    assert seen > 20


def test_the_command(run, capsys):
    main([str(run.save), "--step", "3", "--sample", "1", "--json"])
    printed = capsys.readouterr()
    assert printed.err == f"next: srp trace {run.save} --document PATH:N lists the steps that read a document\n"
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert sum(end - begin for begin, end in (record["tokens"] for record in records)) == LENGTH + 1
    for path in (records[0]["path"], Path(records[0]["path"]).name):
        main([str(run.save), "--document", f"{path}:{records[0]['document']}"])
        printed = capsys.readouterr()
        assert "step 3 sample 1: tokens" in printed.out
        assert printed.err == f"next: srp trace {run.save} --step N lists what else a step read\n"


def test_a_document_that_is_not_trained_on(run, capsys):
    main([str(run.save), "--document", f"{run.sidecar}:13"])  # the last one is for validation
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{run.sidecar}:13: in no step of the run\n"


def test_a_document_that_does_not_exist(run):
    with pytest.raises(SrpError, match=":14: it has the documents 0 to 13"):
        main([str(run.save), "--document", f"{run.sidecar}:14"])


MISTAKES = {
    "--step 0": "steps are counted from 1",
    "--step 31": "the run has 30 steps",
    "--step 2 --sample 4": "step 2 has the samples 0 to 3",
    "--document nowhere:1": "the run reads ",
    "--document nowhere": "pass a data path of the run and a number",
    "": "pass --step N, or --document",
}


@pytest.mark.parametrize("argv", MISTAKES)
def test_mistakes(run, argv):
    with pytest.raises(SrpError, match=MISTAKES[argv]):
        main([str(run.save), *argv.split()])
    with pytest.raises(SrpError, match="pass the --save folder of a run"):
        main([str(Path(run.plain)), "--step", "1"])
