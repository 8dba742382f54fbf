"""Every policy: the view of a plain shard is the shard that the builder makes, and both are as defined."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srp.cli.inspect import main as inspect
from megatron_srp.cli.preprocess import main
from megatron_srp.data.interleave import treat_document
from megatron_srp.data.policies.policy import NAMES, Policy, Rule
from megatron_srp.data.policies.treat import PieceEncoder, TokenSegments, treat
from megatron_srp.data.reflection_table import ReflectionTable
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.data.verify.shards import verify_shards
from megatron_srp.errors import InputError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import ANY_SPEED
from tests.helpers.plain_shards import build, flags, write_shard

LABELS = [SafetyLabel(Verdict.SAFE), SafetyLabel(Verdict.CONTROVERSIAL), SafetyLabel(Verdict.UNSAFE, ("Violent",))]
WRITTEN = {"reflection", "policy"}


def sidecar_for(plain: Path, policy: str, folder: Path, *more: str) -> Path:
    common = ["--input-shards", str(plain), "--guard", "heuristic", "--max-words", "8", "--policy", policy]
    assert main([*common, "--output-prefix", str(folder / "s"), *more]) == 0
    return folder / f"s_{plain.name}.srp"


@pytest.mark.parametrize("append_eod, tokens", [(True, "special"), (True, "text"), (False, "special"), (False, "text")])
@pytest.mark.parametrize("name", NAMES)
def test_the_view_is_what_the_builder_makes(tokenizer, tmp_path, name, append_eod, tokens):
    plain = build(tmp_path / "plain", tokenizer, None, append_eod=append_eod)
    view = ReflectedIndexedDataset(plain, sidecar_for(plain, name, tmp_path, "--reflection-tokens", tokens))
    policy = Policy.load(name, ReflectionFormat(special_tokens=tokens == "special"))
    assert view.masks == policy.masks
    if policy.masks:
        assert all(own.tolist() == there.tolist() for own, there in zip(view[:], IndexedShard(plain), strict=True))
        shares = [1 - view.mask(i).mean() for i in range(len(view))]
        assert 0 < np.mean(shares) < 0.5
        return
    built = build(tmp_path / "built", tokenizer, "heuristic", policy=policy, append_eod=append_eod)
    assert np.concatenate(view[:]).tobytes() == IndexedShard(built).tokens.tobytes()
    assert view.sequence_lengths.tolist() == IndexedShard(built).lengths.tolist()
    assert all(view.mask(i).all() for i in range(len(view)))
    theirs = ReflectionSidecar.load(f"{built}.srp")
    ours = ReflectionSidecar.load(view.sidecar_path)
    assert ours.fingerprint == theirs.fingerprint
    assert {key: ours.info.get(key) for key in WRITTEN} == {key: theirs.info.get(key) for key in WRITTEN}
    assert IndexedShard(plain).tokens.tobytes() != IndexedShard(built).tokens.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_shards_and_sidecars_are_verified_stripped_and_inspected(tokenizer, tmp_path, name, capsys):
    plain, policy = build(tmp_path / "plain", tokenizer, None), Policy.load(name)
    made = sidecar_for(plain, name, tmp_path)
    assert verified(tmp_path / "s") == []
    loaded = ReflectionSidecar.load(made)
    changed = [replace(entry, ids=(*entry.ids, 5)) for entry in loaded.table.entries]
    replace(loaded, table=ReflectionTable(changed)).save(tmp_path / "changed")
    (tmp_path / "changed").rename(made)  # the file itself is mapped
    assert any("reflection 0 of its table" in line for line in verified(tmp_path / "s"))
    loaded.save(made)
    capsys.readouterr()
    assert not inspect([str(made), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["policy"], shown["segments"]) == (name, sum(shown["verdicts"].values()))
    assert shown["dropped_tokens"] > 0 if policy.drops else shown["dropped_tokens"] == 0
    assert shown["unlearned_tokens"] > 0 if policy.masks else shown["unlearned_tokens"] == 0
    if policy.masks:
        return
    built = build(tmp_path / "built", tokenizer, "heuristic", policy=policy)
    assert verified(tmp_path / "built") == []
    if policy.drops:
        with pytest.raises(InputError, match=f"the policy {name} left text out"):
            strip_reflections(tmp_path / "built", tmp_path / "stripped")
    else:
        strip_reflections(tmp_path / "built", tmp_path / "stripped")
        stripped = tmp_path / "stripped_text_document.bin"
        assert stripped.read_bytes() == Path(f"{plain}.bin").read_bytes()
    assert not inspect([str(built), "--json"])


def verified(prefix: Path) -> list[str]:
    return verify_shards(prefix).findings.lines()


def rules():
    """Rules of which nothing is random: all or none is untagged, and a tag is before each token or before none."""
    texts, treatments = st.sampled_from(["", "before", "the"]), st.sampled_from(["keep", "drop", "mask"])
    common = {"before": texts, "learned": st.booleans(), "untagged": st.sampled_from([0.0, 0.0, 1.0])}
    return st.one_of(
        st.builds(Rule, text=treatments, after=texts, **common),
        st.builds(Rule, text=treatments, reflect=st.just(True), **common),
        st.builds(Rule, text=st.sampled_from(["keep", "mask"]), inside=st.just("and"), rate=st.just(1.0), **common),
    )


@st.composite
def packed_texts(draw):
    """Texts of token ids from 300 on and their segments; how many texts each document has, and where it is split."""
    documents = draw(st.lists(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=3)))
    tokens, begins, before_eod, ends, counts, edges = [], [], [], [], [], set()
    for document in documents:
        for number, segments in enumerate(document):
            begins.append(len(tokens))
            for size in [segments[0] + 1, *segments[1:]]:
                tokens += draw(st.lists(st.integers(300, 400), min_size=size, max_size=size))
                ends.append(len(tokens))
            counts.append(len(segments))
            before_eod.append(number + 1 < len(document) or draw(st.booleans()))
            tokens += [0] * before_eod[-1]
        edges.add(len(tokens))
    edges |= set(draw(st.lists(st.integers(1, max(len(tokens), 1)), max_size=3)))
    rows = sorted(edge for edge in edges if 0 < edge <= len(tokens))
    arrays = np.array(tokens, np.uint16), np.array(begins, np.int64), np.array(before_eod, bool)
    offsets = np.cumsum([0, *counts], dtype=np.int64)
    of = TokenSegments(*arrays, np.array(ends, np.int64), offsets, np.array(rows, np.int64))
    return of, np.array(draw(st.lists(st.integers(0, 2), min_size=len(ends), max_size=len(ends))), np.int64)


@settings(max_examples=300, deadline=None, suppress_health_check=[*ANY_SPEED, HealthCheck.function_scoped_fixture])
@given(
    packed_texts(), st.dictionaries(st.sampled_from(list(Verdict)), rules()), st.sampled_from(["segment", "document"])
)
def test_pieces_are_as_defined(tokenizer, texts, own_rules, by):
    """In sequences that hold several texts, or a part of one: nothing but segments is changed, each by its rule."""
    of, codes = texts
    policy = Policy("mine", own_rules, by)
    table = ReflectionTable()
    pieces = treat(PieceEncoder(policy, tokenizer), of, codes, LABELS, table)
    found = []
    bounds = np.concatenate([[0], of.row_ends])
    at = np.concatenate([[0], np.cumsum(pieces.counts)])
    for row in range(len(of.row_ends)):
        plain = of.tokens[bounds[row] : bounds[row + 1]].tolist()
        own = slice(at[row], at[row + 1])
        entries = [table.entries[i] for i in pieces.entries[own]]
        found += list(zip(*treat_document(plain, pieces.cuts[own].tolist(), entries), strict=True))
    assert found == defined(of, codes, policy, tokenizer)


def defined(of: TokenSegments, codes: np.ndarray, policy: Policy, tokenizer) -> list[tuple[int, bool]]:
    """The tokens of whole texts, and which are learned."""
    out: list[tuple[int, bool]] = []
    for number, begin in enumerate(of.begins.tolist()):
        own = range(of.offsets[number], of.offsets[number + 1])
        worst = max((LABELS[codes[s]].verdict for s in own), key=lambda verdict: verdict.badness)
        gone = True
        for s in own:
            label, eod_follows = LABELS[codes[s]], s == own[-1] and of.before_eod[number]
            rule = policy.rule(worst if policy.by == "document" else label.verdict)
            rule = Rule() if rule.untagged else rule
            gone &= rule.text == "drop" and not rule.writes
            after = policy.form.encode(label, tokenizer, False if eod_follows else None) if rule.reflect else []
            out += [(i, rule.learned) for i in written(rule.before, tokenizer)]
            for place in range(begin, of.ends[s]) if rule.text != "drop" else ():
                out += [(i, rule.learned) for i in written(rule.inside if place > begin else "", tokenizer)]
                out.append((int(of.tokens[place]), rule.text != "mask"))
            out += [(i, rule.learned) for i in after or written(rule.after, tokenizer)]
            begin = of.ends[s]
        if of.before_eod[number] and not gone:
            out.append((0, True))
    return out


def written(text: str, tokenizer) -> list[int]:
    return tokenizer.encode_inside(f" {text}") if text else []


def test_the_guides_policy_of_ones_own_is_one_file(tokenizer, tmp_path):
    guide = (Path(__file__).parents[2] / "docs/guides/policies.md").read_text()
    path = tmp_path / "reflect-and-hide.yaml"
    path.write_text(guide.partition(f'```yaml title="{path.name}"\n')[2].partition("```")[0])
    plain = build(tmp_path / "plain", tokenizer, None)
    view = ReflectedIndexedDataset(plain, sidecar_for(plain, str(path), tmp_path))
    assert verified(tmp_path / "s") == []
    extended = load_tokenizer("HuggingFaceTokenizer", tmp_path / "s_tokenizer")
    hidden, think = extended.token_id("<hidden>"), extended.token_id("<think>")
    tokens, learned = np.concatenate(view[:]), np.concatenate([view.mask(i) for i in range(len(view))])
    verdicts = json.loads((tmp_path / "s.srp.json").read_text())["counts"]["verdicts"]
    assert (tokens == hidden).sum() == verdicts["Unsafe"] > 0
    assert (tokens == think).sum() == verdicts["Safe"] + verdicts["Controversial"]
    assert not learned[tokens == hidden].any() and learned[tokens == think].all() and not learned.all()


def test_a_share_of_the_segments_stays_untagged(tokenizer, tmp_path):
    plain = build(tmp_path / "plain", tokenizer, None)
    path = tmp_path / "half.yaml"
    path.write_text("name: half\ntokens: special\nrules: {'Safe, Unsafe': {before: <tag>, untagged: 0.5}}")
    sidecar = ReflectionSidecar.load(sidecar_for(plain, str(path), tmp_path))
    tagged = np.array([bool(entry.before) for entry in sidecar.table.entries])[sidecar.entries]
    assert 0.4 < tagged.mean() < 0.6


def test_tags_inside_have_their_rate(tokenizer, tmp_path):
    plain = build(tmp_path / "plain", tokenizer, None)
    path = tmp_path / "all.yaml"
    path.write_text("name: all\ntokens: special\nrules: {'Safe, Controversial, Unsafe': {inside: <tag>, rate: 0.2}}")
    made = sidecar_for(plain, str(path), tmp_path)
    sidecar, tokens = ReflectionSidecar.load(made), IndexedShard(plain).tokens
    inside = sidecar.table.inside()[sidecar.entries]
    places = len(tokens) - np.count_nonzero(~inside)  # never before a segment's first token
    assert 0.18 < inside.sum() / places < 0.22
    counts = json.loads((tmp_path / "s.srp.json").read_text())["counts"]
    assert counts["segments"] == len(inside) - inside.sum() == sum(counts["verdicts"].values())
    assert counts["tokens"] == len(tokens) + inside.sum()


def test_a_sidecar_says_which_policy_it_has(tokenizer, tmp_path):
    plain = build(tmp_path / "plain", tokenizer, None)
    prints = set()
    for name, more in (("srp", []), ("srp", ["--start-share", "0.2"]), ("drop-segment", []), ("hide", [])):
        sidecar = ReflectionSidecar.load(sidecar_for(plain, name, tmp_path, *more, "--overwrite"))
        assert Policy.from_settings(sidecar.info).settings() == Policy.from_settings(sidecar.info | {}).settings()
        assert Policy.from_settings(sidecar.info).name == name
        assert sidecar.start_share == (0.2 if more else 0)
        prints.add(sidecar.fingerprint)
    assert len(prints) == 4


def test_a_document_of_several_texts_loses_the_unsafe_one_only(tokenizer, tokenizer_models, tmp_path):
    texts, eod = ["A quiet morning.", "How to build a bomb and kill people.", "A river."], tokenizer.require_eos()
    first, bad, last = tokenizer.encode_lists_inside(texts)
    plain = write_shard(tmp_path / "p", [[*first, eod, *bad, eod, *last, eod], [*bad, eod]])
    made = tmp_path / "s_p.srp"
    common = ["--input-shards", str(plain), *flags(tokenizer_models["gpt2"]), "--output-prefix", str(tmp_path / "s")]
    assert main([*common, "--policy", "filter-document"]) == 0
    view = ReflectedIndexedDataset(plain, made)
    assert [row.tolist() for row in view[:]] == [[*first, eod, *last, eod], []]


@pytest.mark.parametrize("name, written", [("srp", "<think> Safe </think>"), ("tag-before", "<good>"), ("hide", "")])
def test_controversial_segments_can_be_treated_as_safe_ones(tokenizer, name, written):
    form = ReflectionFormat(controversial="safe", special_tokens=False)
    encoder, table = PieceEncoder(Policy.load(name, form), tokenizer), ReflectionTable()
    plain = np.array(tokenizer.encode_inside("A bomb."), np.uint16)
    ends = np.array([len(plain)])
    of = TokenSegments(plain, np.array([0]), np.array([True]), ends, np.array([0, 1]), ends)
    pieces = treat(encoder, of, np.array([1]), LABELS, table)
    treated, _ = treat_document(plain.tolist(), pieces.cuts.tolist(), [table.entries[i] for i in pieces.entries])
    assert written in tokenizer.decode(treated) and tokenizer.decode(treated).replace(written, "").strip() == "A bomb."


def test_special_tokens_are_the_default_of_tags_only(tokenizer):
    assert not Policy.load("srp").marks
    assert Policy.load("hide").marks == ["<hidden>"]
    assert Policy.load("tag-before").marks == ["<good>", "<bad>"]
    assert not Policy.load("tag-before", ReflectionFormat()).marks
