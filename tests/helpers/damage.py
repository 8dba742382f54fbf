"""Damage to plant in the shards of a folder, and what is to be said of it: `DAMAGE`, by kind."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np

from megatron_srp.data.shards.indexed_shard import HEADER, IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from tests.conftest import random_texts

TEXTS = random_texts(61, 60, most_words=80)
N = len(TEXTS)


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
    ".bin of another shard": (swap("bin"), r"sequence \d+ is said|after the end of the last sequence"),
    ".idx of another shard": (swap("idx"), r"sequence \d+ is said|after the end of the last sequence"),
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
    "trailing bytes in .bin": (edit("bin", lambda d: d + bytes(6)), BIN + f"6 bytes after .* sequence, {N - 1}"),
    "trailing bytes in .idx": (edit("idx", lambda d: d + bytes(6)), IDX + "[0-9]+ bytes, but its header promises"),
    "wrong document index": (
        edit_index(lambda lengths, p, documents: documents.__setitem__(21, 20)),
        IDX + "sequence 21 begins document 21, but the document index says 20",
    ),
    "document index that ends early": (
        edit_index(lambda lengths, p, documents: documents.__setitem__(-1, N - 1)),
        IDX + f"its document index is 0 to {N - 1}, not from 0 to {N}",
    ),
    "broken reflection": (break_reflection, BIN + "sequence 9 does not hold <think> .* </think> after"),
    "no end-of-text where a verdict asks for one": (
        unstop,
        BIN + r"sequence \d+ has <think> Unsafe.* </think> without an end-of-text after it",
    ),
    "no end of document": (
        edit_tokens(lambda t, s: t.__setitem__(s[24] - 1, 300)),
        BIN + "sequence 23 ends with 300, not end-of-document",
    ),
    "wrong tokenizer": (edit_manifest(other_tokenizer), JSON + "the tokenizer's fingerprint is .* another one"),
    "sidecar of another shard": (swap("srp"), SRP + r"sequence \d+ has the reflection"),
    "sidecar of another place": (edit_sidecar(cuts=later_cut), BIN + "sequence 11 does not hold <think>"),
    "sidecar with a cut after the end": (
        edit_sidecar(cuts=lambda s: put(int(s.offsets[12]) - 1, 99999)(s.cuts)),
        SRP + r"sequence 11 has the reflection \d+ at token 99999, after its end",
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
    "sidecar of no form": (edit_sidecar(info=lambda s: {}), SRP + "its reflections have an unknown form"),
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
