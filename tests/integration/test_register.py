"""`register()` in a program of megatron.core alone: what its hooks rely on, and what it refuses."""

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.megatron_dataset import MegatronDataset

from megatron_srp import register
from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.errors import SrpError
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.host import versions
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def corpus(tokenizer_models, tmp_path_factory) -> SimpleNamespace:
    """Plain shards a and b, a sidecar of a in another folder, and a shard with reflections."""
    from megatron_srp.annotation import load_guard

    folder = tmp_path_factory.mktemp("registered")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for name, guard in (("a", None), ("b", None), ("built", load_guard("heuristic"))):
        builder = ReflectionIndexedDatasetBuilder(folder / name, tokenizer, guard=guard, max_words=9)
        builder.add_documents(random_texts(ord(name[0]), 30))
        builder.finalize()
    (folder / "out").mkdir()
    argv = ["--guard", "heuristic", "--max-words", "9", "--output-prefix", str(folder / "out/w9")]
    main(["--input-shards", str(folder / "a_text_document"), *argv])
    size, eos = tokenizer.vocab_size, tokenizer.eos_id
    own = {"eod": eos, "eos": eos, "pad": eos, "vocab_size": size, "unique_identifiers": {"class": "T"}}
    return SimpleNamespace(folder=folder, sidecar=str(folder / "out/w9_a_text_document.srp"), tokenizer=own)


def build(corpus: SimpleNamespace, *paths: str, cls: type = GPTDataset, **options: Any) -> Any:
    """The training dataset of a blend of `paths`; options whose names a tokenizer has are the tokenizer's."""
    register()
    changed = {
        name: options.pop(name) for name in [*options] if name in corpus.tokenizer or name in ("library", "path")
    }
    config = GPTDatasetConfig(
        **{
            "random_seed": 1,
            "sequence_length": 64,
            "blend": ([*paths], [1.0] * len(paths)) if len(paths) > 1 else ([*paths], None),
            "split": "1,0,0",
            "tokenizer": SimpleNamespace(**corpus.tokenizer | changed),
            "reset_position_ids": False,
            "reset_attention_mask": False,
            "eod_mask_loss": False,
            "path_to_cache": str(corpus.folder / "cache"),
            **options,
        }
    )
    return BlendedMegatronDatasetBuilder(cls, [50, 0, 0], lambda: True, config).build()[0]


def test_what_the_hooks_rely_on():
    register()
    for method, names in {
        BlendedMegatronDatasetBuilder.__init__: ["self", "cls", "sizes", "is_built_on_rank", "config"],
        GPTDataset.build_low_level_dataset: ["dataset_path", "config"],
        MegatronDataset.__init__: [
            *("self", "dataset", "dataset_path", "indices", "num_samples", "index_split", "config"),
        ],
    }.items():
        assert list(inspect.signature(method.__wrapped__).parameters) == names, method


def test_a_blend_of_a_sidecar_and_plain_shards(corpus):
    plain = str(corpus.folder / "b_text_document")
    dataset = build(corpus, corpus.sidecar, plain)
    assert [type(part.dataset).__name__ for part in dataset.datasets] == ["ReflectedIndexedDataset", "IndexedDataset"]
    assert dataset.datasets[0].dataset.path_prefix == str(corpus.folder / "a_text_document")
    assert {int(dataset[i]["dataset_id"]) for i in range(50)} == {0, 1}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "positions": ({"reset_position_ids": True}, "--reset-position-ids cannot be used .* Leave it out"),
    "mask": ({"reset_attention_mask": True}, "--reset-attention-mask cannot be used"),
    "pad": ({"allow_ambiguous_pad_tokens": True}, "its pad token is its eos"),
    "end of text": ({"eod": 3}, "end of text 3"),
    "vocabulary": ({"vocab_size": 300}, "the program's has 300 tokens"),
}


