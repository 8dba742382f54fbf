"""Planted damage of every kind is found, in the sequence it was planted in, with and without checksums."""

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.indexed_shard import HEADER, IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.verify.shards import verify_shards
from megatron_srp.errors import InputError, SrpError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard, random_texts

TOOL = Path(__file__).parents[2] / "tools" / "verify_shards.py"
TEXTS = random_texts(61, 60, most_words=80)
N = len(TEXTS)


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


def name(suffix: str, shard: str = "c") -> str:
    return f"{shard}.srp.json" if suffix == "srp.json" else f"{shard}_text_document.{suffix}"


def edit(suffix: str, change):
    """Damage that `change`s the bytes (a bytearray) of a file."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / name(suffix)).read_bytes())
        (folder / name(suffix)).write_bytes(data if (changed := change(data)) is None else changed)

    return damage


def edit_index(change):
    """Damage that `change`s (lengths, pointers, documents) in place."""

    def damage(data: bytearray) -> None:
        body = np.frombuffer(data, np.uint8)[HEADER.size :]
        lengths, pointers, documents = np.split(body, [4 * N, 12 * N])
        change(lengths.view(np.int32), pointers.view(np.int64), documents.view(np.int64))

    return edit("idx", damage)


def edit_tokens(change):
    """Damage that `change`s the tokens, given them and where each sequence begins."""

    def damage(folder: Path) -> None:
        shard = IndexedShard(folder / "c_text_document")
        tokens, starts = shard.tokens.copy(), np.append(shard.pointers // 2, len(shard.tokens))
        change(tokens, starts)
        tokens.tofile(folder / name("bin"))

    return damage


def edit_sidecar(**changes):
    """A sidecar with other content and a fingerprint of that content."""

    def damage(folder: Path) -> None:
        path = folder / name("srp")
        sidecar = ReflectionSidecar.load(path)
        new = {field: change(sidecar) for field, change in changes.items()}
        path.unlink()  # it is mapped
        dataclasses.replace(sidecar, **new).save(path)

    return damage


def edit_manifest(change):
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / name("srp.json")).read_text())
        change(manifest)
        (folder / name("srp.json")).write_text(json.dumps(manifest))

    return damage


def put(place: int, value):
    """Sets one number of an array, or the first of a slice and all behind it by a difference."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = value
        return array

    return change


def swap(suffix: str):
    return lambda folder: shutil.copy(folder / name(suffix, "other"), folder / name(suffix))


def lose(suffix: str):
    return lambda folder: (folder / name(suffix)).unlink()


def break_reflection(folder: Path) -> None:
    """Other words of the vocabulary in the place of the last reflection of sequence 9, before its end."""
    edit_tokens(lambda tokens, starts: tokens.__setitem__(slice(starts[10] - 4, starts[10] - 2), [300, 301]))(folder)


def flip_a_cut(folder: Path) -> None:
    """One bit of a cut in the sidecar's file."""
    path = folder / name("srp")
    cuts = ReflectionSidecar.load(path).cuts
    at = path.read_bytes().index(cuts.tobytes())
    data = bytearray(path.read_bytes())
    data[at + 4 * 100] ^= 4
    path.unlink()
    path.write_bytes(data)


def unstop(folder: Path) -> None:
    """The id behind the first reflection that ends its document with an Unsafe, which has no end-of-text of its own."""
    sidecar = ReflectionSidecar.load(folder / name("srp"))
    last = sidecar.offsets[1:] - 1
    table = sidecar.table.entries
    row = next(i for i in range(N) if table[sidecar.entries[last[i]]].label.verdict == "Unsafe")
    edit_tokens(lambda tokens, starts: tokens.__setitem__(starts[row + 1] - 1, 300))(folder)


def table_of_other_labels(sidecar: ReflectionSidecar):
    first, second, *others = sidecar.table.entries
    swapped = [dataclasses.replace(first, ids=second.ids), dataclasses.replace(second, ids=first.ids)]
    return type(sidecar.table)([*swapped, *others])


def later_cut(sidecar: ReflectionSidecar) -> np.ndarray:
    """The first reflection of sequence 11 a token later than it is."""
    return put(int(sidecar.offsets[11]), sidecar.cuts[sidecar.offsets[11]] + 1)(sidecar.cuts)


