"""Running a world: its tokenizer, its conversations, the graph of steps, and what its progress and its table say."""

import json
from dataclasses import replace
from functools import cache

import pytest

from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import InputError
from megatron_srp.medsafetyworld.experiment.collect import collect
from megatron_srp.medsafetyworld.experiment.conversations import trained_beginnings, write_shards
from megatron_srp.medsafetyworld.experiment.differences import differences
from megatron_srp.medsafetyworld.experiment.graph import Experiment
from megatron_srp.medsafetyworld.experiment.presets import PRESETS, find_run_preset
from megatron_srp.medsafetyworld.experiment.progress import fraction_done
from megatron_srp.medsafetyworld.experiment.start import learned_tokens
from megatron_srp.medsafetyworld.experiment.table import format_table
from megatron_srp.medsafetyworld.experiment.tokenizer import check_coverage, write_tokenizer
from megatron_srp.medsafetyworld.experiment.variants import STAGES, VARIANTS, parse_settings, parse_stages
from megatron_srp.medsafetyworld.world.corpus import WorldJob
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


def experiment(**changes):
    chosen = {"variants": tuple(parse_settings("filtering,srp,post-only")), "stages": tuple(STAGES), "seeds": (0, 1)}
    return Experiment(PRESETS["nano"], **(chosen | changes))


def fingerprints(steps):
    return {step.name: step.fingerprint for step in steps}


