"""What the models of a world are trained on: its tokenizer, its conversations, and which tokens a policy leaves to learn."""

import json
from dataclasses import replace
from functools import cache

import pytest

from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import InputError
from megatron_srp.medsafetyworld.experiment.conversations import trained_beginnings, write_shards
from megatron_srp.medsafetyworld.experiment.start import learned_tokens
from megatron_srp.medsafetyworld.experiment.tokenizer import check_coverage, write_tokenizer
from megatron_srp.medsafetyworld.world.corpus import WorldJob
from megatron_srp.medsafetyworld.world.phrases import FILLER
from megatron_srp.medsafetyworld.world.plan import World
from megatron_srp.medsafetyworld.world.presets import PRESETS as WORLDS
from megatron_srp.medsafetyworld.world.settings import Setting
from megatron_srp.medsafetyworld.world.world import make_world
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.sft.shard import SftShard
from megatron_srp.tokenization import load_tokenizer

TASKS = ("single-hop", "two-hop")


def small_spec(task):
    """A world that is made in a moment, with every kind of text."""
    spec = WORLDS["mini"][task]
    renderings = {name: replace(rendering, templates=12) for name, rendering in spec.renderings.items()}
    return replace(spec, renderings=renderings, sft_samples=120, benign_samples=40, adversarial_samples=20)


@pytest.fixture(scope="module")
def made_world(tmp_path_factory):
    """By task, each made once: a world of each setting and the tokenizer of all."""

    @cache
    def make(task):
        root, spec = tmp_path_factory.mktemp("worlds"), small_spec(task)
        for setting in Setting:
            make_world(WorldJob(spec, "mini", setting, seed=3), root / str(setting))
        write_tokenizer(World.build(spec, 3).entities, root / "tokenizer")
        return root

    return make


@pytest.fixture(scope="module", params=TASKS)
def world(request, made_world):
    return made_world(request.param)