def other_tokenizer(manifest: dict) -> None:
    model = Path(manifest["tokenizer"]["model"])
    manifest["tokenizer"]["model"] = str(model.with_name("llama3"))


BIN, IDX, SRP, JSON = r"c_text_document\.bin: ", r"c_text_document\.idx: ", r"c_text_document\.srp: ", r"c\.srp\.json: "
DAMAGE = {
    "truncated .bin": (edit("bin", lambda d: d[:-200]), IDX + f"sequence {N - 1} is said to have bytes"),
    "truncated .bin, half a token": (edit("bin", lambda d: d[:-1]), IDX + f"sequence {N - 1} is said to have bytes"),
    "empty .bin": (edit("bin", lambda d: b""), IDX + "sequence 0 is said to have bytes"),
    "truncated .idx": (edit("idx", lambda d: d[:-8]), IDX + "[0-9]+ bytes, but its header promises"),
    ".idx without a header": (edit("idx", lambda d: d[:9]), IDX + "not a Megatron index"),
    ".bin of another shard": (swap("bin"), r"sequence \d+ is said|behind the end of the last sequence"),
    ".idx of another shard": (swap("idx"), r"sequence \d+ is said|behind the end of the last sequence"),
    "flipped bytes in .bin": (
        edit_tokens(lambda t, s: t.__setitem__(s[17] + 2, 65535)),
        BIN + "sequence 17 has the token 65535, beyond the vocabulary of",
    ),
    "flipped bytes in .idx": (
        edit_index(lambda lengths, p, d: lengths.__setitem__(7, lengths[7] ^ 1)),
        IDX + r"sequence 8 begins at byte \d+, but sequence 7 ends at",
    ),
    "flipped bytes in .srp": (flip_a_cut, SRP),
    "an offset past the end": (
        edit_index(lambda lengths, p, d: p.__setitem__(5, 1 << 40)),
        IDX + "sequence 5 is said to have bytes 1099511627776",
    ),
    "one wrong offset": (
        edit_index(lambda lengths, p, d: p.__setitem__(5, p[5] + 2)),
        IDX + r"sequence 5 begins at byte \d+, but sequence 4 ends",
    ),
    "offsets beyond 32 bits": (
        edit_index(lambda lengths, p, d: p.__setitem__(slice(40, None), p[40:] - (1 << 32))),
        IDX + r"sequence 40 is said to have bytes -\d+ .*32-bit",
    ),
    "a length beyond 32 bits": (
        edit_index(lambda lengths, p, d: lengths.__setitem__(3, -5)),
        IDX + "sequence 3 has -5 tokens: a length beyond 32 bits",
    ),
    "zero-length sequence": (
        edit_index(lambda lengths, p, d: lengths.__setitem__(3, 0)),
        IDX + "sequence 3 has no tokens",
    ),
    "dtype code of the other type": (
        edit("idx", lambda d: d.__setitem__(17, 4)),
        IDX + "its type code says int32, but its offsets are those of tokens of 2 bytes",
    ),
    "dtype code of no type": (edit("idx", lambda d: d.__setitem__(17, 9)), IDX + "version 1, type code 9"),
    "wrong magic": (edit("idx", lambda d: d.__setitem__(0, 0)), IDX + "not a Megatron index"),
    "wrong version": (edit("idx", lambda d: d.__setitem__(9, 2)), IDX + "version 2"),
    "trailing bytes in .bin": (edit("bin", lambda d: d + bytes(6)), BIN + f"6 bytes behind .* sequence, {N - 1}"),
    "trailing bytes in .idx": (edit("idx", lambda d: d + bytes(6)), IDX + "[0-9]+ bytes, but its header promises"),
    "wrong document index": (
        edit_index(lambda lengths, p, documents: documents.__setitem__(21, 20)),
        IDX + "sequence 21 begins document 21, but the document index says 20",
    ),
    "document index that ends early": (
        edit_index(lambda lengths, p, documents: documents.__setitem__(-1, N - 1)),
        IDX + f"its document index is 0 to {N - 1}, not from 0 to {N}",
    ),
    "broken reflection": (break_reflection, BIN + "sequence 9 does not hold <think> .* </think> behind"),
    "no end-of-text where a verdict asks for one": (
        unstop,
        BIN + r"sequence \d+ has <think> Unsafe.* </think> without an end-of-text behind it",
    ),
    "no end of document": (
        edit_tokens(lambda t, s: t.__setitem__(s[24] - 1, 300)),
        BIN + "sequence 23 ends with 300, not end-of-document",
    ),
    "wrong tokenizer": (edit_manifest(other_tokenizer), JSON + "the tokenizer's fingerprint is .* another one"),
    "sidecar of another shard": (swap("srp"), SRP + r"sequence \d+ has the reflection"),
    "sidecar of another place": (edit_sidecar(cuts=later_cut), BIN + "sequence 11 does not hold <think>"),
    "sidecar with a cut behind the end": (
        edit_sidecar(cuts=lambda s: put(int(s.offsets[12]) - 1, 99999)(s.cuts)),
        SRP + r"sequence 11 has the reflection \d+ at token 99999, behind its end",
    ),
    "sidecar with cuts out of order": (
        edit_sidecar(cuts=lambda s: put(int(s.offsets[12]) - 2, s.cuts[s.offsets[12] - 1] + 1)(s.cuts)),
        SRP + "sequence 11 has the reflection .* before an earlier one",
    ),
    "sidecar with an unknown reflection": (
        edit_sidecar(entries=lambda s: put(int(s.offsets[4]), 777)(s.entries)),
        SRP + "sequence 4 has the reflection 777",
    ),
    "sidecar with rows that descend": (
        edit_sidecar(offsets=lambda s: put(8, s.offsets[9] + 1)(s.offsets)),
        SRP + "sequence 8 has -1 reflections",
    ),
    "sidecar of fewer sequences": (
        edit_sidecar(offsets=lambda s: s.offsets[:-1]),
        SRP + f"it is for {N - 1} sequences, but the shard has {N}",
    ),
    "ids of another label": (edit_sidecar(table=table_of_other_labels), SRP + "reflection 0 of its table, <think> "),
    "sidecar of another form": (
        edit_sidecar(info=lambda s: s.info | {"reflection": s.info["reflection"] | {"open": "<safety>"}}),
        SRP + "its reflection is not the one that c.srp.json names",
    ),
    "sidecar of no form": (edit_sidecar(info=lambda s: {}), SRP + "its reflections are of no known form"),
    "no sidecar at all": (edit("srp", lambda d: b"nonsense"), SRP + "not a reflection sidecar"),
    "manifest with other documents": (
        edit_manifest(lambda m: m["shards"][0].update(documents=N + 1)),
        JSON + f"documents of c_text_document are {N + 1}, but it has {N}",
    ),
    "manifest with other segments": (
        edit_manifest(lambda m: m["shards"][0].update(segments=1)),
        JSON + "segments of c_text_document are 1, but",
    ),
    "manifest with other verdicts": (
        edit_manifest(lambda m: m["shards"][0]["verdicts"].update(Safe=1)),
        JSON + "verdicts of c_text_document are ",
    ),
    "manifest with other sums": (
        edit_manifest(lambda m: m["counts"].update(tokens=1)),
        JSON + "its counts are not the sums",
    ),
    "missing .bin": (lose("bin"), BIN + "no such file"),
    "missing .idx": (lose("idx"), IDX + "no such file"),
    "missing .srp": (lose("srp"), SRP + "no such file"),
}


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
    assert not check.findings and "give --tokenizer-model" in check.findings.unchecked[0]
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
        "as its last one, but goes on"
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
    assert not check.findings and "leave out --quick" in check.findings.unchecked[0]
    edit("bin", lambda data: data[:-2])(folder)
    assert verify_shards(folder / "c", quick=True).findings


def test_the_tool_and_its_exit_codes(folder):
    def tool(*argv) -> tuple[int, str]:
        done = subprocess.run([sys.executable, TOOL, *map(str, argv)], capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    code, shown = tool(folder / "c")
    assert code == 0 and shown.endswith("no damage found\n")
    swap("bin")(folder)
    code, shown = tool(folder / "c")
    assert code == 2 and "damaged: " in shown and shown.endswith("findings\n")
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
