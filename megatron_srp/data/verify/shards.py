"""Checks that finished shards are what their manifest says, down to the byte, and are consistent in themselves.

    index       header, lengths, offsets, documents, and the size of the .bin   index.py
    sidecar     positions of reflections, and what their ids mean               sidecar.py
    tokens      the vocabulary, ends of documents, positions of reflections  tokens.py
    manifest    tokenizer, counts, checksums                                    manifest.py

The first three find damage from before the checksums were taken, and say which sequence it is in.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron_srp.data.policies.policy import is_treated, policy_name
from megatron_srp.data.shards.indexed_shard import Index, bin_path, idx_path
from megatron_srp.data.shards.manifest import find_manifest_path, manifest_path, read_manifest
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.data.verify.findings import Findings
from megatron_srp.data.verify.index import verify_index
from megatron_srp.data.verify.manifest import (
    described_tokenizer,
    verify_counts,
    verify_files,
    verify_reflection_settings,
    verify_sidecar_counts,
    verify_sums,
)
from megatron_srp.data.verify.sidecar import load_sidecar, verify_places, verify_table
from megatron_srp.data.verify.tokens import Expected, verify_tokens
from megatron_srp.errors import InputError
from megatron_srp.files import file_fingerprint
from megatron_srp.tokenization import TextTokenizer


@dataclass(frozen=True, slots=True)
class Verification:
    """Checks shards; one object per call of `verify_shards`.

    Attributes:
        quick: read neither tokens nor checksums.
        tokenizer: used instead of the one that a manifest names.
        findings: what is damaged, and what could not be checked.
        shards: a line about each shard that was read.
    """

    quick: bool
    tokenizer: TextTokenizer | None
    findings: Findings = field(default_factory=Findings)
    shards: list[str] = field(default_factory=list)

    def manifest(self, path: Path) -> None:
        """Check everything that the manifest at `path` lists."""
        manifest = read_manifest(path)
        tokenizer = described_tokenizer(path, manifest["tokenizer"], self.tokenizer, self.findings)
        known = {name: manifest["tokenizer"].get(name) for name in ("vocab_size", "eos_id")}
        ends = (manifest.get("settings") or {}).get("append_eod")
        expected = Expected(known["vocab_size"], known["eos_id"] if ends else None, None)
        for shard in manifest["shards"]:
            prefix = path.with_name(shard["name"])
            sidecar = load_sidecar(sidecar_path(prefix), self.findings) if _has_sidecar(prefix) else None
            if sidecar:
                verify_reflection_settings(path, manifest, sidecar_path(prefix), sidecar, self.findings)
            elif is_treated(manifest) and not _has_sidecar(prefix):
                self.findings.add(sidecar_path(prefix), "no such file")
            index, sidecar = self._shard(prefix, sidecar, expected, tokenizer)
            if index:
                verify_counts(path, shard, index, sidecar, self.findings)
        for entry in manifest.get("sidecars") or []:
            self._lone_sidecar(path, entry, expected, tokenizer)
        verify_sums(path, manifest, self.findings)
        verify_files(path, manifest.get("files"), self.quick, self.findings)

    def _lone_sidecar(
        self, manifest: Path, entry: dict[str, Any], expected: Expected, tokenizer: TextTokenizer | None
    ) -> None:
        """Check a sidecar for a plain shard, which may be next to it or elsewhere."""
        path = sidecar_path(manifest.with_name(entry["name"]))
        sidecar = load_sidecar(path, self.findings)
        if not sidecar:
            return
        verify_table(path, sidecar, expected.vocab_size, tokenizer, self.findings)
        made_for = str((sidecar.info.get("shard") or {}).get("name"))
        prefix = path.with_name(Path(made_for).name)
        index = verify_index(prefix, self.findings) if idx_path(prefix).exists() else None
        if index:
            self._made_for(path, prefix, sidecar)
        else:
            self.findings.unchecked.append(f"{path}: its shard, {made_for}, is not next to it; whether it fits")
        if verify_places(path, sidecar, index.lengths if index else None, self.quick, self.findings):
            verify_sidecar_counts(manifest, entry, sidecar, self.findings)
        self.shards.append(f"{path}: {len(sidecar):,} sequences, {_pieces(sidecar)}")

    def bare_shard(self, prefix: Path) -> None:
        """Check a shard that no manifest names."""
        if not bin_path(prefix).exists() and not idx_path(prefix).exists():
            raise InputError(
                f"{prefix}: neither {manifest_path(prefix).name} nor {bin_path(prefix).name} and "
                f"{idx_path(prefix).name} are there; pass the PREFIX of one of them"
            )
        self.findings.unchecked.append(f"counts, checksums and settings: no manifest lists {prefix}")
        sidecar = load_sidecar(sidecar_path(prefix), self.findings) if _has_sidecar(prefix) else None
        tokenizer = self.tokenizer
        if sidecar and (described := sidecar.info.get("training_tokenizer")):
            tokenizer = described_tokenizer(sidecar_path(prefix), described, tokenizer, self.findings)
        if not tokenizer:
            self.findings.unchecked.append("the range of tokens: no tokenizer is known; pass --tokenizer-model")
        vocab_size = tokenizer.vocab_size if tokenizer else None
        self._shard(prefix, sidecar, Expected(vocab_size, None, None), tokenizer)

    def _shard(
        self, prefix: Path, sidecar: ReflectionSidecar | None, expected: Expected, tokenizer: TextTokenizer | None
    ) -> tuple[Index | None, ReflectionSidecar | None]:
        """Check one shard. Returns its index and sidecar where they are sound."""
        path = sidecar_path(prefix)
        least = 0 if sidecar and sidecar.materialized and sidecar.table.drops() else 1
        index = verify_index(prefix, self.findings, least)
        if sidecar:
            verify_table(path, sidecar, expected.vocab_size, tokenizer, self.findings)
        if index is None:
            self.findings.unchecked.append(f"{prefix}: tokens and positions of reflections: the index is damaged")
            return None, None
        if sidecar and not verify_places(path, sidecar, index.lengths, self.quick, self.findings):
            sidecar = None
        if sidecar and not sidecar.materialized:
            self._made_for(path, prefix, sidecar)
        reflections = f", {_pieces(sidecar)}" if sidecar else ""
        size = bin_path(prefix).stat().st_size // index.dtype.itemsize
        self.shards.append(f"{prefix}: {len(index.lengths):,} sequences, {size:,} tokens{reflections}")
        if not self.quick:
            inside = sidecar if sidecar and sidecar.materialized else None
            verify_tokens(prefix, index, replace(expected, sidecar=inside), self.findings)
        return index, sidecar

    def _made_for(self, path: Path, prefix: Path, sidecar: ReflectionSidecar) -> None:
        wanted = sidecar.info.get("shard") or {}
        found = {"bin": file_fingerprint(bin_path(prefix)), "idx": file_fingerprint(idx_path(prefix))}
        if any(wanted.get(name, found[name]) != found[name] for name in found):
            self.findings.add(path, f"it was made for the shard {wanted.get('name')} with other content")


def _pieces(sidecar: ReflectionSidecar) -> str:
    name = policy_name(sidecar.info)
    return f"{len(sidecar.entries):,} {'reflections' if name == 'srp' else f'pieces of the policy {name}'}"


def _has_sidecar(prefix: Path) -> bool:
    return sidecar_path(prefix).exists()


def verify_shards(prefix: str | Path, quick: bool = False, tokenizer: TextTokenizer | None = None) -> Verification:
    """Check the shards of a manifest, or one shard.

    Args:
        prefix: PREFIX of PREFIX.srp.json, or of a shard's .bin and .idx, with or without a manifest.
        quick: read neither tokens nor checksums, only indices, sidecars and sizes.
        tokenizer: used instead of the one that the manifest names.

    Raises:
        InputError: when there are no such files, or the manifest is invalid.
    """
    path = manifest_path(prefix) if manifest_path(prefix).exists() else find_manifest_path(prefix)
    check = Verification(quick, tokenizer)
    if path:
        check.manifest(path)
    else:
        check.bare_shard(Path(prefix))
    if quick:
        check.findings.unchecked.append("tokens and checksums, because of --quick")
    return check