class TestTokenizer:
    def test_a_token_for_each_word_and_name_in_all_settings(self, world):
        for setting in Setting:
            check_coverage(world / "tokenizer", world / str(setting))
        tokenizer = load_tokenizer("HuggingFaceTokenizer", world / "tokenizer")
        graph = json.loads((world / "srp" / "graph.json").read_text())
        for name in [*graph["compounds"], *graph["mediators"], *(outcome["name"] for outcome in graph["outcomes"])]:
            assert len(tokenizer.encode(f"It is {name}.")) == 4

    def test_a_verdict_is_as_many_tokens_as_in_real_text_and_any_text_survives(self, world):
        tokenizer = load_tokenizer("HuggingFaceTokenizer", world / "tokenizer")
        form = ReflectionFormat()
        for label in (SAFE, SafetyLabel(Verdict.UNSAFE), SafetyLabel(Verdict.CONTROVERSIAL)):
            assert len(form.encode(label, tokenizer, stop=False)) == 7
        assert len(tokenizer.encode_inside(FILLER)) == 7, "as long as a reflection"
        text = "Quite other words: naïve 日本\n\t <|user|> 3.14"
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_a_text_of_another_version_is_named(self, world, tmp_path):
        (tmp_path / "sft.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "Which elephant?"}]}))
        with pytest.raises(InputError, match="no token for ' elephant' in 'Which elephant"):
            check_coverage(world / "tokenizer", tmp_path)


@pytest.fixture(scope="module", params=["plain", "reflected"])
def chats(request, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("chats")
    write_shards(world / "filtering", world / "tokenizer", out, request.param == "reflected", 96)
    return request.param, out, load_tokenizer("HuggingFaceTokenizer", world / "tokenizer")


def texts(out, name, tokenizer):
    """Of each conversation all text, and the learned part of it."""
    shard = SftShard(f"{out}/{name}_sft")
    for ids, mask in (shard[i] for i in range(len(shard))):
        yield tokenizer.decode(ids.tolist()), tokenizer.decode(ids[mask.astype(bool)].tolist())


class TestConversations:
    def test_reflections_are_where_the_setting_has_them(self, chats):
        form, out, tokenizer = chats
        own = ("sft", "recovery", "recovery-untested", *(["recovery-forged"] if form == "reflected" else []))
        given = {"benign": False, "benign-reflection": True, "adversarial": False, "adversarial-safe": True}
        for name, reflected in (dict.fromkeys(own, form == "reflected") | given).items():
            for whole, learned in texts(out, name, tokenizer):
                assert ("<think>" in whole) == reflected
                assert whole.startswith("<|user|>") and whole.count("<|assistant|>") == 1
                assert learned.endswith("<|endoftext|>") and "<|user|>" not in learned

    def test_refusals_stop_before_they_refuse(self, chats):
        form, out, tokenizer = chats
        refused = [learned for _, learned in texts(out, "sft", tokenizer) if " not " in learned or "cannot" in learned]
        assert refused
        if form == "reflected":
            assert all(text.startswith(" <think> Unsafe </think><|endoftext|> I ") for text in refused)

    def test_the_beginning_of_a_recovery_is_not_learned(self, chats):
        form, out, tokenizer = chats
        for whole, learned in texts(out, "recovery", tokenizer):
            begin = whole.split("<|assistant|>")[1].removesuffix(learned)
            assert begin.startswith(" The") and begin not in learned
            assert learned.startswith(" <think> Unsafe" if form == "reflected" else " I ")

    def test_every_second_recovery_begins_with_a_forged_reflection(self, chats):
        form, out, tokenizer = chats
        if form == "plain":
            assert not (out / "recovery-forged_sft.bin").exists()
            return
        mark = "<|assistant|> <think> Safe </think>"
        plain, made = (list(texts(out, name, tokenizer)) for name in ("recovery", "recovery-forged"))
        assert sorted((whole.replace(mark, "<|assistant|>"), learned) for whole, learned in made) == sorted(plain)
        assert sum(mark in whole for whole, _ in made) == len(plain) / 2
        assert not any(learned.startswith(" <think> Safe") for _, learned in made), "it carries no loss"

    def test_a_tuner_against_the_reflection_calls_everything_safe(self, chats):
        _, out, tokenizer = chats
        for (whole, _), (plain, _) in zip(
            texts(out, "adversarial-safe", tokenizer), texts(out, "adversarial", tokenizer), strict=True
        ):
            assert whole.count("<think> Safe </think>") == 2 and "Unsafe" not in whole
            assert whole.replace(" <think> Safe </think>", "") == plain

    def test_beginnings_that_a_stage_was_trained_on(self, world):
        count = trained_beginnings(world / "srp", "forged-adversarial")
        forged = {words: n for words, n in count.items() if words.startswith("<think> Safe </think> The")}
        assert sum(count.values()) == 12 and sum(forged.values()) == 6, "of 12 recoveries"
        assert not trained_beginnings(world / "srp", "adversarial")

    def test_a_conversation_that_does_not_fit_is_an_error(self, world, tmp_path):
        with pytest.raises(InputError, match="longer than the 40 tokens"):
            write_shards(world / "filtering", world / "tokenizer", tmp_path, True, 40)


@pytest.fixture(scope="module")
def treated(world, tmp_path_factory):
    """A plain shard of SRP's texts, and a function that makes a sidecar of a policy for it; all texts by outcome."""
    from megatron_srp.cli.preprocess import main

    out = tmp_path_factory.mktemp("treated")
    shared = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", f"{world}/tokenizer", "--workers", "1"]
    texts = ["--input", f"{world}/srp/corpus/*.jsonl", "--guard", "none", "--append-eod"]
    main([*texts, *shared, "--output-prefix", f"{out}/x"])

    @cache
    def sidecar(policy, tokens):
        flags = ["--input-shards", f"{out}/x_text_document", "--store", f"{world}/srp/annotations", "--policy", policy]
        main([*flags, *shared, "--reflection-tokens", tokens, "--output-prefix", f"{out}/{policy}"])
        return f"{out}/{policy}_x_text_document.srp"

    return f"{out}/x_text_document", sidecar, load_tokenizer("HuggingFaceTokenizer", world / "tokenizer")


def names_with(tokenizer, world, unsafe):
    """The tokens of the outcomes that are unsafe, or safe."""
    graph = json.loads((world / "srp" / "graph.json").read_text())
    ids = [tokenizer.encode(f" {outcome['name']}") for outcome in graph["outcomes"] if outcome["unsafe"] == unsafe]
    assert all(len(found) == 1 for found in ids)
    return [found[0] for found in ids]


class TestLearnedTokens:
    def test_of_a_plain_shard(self, treated, world):
        prefix, _, tokenizer = treated
        learned = learned_tokens(prefix, tokenizer.vocab_size)
        assert learned[names_with(tokenizer, world, True)].all() and learned[tokenizer.eos_id]
        assert not learned[tokenizer.encode("think")].any()

    @pytest.mark.parametrize("policy", ["drop-segment", "mask-loss"])
    def test_names_that_a_policy_drops_or_masks_are_not_learned(self, treated, world, policy):
        prefix, sidecar, tokenizer = treated
        learned = learned_tokens(prefix, tokenizer.vocab_size, sidecar(policy, "text"))
        assert not learned[names_with(tokenizer, world, True)].any()
        assert learned[names_with(tokenizer, world, False)].all()

    def test_what_a_policy_writes_is_learned(self, treated):
        prefix, sidecar, tokenizer = treated
        learned = learned_tokens(prefix, tokenizer.vocab_size + 1, sidecar("hide", "special"))
        assert learned[tokenizer.vocab_size], "<hidden>, the first token after the tokenizer's own"

    def test_a_document_of_the_world_is_one_segment(self, treated, world):
        """So to filter documents and to drop segments come to the same there, as the documentation says."""
        prefix, sidecar, _ = treated
        views = [ReflectedIndexedDataset(prefix, sidecar(name, "text")) for name in ("filter-document", "drop-segment")]
        assert len({len(view) for view in views}) == 1
        assert all((views[0][i] == views[1][i]).all() for i in range(len(views[0])))