class TestGraph:
    def test_every_step_comes_after_what_it_needs_and_makes_what_no_other_makes(self):
        seen, results = set(), []
        for step in experiment().steps():
            assert all(need.name in seen for need in step.needs)
            seen.add(step.name)
            results += step.results
        assert len(seen) == len(experiment().steps()) and len(results) == len(set(results))

    def test_variants_of_one_world_share_its_model(self):
        names = [step.name for step in experiment(seeds=(0,)).steps()]
        assert names.count("seed0/filtering/pretrained/train") == 1
        assert "seed0/post-only/pretrained/train" not in names and "seed0/post-only/pretrained/measure" in names
        assert "seed0/filtering/sft-recovery/train" in names and "seed0/post-only/sft-recovery/train" in names
        assert "seed0/filtering/sft-recovery-forged/train" not in names

    def test_a_setting_that_is_only_needed_has_no_row(self):
        report = experiment(variants=(VARIANTS["post-only"],)).steps()[-1]
        assert report.command[-1].startswith("seed") and not any("/filtering/" in part for part in report.command)

    def test_the_two_by_two_of_every_seed_comes_first(self):
        names = [step.name for step in experiment(variants=tuple(parse_settings("all"))).steps()]
        cells = ("post-only", "filtering-tags", "srp-all-safe", "srp")
        first = max(names.index(f"seed{seed}/{name}/sft/measure") for seed in (0, 1) for name in cells)
        later = [name for name in names if "/sft-recovery/" in name or "/baseline/" in name or "adversarial" in name]
        assert first < min(map(names.index, later))

    def test_as_many_steps_as_another_setting(self):
        steps = {step.name: step for step in experiment(variants=(VARIANTS["filtering-steps"],)).steps()}
        training = steps["seed0/filtering-steps/pretrained/train"]
        counted = training.command[training.command.index("pretrain") + 1]
        data = training.command[training.command.index("--data-path") + 1]
        assert (counted, data) == tuple(f"seed0/{s}/shard/corpus_text_document" for s in ("srp", "filtering-steps"))
        assert {need.name for need in training.needs} == {"seed0/srp/shard", "seed0/filtering-steps/shard"}

    def test_groups_of_settings_go_with_others(self):
        names = [variant.name for variant in parse_settings("filtering,policies")]
        assert names[:2] == ["filtering", "filter-document"] and names[-1] == "srp-special"

    def test_policies_share_texts_steps_and_post_training(self):
        steps = experiment(variants=tuple(parse_settings("policies")), seeds=(0,)).steps()
        by_name = {step.name: step.command for step in steps}
        for name in (variant.name for variant in parse_settings("policies") if not variant.reflected):
            assert f"--policy {name}" in " ".join(by_name[f"seed0/{name}/policy"])
            pretrain = by_name[f"seed0/{name}/pretrained/train"]
            assert "seed0/filtering/shard/corpus_text_document" in pretrain
            assert pretrain[pretrain.index("--srp-sidecar") + 1] == f"seed0/{name}/policy/corpus_text_document.srp"
            assert "plain" in by_name[f"seed0/{name}/chats"]

    def test_what_a_policy_writes_has_tokens_of_its_own_in_all_its_steps(self):
        chosen = tuple(VARIANTS[name] for name in ("srp-special", "hide", "mask-loss"))
        commands = {step.name: list(step.command) for step in experiment(variants=chosen, seeds=(0,)).steps()}
        for name, folder in (("srp-special", "srp-special/policy/corpus_tokenizer"), ("hide", "hide/policy/corpus_tokenizer"), ("mask-loss", "tokenizer")):  # fmt: skip
            assert f"seed0/{folder}" in commands[f"seed0/{name}/chats"]
            train = commands[f"seed0/{name}/sft/train"]
            assert train[train.index("--tokenizer-model") + 1] == f"seed0/{folder}"
            assert commands[f"seed0/{name}/start"][-1] == f"seed0/{name}/policy/corpus_text_document.srp"
        assert commands["seed0/srp-special/chats"][-1] == "special"
        assert "special" not in commands["seed0/hide/chats"], "its tokenizer has no marks of reflections"
        assert "seed0/srp/shard/corpus_text_document" in commands["seed0/srp-special/pretrained/train"]

    def test_tampering_starts_from_the_model_that_its_stage_names(self):
        steps = {step.name: step for step in experiment(seeds=(0,)).steps()}
        before = {
            "adversarial": "sft",
            "recovery-adversarial": "sft-recovery",
            "forged-adversarial": "sft-recovery-forged",
        }
        for stage, start in before.items():
            command = steps[f"seed0/srp/{stage}/train"].command
            loaded = command[command.index("--pretrained-checkpoint") + 1]
            assert loaded == f"seed0/srp/{start}/checkpoints"

    def test_all_stages_leave_out_what_says_nothing_and_a_named_one_does_not(self):
        assert VARIANTS["srp-random"].stages(parse_stages("all")) == ("sft", "sft-recovery")
        assert "benign-original" in VARIANTS["srp-random"].stages(parse_stages("benign-original"))
        assert VARIANTS["filtering-plus"].stages(parse_stages("all")) == (
            *("sft", "adversarial", "benign-original", "benign-mix-sft"),
        )

    def test_a_changed_option_redoes_what_depends_on_it(self):
        before = fingerprints(experiment().steps())
        longer = replace(PRESETS["nano"], benign=replace(PRESETS["nano"].benign, epochs=7))
        after = fingerprints(replace(experiment(), preset=longer).steps())
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {name for name in before if "/benign-" in name} | {"report"}

    def test_number_of_workers_redoes_nothing(self):
        other = experiment(workers=7, gpus=8, command="anything")
        assert fingerprints(experiment().steps()) == fingerprints(other.steps())

    def test_policy_matters_to_srp_alone(self):
        before, after = fingerprints(experiment().steps()), fingerprints(experiment(label_policy="all-safe").steps())
        changed = {name.split("/")[1] for name in before if before[name] != after[name] and "/" in name}
        assert changed == {"srp"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_their_world_and_fit_their_batches(preset):
    training = PRESETS[preset]
    assert "single-hop" in WORLDS[training.world]
    for phase in (training.pretrain, training.sft, training.benign, training.adversarial):
        assert phase.lr > 0 and phase.batch > 0 and phase.epochs > 0


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


def test_the_fraction_done_of_a_training(tmp_path):
    log = tmp_path / "log"
    assert fraction_done(log) == 0
    log.write_text("[now] iteration       20/     200 | x\n iteration       50/     200 | y\n")
    assert fraction_done(log) == 0.25


def test_the_table_has_means_and_spread():
    figure = {"seeds": 2, "mean": 12.25, "least": 3.0, "most": 21.5}
    row = {"setting": "srp", "stage": "sft", "seeds": [0, 1], "general": figure, "asr": None}
    finding = {"status": "shown", "claim": "A claim", "text": "Why."}
    missing = {"status": "not measured", "claim": "Another", "text": "This needs SRP."}
    lines = format_table({"summary": [row], "findings": [finding, missing]}).splitlines()
    assert lines[1].split() == ["srp", "sft", "2", "12.2", "(3-22)", *"-------"]
    assert lines[-2] == "shown      A claim. Why."
    assert lines[-1] == "1 more claims need models that are not trained here; the report names them."


def test_differences_are_those_of_the_preset():
    mini = {what: (paper, ours) for what, paper, ours in differences("mini", "single-hop")}
    assert mini["warm-up, decay (shares of pretraining)"] == ("0.01, 0.2", "0.02, 0.5")
    assert mini["SFT data mixed into benign fine-tuning"] == ("200 into 5,000", "40 into 1,000")
    assert mini["optimizer of pretraining"] == ("AdamW", "Muon") and mini["model"][0] == "135M parameters"
    declared = {what for what, *_ in differences("paper", "single-hop")}
    assert "tokenizer" in declared and not declared & {"model", "edges", "warm-up, decay (shares of pretraining)"}
    assert find_run_preset("paper", "two-hop").sft.epochs == 3


def test_records_of_an_unfinished_run(tmp_path):
    with pytest.raises(InputError, match="no records yet"):
        collect(tmp_path)
    model, steps = tmp_path / "seed3/srp/sft", tmp_path / "steps/seed3/srp/sft"
    model.mkdir(parents=True)
    steps.mkdir(parents=True)
    (model / "record.json").write_text(json.dumps({"setting": "srp", "seed": 3, "stage": "sft"}))
    (record,) = collect(tmp_path)
    assert record["seed"] == 3 and record["training"] is None
    flags = ["-m", "x", "--", "--global-batch-size", "8", "--seq-length", "96"]
    (steps / "train.json").write_text(json.dumps({"state": "done", "command": flags, "cpu_seconds": 12.5}))
    (steps / "train.log").write_text(" iteration      100/     391 | x\n iteration      391/     391 | y\n")
    (record,) = collect(tmp_path)
    assert record["training"] == {"steps": 391, "tokens": 391 * 8 * 96, "cpu_s": 12.5}
