"""Joined shards are the single run's, whatever the form of the reflections, and nothing else is joined."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards import copying
from megatron_srp.data.shards.indexed_shard import IndexedShard, write_index
from megatron_srp.data.shards.merge import merge_shards
from megatron_srp.data.shards.parts import blends, find_parts
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.commands import SRP

ROOT = Path(__file__).parents[2]
TEXTS = random_texts(71, 90)


def build(prefix, tokenizer, texts, keys=("text",), **settings: Any):
    given: dict[str, Any] = {"guard": KeywordGuard(), "max_words": 8} | settings
    inputs = [{"file": f"{text[:20]}", "fingerprint": text[-20:]} for text in texts]
    builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, keys=keys, settings={"inputs": inputs}, **given)
    for key in keys:
        builder.add_documents(texts if key == "text" else [text[::-1] for text in texts], key)
    return builder.finalize({"inputs": inputs, "skipped_rows": len(texts)})


def files(folder: Path) -> dict[str, bytes]:
    """All files of an output by their names, but for the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".srp.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("form", ["text", "special", "plain", "two keys"])
def test_the_result_is_the_single_runs(tokenizer, tmp_path, form):
    settings: Any = {
        "text": {},
        "special": {"form": ReflectionFormat(special_tokens=True)},
        "plain": {"guard": None},
        "two keys": {"keys": ("text", "summary")},
    }[form]
    for i, (a, b) in enumerate([(0, 30), (30, 31), (31, 90)]):
        build(tmp_path / "parts" / f"p{i}", tokenizer, TEXTS[a:b], **settings)
    expected = build(tmp_path / "single" / "c", tokenizer, TEXTS, **settings)
    parts = find_parts([tmp_path / "parts" / f"p{i}" for i in range(3)])
    manifest = merge_shards(parts, tmp_path / "merged" / "c")
    assert files(tmp_path / "merged") == files(tmp_path / "single")
    assert manifest == json.loads((tmp_path / "merged" / "c.srp.json").read_text())
    assert [source["prefix"] for source in manifest.pop("merged")] == ["p0", "p1", "p2"]
    model = manifest["tokenizer"]["model"].replace(str(tmp_path / "merged"), str(tmp_path / "single"))
    manifest["tokenizer"]["model"] = model
    assert manifest == expected


def test_a_merged_shard_can_be_stripped_and_merged_again(tokenizer, tmp_path):
    for i in range(3):
        build(tmp_path / f"p{i}", tokenizer, TEXTS[i * 30 : i * 30 + 30])
    merge_shards(find_parts([tmp_path / "p0", tmp_path / "p1"]), tmp_path / "m")
    merge_shards(find_parts([tmp_path / "m", tmp_path / "p2"]), tmp_path / "n")
    build(tmp_path / "plain", tokenizer, TEXTS, guard=None)
    strip_reflections(tmp_path / "n", tmp_path / "s")
    assert (tmp_path / "s_text_document.bin").read_bytes() == (tmp_path / "plain_text_document.bin").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "smollm2"}, r"tokenizer\.fingerprint is"),
        ({"append_eod": False}, "append_eod is False, not True"),
        ({"form": ReflectionFormat(special_tokens=True)}, r"tokenizer\.fingerprint is"),
        ({"form": ReflectionFormat(stop_after=frozenset())}, r"reflection\.stop_after is \[\], not"),
        ({"guard": None}, "reflection is None"),
        ({"max_words": 9}, "max_words is 9, not 8"),
        ({"keys": ("summary",)}, "keys is"),
    ],
)
def test_shards_that_differ_are_refused(tokenizer, tokenizer_models, tmp_path, change, message):
    build(tmp_path / "a", tokenizer, TEXTS[:5])
    other = load_tokenizer(*tokenizer_models[change.pop("tokenizer", "gpt2")])
    build(tmp_path / "b", other, TEXTS[5:10], **change)
    with pytest.raises(UsageError, match=f"b does not fit .*a: {message}"):
        merge_shards(find_parts([tmp_path / "a", tmp_path / "b"]), tmp_path / "m")
    assert not list(tmp_path.glob("m*"))


