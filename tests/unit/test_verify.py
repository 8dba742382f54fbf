"""Planted damage of every kind is found, in the sequence it was planted in, with and without checksums."""

import contextlib
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.verify.shards import verify_shards
from megatron_srp.errors import InputError, SrpError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.commands import srp
from tests.helpers.damage import (
    DAMAGE,
    TEXTS,
    N,
    break_reflection,
    edit,
    edit_index,
    edit_manifest,
    edit_tokens,
    name,
    put,
    swap,
)


def build(prefix: Path, tokenizer, texts=TEXTS, guard=KeywordGuard(), **settings) -> Path:  # noqa: B008
    builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, guard=guard, max_words=8, **settings)
    builder.add_documents(texts)
    builder.finalize()
    return prefix


@pytest.fixture(scope="module")
def originals(tokenizer_models, tmp_path_factory) -> Path:
    """c, other: reflected; plain: of the texts of c; special: with tokens of its own. In shards of one folder."""
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    build(folder / "c", tokenizer)
    build(folder / "other", tokenizer, random_texts(62, N, most_words=80))
    build(folder / "plain", tokenizer, guard=None)
    build(folder / "special", tokenizer, form=ReflectionFormat(special_tokens=True))
    return folder


@pytest.fixture
def folder(originals, tmp_path) -> Path:
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "structure"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_planted_damage_is_found(kind, checksums, folder):
    damage, expected = DAMAGE[kind]
    if not checksums:
        edit_manifest(lambda manifest: manifest.pop("files"))(folder)
    assert not verify_shards(folder / "c").findings
    damage(folder)
    findings = verify_shards(folder / "c").findings
    lines = findings.lines()
    assert any(re.search(expected, line) for line in lines), lines
    assert len(lines) <= 20
    changed_file = kind != "wrong tokenizer" and "manifest" not in kind
    assert any(re.search("checksum|bytes, but its manifest|no such", line) for line in lines) >= (
        checksums and changed_file
    )


@pytest.mark.parametrize("shard", ["c", "other", "plain", "special"])
def test_whole_shards_are_clean(shard, folder):
    check = verify_shards(folder / shard)
    assert check.findings.lines() == [] and check.findings.unchecked == []
    assert len(check.shards) == 1 and f"{N} sequences" in check.shards[0]
    assert verify_shards(folder / f"{shard}_text_document").shards == check.shards  # its manifest is found


def test_every_tokenizer_family_is_clean(any_tokenizer, tmp_path):
    for form in (ReflectionFormat(), ReflectionFormat(special_tokens=True), ReflectionFormat(controversial="safe")):
        prefix = tmp_path / str(form.special_tokens) / form.controversial
        for append_eod in (True, False):
            build(prefix, any_tokenizer, form=form, append_eod=append_eod, overwrite=True)
            check = verify_shards(prefix)
            assert check.findings.lines() == [] and check.findings.unchecked == []


