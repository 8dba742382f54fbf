"""What Megatron's GPTDataset reads under each policy: samples, labels and loss masks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split

from megatron_srp import register
from megatron_srp.annotation import load_guard
from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.policies.policy import NAMES, Policy
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.host.policy_hooks import plain_samples
from megatron_srp.training.host.trace import _part
from tests.conftest import random_texts
from tests.helpers.plain_shards import write_shard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SAMPLES = 40


@pytest.fixture(scope="module")
def corpus(tokenizer_models, tmp_path_factory) -> SimpleNamespace:
    """A plain shard, and a function that makes the sidecar of a policy for it."""
    folder = tmp_path_factory.mktemp("policies")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    texts = random_texts(5, 30)

    def shard(name: str, policy: Policy | None) -> Path:
        guard = load_guard("heuristic") if policy else None
        builder = ReflectionIndexedDatasetBuilder(folder / name, tokenizer, guard=guard, policy=policy, max_words=9)
        builder.add_documents(texts)
        builder.finalize()
        return folder / f"{name}_text_document"

    plain = shard("plain", None)

    def sidecar(policy: str, *more: str) -> str:
        prefix = folder / "-".join([Path(policy).stem, *more])
        own = ["--policy", policy, *more, "--max-words", "9", "--output-prefix", str(prefix), "--overwrite"]
        main(["--input-shards", str(plain), "--guard", "heuristic", *own])
        return f"{prefix}_{plain.name}.srp"

    return SimpleNamespace(folder=folder, shard=shard, plain=plain, sidecar=sidecar, tokenizer=tokenizer)


def build(corpus: SimpleNamespace, path: object, cls: type = GPTDataset, **options: Any) -> Any:
    register()
    eos = corpus.tokenizer.eos_id
    own = {"eod": eos, "eos": eos, "pad": -1, "vocab_size": 700, "unique_identifiers": {"class": "T"}}
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=64, blend=([str(path)], None), split="1,0,0", tokenizer=SimpleNamespace(**own),
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
        path_to_cache=str(corpus.folder / "cache"), **options,
    )  # fmt: skip
    return BlendedMegatronDatasetBuilder(cls, [SAMPLES, 0, 0], lambda: True, config).build()[0]


@pytest.mark.parametrize("tokens", ["text", "special"])
@pytest.mark.parametrize("name", [name for name in NAMES if not Policy.load(name).masks])
def test_a_sidecar_gives_the_samples_of_the_builders_shard(corpus, name, tokens):
    view = build(corpus, corpus.sidecar(name, "--reflection-tokens", tokens))
    policy = Policy.load(name, ReflectionFormat(special_tokens=tokens == "special"))
    built = build(corpus, corpus.shard(f"built-{name}-{tokens}", policy))
    assert len(view) == len(built) >= SAMPLES
    for i in range(SAMPLES):
        ours, theirs = view[i], built[i]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("name", ["mask-loss", "quiet-tags"])
def test_what_is_not_learned_is_masked(corpus, name, extra):
    """The mask is compared with the labels of a shard whose tokens are the mask, drawn with the same seed."""
    policy = corpus.folder / "quiet-tags.yaml"
    policy.write_text("name: quiet-tags\nrules: {'Safe, Unsafe': {before: <tag>, learned: false}}")
    path = corpus.sidecar(str(policy) if name == "quiet-tags" else name)
    view = ReflectedIndexedDataset(corpus.plain, path)
    marks = [(view.mask(i) + 1).tolist() for i in range(len(view))]
    masks = build(corpus, write_shard(corpus.folder / f"marks-{name}", marks), add_extra_token_to_sequence=extra)
    tokens = [row.tolist() for row in view[:]]
    plain = build(corpus, write_shard(corpus.folder / f"tokens-{name}", tokens), add_extra_token_to_sequence=extra)
    dataset, masked = build(corpus, path, add_extra_token_to_sequence=extra), 0
    for i in range(SAMPLES):
        assert torch.equal(dataset[i]["tokens"], plain[i]["tokens"])
        assert torch.equal(dataset[i]["labels"], plain[i]["labels"])
        expected = plain[i]["loss_mask"] * (masks[i]["labels"] != 1)
        assert torch.equal(dataset[i]["loss_mask"], expected)
        masked += int((expected == 0).sum())
    assert masked > SAMPLES
    assert dataset[None]["loss_mask"].sum() == 0  # a sample that only fills a batch


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_text_is_read_first(corpus, name):
    path = corpus.sidecar(name, "--start-share", "0.25")
    dataset, treated = build(corpus, path), build(corpus, corpus.sidecar(name))
    plain, begin = build(corpus, corpus.plain), SAMPLES // 4
    assert all(plain_samples(dataset, i) is not None for i in range(begin))
    early, of_plain = (
        [content(samples[i]) for i in range(n)] for samples, n in ((dataset, begin), (plain, len(plain)))
    )
    assert len(set(early)) == begin and set(early) <= set(of_plain)
    late = range(begin, SAMPLES)
    assert [content(dataset[i]) for i in late] == [content(treated[i]) for i in late]


def content(sample: dict[str, torch.Tensor]) -> tuple[Any, ...]:
    """All of a sample: tokens, labels, masks and positions."""
    return tuple((key, tuple(value.flatten().tolist())) for key, value in sorted(sample.items()))


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_names_the_segments_of_any_policy(corpus, name):
    """Piece by piece, whatever its policy writes inside them, and with the verdicts that `srp` has there."""
    path, known = corpus.sidecar(name), ReflectionSidecar.load(corpus.sidecar("srp"))
    view = ReflectedIndexedDataset(corpus.plain, path)
    for sequence in range(len(view)):
        own = known.reflections(sequence, sequence + 1)
        verdicts = [str(known.table.entries[i].label.verdict) for i in own.entries]
        dataset = SimpleNamespace(dataset_path=f"{path}@fingerprint", dataset=view)
        whole = _part(dataset, sequence, 0, int(view.sequence_lengths[sequence]))
        assert whole.segments is not None
        if name != "filter-document" and name != "drop-segment":
            assert whole.segments == tuple(range(len(verdicts)))
        assert [verdicts[number] for number in whole.segments] == list(whole.verdicts)


class OwnSamples(GPTDataset):
    """A dataset that makes its samples itself."""

    def __getitem__(self, idx):
        return {"tokens": super().__getitem__(idx)["tokens"]}


def test_a_dataset_that_reads_samples_itself_cannot_have_a_mask(corpus):
    for policy, need in (
        (("mask-loss",), "mask-loss, needs a loss mask, which OwnSamples does not pass on"),
        (("hide", "--start-share", "0.5"), "hide with --start-share 0.5, needs the plain text"),
    ):
        path = corpus.sidecar(*policy)
        with pytest.raises(UsageError, match=need):
            build(corpus, path, OwnSamples)
        dataset = build(corpus, path)
        with pytest.raises(UsageError, match=need):  # without Megatron's builder
            OwnSamples(dataset.dataset, path, dataset.indices, 9, Split.train, dataset.config)
    assert build(corpus, corpus.sidecar("hide"), OwnSamples) is not None