def test_the_same_documents_twice_are_refused(tokenizer, tmp_path):
    for name in "ab":
        build(tmp_path / name, tokenizer, TEXTS[:5])
    with pytest.raises(InputError, match=r"is in .*a and in .*b"):
        merge_shards(find_parts([tmp_path / "a", tmp_path / "b"]), tmp_path / "m")
    with pytest.raises(UsageError, match="a is passed twice"):
        find_parts([tmp_path / "a", f"{tmp_path}/./a"])
    with pytest.raises(UsageError, match="is one of the shards"):
        find_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "a")


@pytest.mark.parametrize("damage", ["bin", "idx", "lengths", "srp"])
def test_files_that_are_not_the_manifests_are_refused(tokenizer, tmp_path, damage):
    build(tmp_path / "a", tokenizer, TEXTS[:5])
    build(tmp_path / "b", tokenizer, TEXTS[5:10])
    build(tmp_path / "x", tokenizer, TEXTS[10:13])
    damaged = tmp_path / f"b_text_document.{damage if damage != 'lengths' else 'idx'}"
    if damage == "lengths":
        data = bytearray(damaged.read_bytes())
        data[34] ^= 1
        damaged.write_bytes(data)
    else:
        shutil.copy(tmp_path / f"x_text_document.{damage}", damaged)
    with pytest.raises(InputError, match=r"are not those its manifest lists|counts .* tokens"):
        merge_shards(find_parts([tmp_path / "a", tmp_path / "b"]), tmp_path / "m")
    assert not list(tmp_path.glob("m_*")) and not (tmp_path / "m.srp.json").exists()


def test_the_room_on_the_disk_is_looked_at_first(tokenizer, tmp_path, monkeypatch):
    build(tmp_path / "a", tokenizer, TEXTS[:5])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=r"GB are needed and 0\.0 GB are free") as error:
        merge_shards(find_parts([tmp_path / "a"]), tmp_path / "m")
    assert error.value.exit_code == 1
    monkeypatch.undo()
    merge_shards(find_parts([tmp_path / "a"]), tmp_path / "m")


def test_the_blend_weighs_by_tokens(tokenizer, tmp_path):
    manifests = [build(tmp_path / name, tokenizer, TEXTS[i * 10 : i * 20 + 10]) for i, name in enumerate("ab")]
    done = subprocess.run(
        [*SRP, "merge", "--print-blend", tmp_path / "a", tmp_path / "b"],
        capture_output=True,
        text=True,
        check=True,
    )
    a, b = (str(manifest["counts"]["tokens"]) for manifest in manifests)
    assert done.stdout.split() == [a, f"{tmp_path}/a_text_document", b, f"{tmp_path}/b_text_document"]


def test_a_blend_may_differ_in_form_but_not_in_tokenizer(tokenizer, tokenizer_models, tmp_path):
    build(tmp_path / "a", tokenizer, TEXTS[:5])
    build(tmp_path / "b", tokenizer, TEXTS[:5], guard=None)
    build(tmp_path / "c", load_tokenizer(*tokenizer_models["smollm2"]), TEXTS[:5])
    assert len(blends(find_parts([tmp_path / "a", tmp_path / "b"]))["text"]) == 4
    with pytest.raises(UsageError, match="tokenizer"):
        blends(find_parts([tmp_path / "a", tmp_path / "c"]))


def test_a_killed_merge_looks_unfinished_and_goes_on(tokenizer, tmp_path):
    """kill -9 at random moments of the tool, then the same command until it ends."""
    for i in range(3):
        build(tmp_path / f"p{i}", tokenizer, TEXTS[i * 30 : i * 30 + 30])
    build(tmp_path / "single" / "m", tokenizer, TEXTS)
    command = [*SRP, "merge", tmp_path / "out" / "m", *(tmp_path / f"p{i}" for i in range(3))]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds, rng = time.monotonic() - started, random.Random(0)
    for _ in range(4):
        shutil.rmtree(tmp_path / "out")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.6, 1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = (tmp_path / "out" / "m.srp.json").exists()
        again = subprocess.run(command, capture_output=True, text=True)  # of a whole one it clears the work folder away
        # Killed between the manifest and the journal's end, it has only the latter left to do.
        assert again.returncode == 0 or (whole and "exists already" in again.stderr), again.stderr
        assert files(tmp_path / "out") == files(tmp_path / "single")