def test_stray_marks_among_special_tokens(folder):
    path = folder / name("bin", "special")
    tokens = np.fromfile(path, np.uint16)
    shard = IndexedShard(folder / "special_text_document")
    mark = json.loads((folder / "special.srp.json").read_text())["tokenizer"]["vocab_size"] - 1
    tokens[int(shard.pointers[6]) // 2] = mark
    tokens.tofile(path)
    assert any(
        f"sequence 6 has the token {mark}, made for" in line
        for line in verify_shards(folder / "special").findings.lines()
    )


def test_a_moved_tokenizer(folder, tokenizer_models):
    edit_manifest(lambda manifest: manifest["tokenizer"].update(model="/nowhere/tokenizer"))(folder)
    check = verify_shards(folder / "c")
    assert not check.findings and "pass --tokenizer-model" in check.findings.unchecked[0]
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    assert not verify_shards(folder / "c", tokenizer=tokenizer).findings.unchecked
    assert verify_shards(folder / "c", tokenizer=load_tokenizer(*tokenizer_models["llama3"])).findings


def test_a_tokenizer_beside_the_shards_moves_with_them(folder):
    path = folder / "special.srp.json"
    manifest = json.loads(path.read_text())
    manifest["tokenizer"]["model"] = "/gone/special_tokenizer"
    path.write_text(json.dumps(manifest))
    check = verify_shards(folder / "special")
    assert check.findings.lines() == [] and check.findings.unchecked == []
    (folder / "special_tokenizer" / "tokenizer.json").unlink()
    assert any(
        "special_tokenizer/tokenizer.json: no such file" in line
        for line in verify_shards(folder / "special").findings.lines()
    )


def test_a_shard_without_a_manifest(folder, tokenizer_models):
    (folder / "c.srp.json").unlink()
    check = verify_shards(folder / "c_text_document")
    assert not check.findings
    assert [line.split(":")[0] for line in check.findings.unchecked] == [
        "counts, checksums and settings",
        "the range of tokens",
    ]
    break_reflection(folder)
    assert "sequence 9 does not hold" in verify_shards(folder / "c_text_document").findings.lines()[0]
    (folder / "c_text_document.srp").unlink()
    assert not verify_shards(folder / "c_text_document").findings
    edit_tokens(lambda t, s: t.__setitem__(s[17] + 2, 65535))(folder)
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    assert "sequence 17 has" in verify_shards(folder / "c_text_document", tokenizer=tokenizer).findings.lines()[0]
    with pytest.raises(InputError, match="nothing: neither"):
        verify_shards(folder / "nothing")


@pytest.mark.parametrize("shard", ["plain", "elsewhere"])
def test_sidecars_with_a_manifest_of_their_own(folder, shard):
    """As made for shards that exist already: the shard itself is of no concern to the manifest."""
    sidecar = dataclasses.replace(ReflectionSidecar.load(folder / name("srp")), materialized=False)
    manifest = json.loads((folder / "c.srp.json").read_text()) | {"files": None, "shards": []}
    counts = json.loads((folder / "c.srp.json").read_text())["shards"][0]
    manifest["sidecars"] = [counts | {"name": "side"}]
    made_for = {"name": f"{shard}_text_document"}

    def lines(**changes) -> list[str]:
        (folder / "side.srp").unlink(missing_ok=True)
        (folder / "side.srp.json").write_text(json.dumps(manifest))
        dataclasses.replace(sidecar, info=sidecar.info | {"shard": made_for}, **changes).save(folder / "side.srp")
        check = verify_shards(folder / "side")
        assert any("whether it fits" in line for line in check.findings.unchecked) == (shard == "elsewhere")
        return check.findings.lines()

    assert lines() == []
    cuts = put(int(sidecar.offsets[12]) - 2, sidecar.cuts[sidecar.offsets[12] - 1] + 1)(sidecar.cuts)
    assert "sequence 11 has the reflection" in lines(cuts=cuts)[0]
    manifest["sidecars"][0]["segments"] += 1
    assert "segments of side are" in lines()[0]
    (folder / "side.srp").write_bytes(b"")
    assert "side.srp: not a reflection sidecar" in verify_shards(folder / "side").findings.lines()[0]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_sidecar_beside_a_plain_shard(folder, manifest):
    sidecar = ReflectionSidecar.load(folder / name("srp"))
    path = folder / name("srp", "plain")
    if not manifest:
        (folder / "plain.srp.json").unlink()

    def lines(**changes) -> list[str]:
        path.unlink(missing_ok=True)
        dataclasses.replace(sidecar, materialized=False, **changes).save(path)
        return verify_shards(folder / "plain_text_document").findings.lines()

    assert lines() == []
    assert "sequence 11 has the reflection" in lines(cuts=put(int(sidecar.offsets[12]) - 1, 99999)(sidecar.cuts))[0]
    assert "not at its end" not in lines(cuts=put(0, 0)(sidecar.cuts))
    other = ReflectionSidecar.load(folder / name("srp", "other"))
    assert "has the reflection" in lines(offsets=other.offsets, cuts=other.cuts, entries=other.entries)[0]
    assert "for 59 sequences" in lines(offsets=sidecar.offsets[:-1])[0]
    assert (
        "as its last one, but continues"
        in lines(cuts=put(int(sidecar.offsets[12]) - 1, sidecar.cuts[sidecar.offsets[12] - 2])(sidecar.cuts))[0]
    )
    made_for = {"shard": {"name": "moved", "bin": "1-a", "idx": "1-b"}}
    assert "made for the shard moved with other content" in lines(info=sidecar.info | made_for)[0]


@pytest.mark.parametrize("value", ["lost", None, 7, "x", [7], {"x": 7}])
def test_a_manifest_with_anything_in_it(folder, value):
    """Findings or an error of ours, whatever stands in the place of one of its parts, or of a part of those."""
    whole = json.loads((folder / name("srp.json")).read_text())
    for outer in whole:
        for inner in [None, *(whole[outer] if isinstance(whole[outer], dict) else ())]:
            manifest = json.loads(json.dumps(whole))
            place, key = (manifest, outer) if inner is None else (manifest[outer], inner)
            place.pop(key) if value == "lost" else place.update({key: value})
            (folder / name("srp.json")).write_text(json.dumps(manifest))
            with contextlib.suppress(SrpError):
                verify_shards(folder / "c", quick=True)
            with contextlib.suppress(SrpError):
                strip_reflections(folder / "c", folder / "stripped", overwrite=True)


def test_quick_reads_no_tokens(folder):
    break_reflection(folder)
    check = verify_shards(folder / "c", quick=True)
    assert not check.findings and "because of --quick" in check.findings.unchecked[0]
    edit("bin", lambda data: data[:-2])(folder)
    assert verify_shards(folder / "c", quick=True).findings


def test_the_tool_and_its_exit_codes(folder):
    def tool(*argv) -> tuple[int, str]:
        done = srp("verify", *argv)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    code, shown = tool(folder / "c")
    assert code == 0 and "\nno damage found\nnext: srp inspect " in shown
    swap("bin")(folder)
    code, shown = tool(folder / "c")
    assert code == 2 and "damaged: " in shown and shown.count(" findings\n") == 1
    code, shown = tool(folder / "d")
    assert code == 2 and shown.startswith("error: ") and shown.count("\n") == 1


def test_large_indices_in_blocks(folder, monkeypatch):
    """What is checked a block at a time is whole at the edges of blocks."""
    for module in ("verify.index", "verify.sidecar", "shards.indexed_shard"):
        monkeypatch.setattr(f"megatron_srp.data.{module}._BLOCK", 4)
    monkeypatch.setattr("megatron_srp.data.shards.indexed_shard._BLOCK_TOKENS", 300)
    assert verify_shards(folder / "c").findings.lines() == []
    for sequence in (3, 4, 5):
        original = (folder / name("idx")).read_bytes()
        edit_index(lambda lengths, p, d, i=sequence: p.__setitem__(i, p[i] + 2))(folder)
        found = [line for line in verify_shards(folder / "c").findings.lines() if ".idx: sequence" in line]
        assert len(found) == 1 and f"sequence {sequence} begins at" in found[0]
        (folder / name("idx")).write_bytes(original)