@pytest.mark.parametrize("data", ["sidecar", "built"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_settings_that_undo_the_method(corpus, mistake, data):
    options, message = MISTAKES[mistake]
    path = corpus.sidecar if data == "sidecar" else str(corpus.folder / "built_text_document")
    with pytest.raises(SrpError, match=message):
        build(corpus, path, **options)


def test_plain_data_may_be_trained_on_as_their_owner_likes(corpus):
    options = {name: value for options, _ in MISTAKES.values() for name, value in options.items()}
    assert build(corpus, str(corpus.folder / "b_text_document"), **options) is not None


def test_another_tokenizer_of_the_same_size(corpus, tokenizer_models):
    other = str(tokenizer_models["smollm2"][1])
    with pytest.raises(SrpError, match=f"not {other}"):
        build(corpus, corpus.sidecar, library="huggingface", path=other)
    build(corpus, corpus.sidecar, library="huggingface", path=str(tokenizer_models["gpt2"][1]))


def test_paths_that_cannot_be_read(corpus, tmp_path):
    with pytest.raises(SrpError, match=r"nothing.bin and .*nothing.idx do not exist"):
        build(corpus, str(tmp_path / "nothing"))
    with pytest.raises(SrpError, match="no such file; a sidecar is written by"):
        build(corpus, str(tmp_path / "nothing.srp"))
    with pytest.raises(SrpError, match=r"in the shard next to it already; pass that shard, .*built_text_document$"):
        build(corpus, str(corpus.folder / "built_text_document.srp"))
    (tmp_path / "text.srp").write_text("no sidecar")
    with pytest.raises(SrpError, match="not a reflection sidecar"):
        build(corpus, str(tmp_path / "text.srp"))
    with pytest.raises(SrpError, match="MockGPTDataset does not read indexed shards"):
        build(corpus, corpus.sidecar, cls=MockGPTDataset)


def copy(source: Path, target: Path) -> None:
    for suffix in (".bin", ".idx"):
        Path(f"{target}{suffix}").write_bytes(Path(f"{source}{suffix}").read_bytes())


def test_a_shard_next_to_its_sidecar_is_found_first(corpus, tmp_path):
    moved = tmp_path / "w9.srp"
    moved.write_bytes(Path(corpus.sidecar).read_bytes())
    shard = corpus.folder / "a_text_document"
    assert build(corpus, str(moved)).dataset.path_prefix == str(shard)
    copy(shard, tmp_path / shard.name)
    assert build(corpus, str(moved)).dataset.path_prefix == str(tmp_path / shard.name)


def test_a_sidecar_of_another_shard(corpus, tmp_path, monkeypatch):
    """The shard that it was made for is gone; one of its name has other content."""
    from megatron_srp.data.shards import data_path

    header = data_path.read_header(corpus.sidecar)
    header["info"]["shard"]["path"] = str(tmp_path / "gone")
    monkeypatch.setattr(data_path, "read_header", lambda path: header)
    with pytest.raises(SrpError, match=r"its shard is not at .*a_text_document or .*gone"):
        build(corpus, str(tmp_path / "w9.srp"))
    copy(corpus.folder / "b_text_document", tmp_path / "a_text_document")
    with pytest.raises(SrpError, match="made for the shard a_text_document with other content than that of"):
        build(corpus, str(tmp_path / "w9.srp"))


def test_versions(monkeypatch):
    assert versions.host_version().startswith(version("megatron-core"))
    for tested in ("0.19.2", "0.20.0", "0.20.0+gd98e8a64"):
        monkeypatch.setattr(versions, "host_version", lambda tested=tested: tested)
        versions.check_host()
    for other in ("0.18.1", "0.21.0", "1.0"):
        monkeypatch.setattr(versions, "host_version", lambda other=other: other)
        with pytest.raises(SrpError, match=f"megatron-core {other} is installed; .*>=0.19.2,<0.21"):
            versions.check_host()


TOO_LATE = """
from types import SimpleNamespace
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
tokenizer = SimpleNamespace(eod=0, eos=0, pad=-1, vocab_size=9, unique_identifiers={})
resets = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False}
config = GPTDatasetConfig(random_seed=1, sequence_length=8, tokenizer=tokenizer, **resets)
built = BlendedMegatronDatasetBuilder(MockGPTDataset, [2, 0, 0], lambda: True, config).build()
import megatron_srp
megatron_srp.register()
"""


def test_a_program_that_builds_its_datasets_first():
    """And how an error that the program does not catch ends it: in one line."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TOO_LATE], capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if "Warning" not in line and "rror" in line]
    assert (
        errors == [line for line in errors if line.startswith("error: megatron_srp.register() is called after")] != []
    )