def test_a_merge_goes_on_behind_the_last_finished_part(tokenizer, tmp_path, monkeypatch):
    for i in range(3):
        build(tmp_path / f"p{i}", tokenizer, TEXTS[i * 30 : i * 30 + 30])
    build(tmp_path / "single" / "m", tokenizer, TEXTS)
    parts = find_parts([tmp_path / f"p{i}" for i in range(3)])
    hidden = (tmp_path / "p2_text_document.bin").rename(tmp_path / "hidden")
    with pytest.raises(InputError, match="no such file"):
        merge_shards(parts, tmp_path / "out" / "m")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.srp-work"]
    hidden.rename(tmp_path / "p2_text_document.bin")
    (tmp_path / "p0_text_document.bin").unlink()  # is not read again
    merge_shards(parts, tmp_path / "out" / "m")
    assert files(tmp_path / "out") == files(tmp_path / "single")


def test_copies_keep_holes_and_fall_back_where_the_kernel_cannot(tmp_path, monkeypatch):
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(50_000_000)
        file.write(b"middle" * 100_000)
        file.truncate(90_000_000)
    expected = source.read_bytes()

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    for name in ("kernel", "fallback"):
        with (tmp_path / name).open("w+b", buffering=0) as target:
            target.write(b"before")
            copying.append_file(source, target)
            target.write(b"behind")
        assert (tmp_path / name).read_bytes() == b"before" + expected + b"behind"
        assert copying.allocated(tmp_path / name) < 2_000_000
        monkeypatch.setattr(os, "copy_file_range", refuse)


MEASURED = """
import sys
from megatron_srp.cli import main
try:
    main(["merge", *sys.argv[1:]])
except SystemExit as end:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(end.code, peak.split()[1])
"""


def sparse(prefix: Path, like: dict, documents: int, length: int, name: str) -> None:
    """A finished plain shard whose tokens are one hole, with a last token that is not."""
    shard = Path(f"{prefix}_text_document")
    with shard.with_suffix(".idx").open("wb") as file:
        write_index(file, np.full(documents, length, np.int32), np.dtype(np.uint16))
    with shard.with_suffix(".bin").open("wb") as file:
        file.truncate(2 * documents * length)
        file.seek(-2, os.SEEK_END)
        file.write(np.uint16(len(name)).tobytes())
    counts = {"documents": documents, "plain_tokens": documents * length, "tokens": documents * length}
    entry = like["shards"][0] | counts | {"name": shard.name}
    content = like | {"shards": [entry], "counts": like["counts"] | counts, "inputs": [{"file": name}]}
    Path(f"{prefix}.srp.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("documents", "length"),
    [(30_000, 50_000), pytest.param(400_000, 50_000, marks=pytest.mark.exhaustive)],
    ids=["3B tokens", "40B tokens"],
)
def test_offsets_are_64_bits_and_memory_is_flat(tokenizer, tmp_path, documents, length):
    like = build(tmp_path / "like", tokenizer, TEXTS[:3], guard=None)
    for name in ("a", "bb"):
        sparse(tmp_path / name, like, documents, length, name)
    command = [sys.executable, "-c", MEASURED, tmp_path / "m", tmp_path / "a", tmp_path / "bb"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak_kb = done.stdout.splitlines()[-1].split()
    assert code == "0" and int(peak_kb) < 300_000
    shard = IndexedShard(tmp_path / "m_text_document")
    half, whole = documents * length, 2 * documents * length
    assert len(shard.tokens) == whole > 2**31
    assert shard.pointers[documents] == 2 * half and shard.pointers[-1] == 2 * (whole - length) > 2**32
    assert (shard.tokens[half - 1], shard[-1][-1]) == (1, 2)
    assert (np.diff(shard.pointers) == 2 * length).all()
