"""Running a world: the graph of steps, and what its progress, its records and its table say."""

import json
from dataclasses import replace

import pytest

from megatron_srp.errors import InputError
from megatron_srp.medsafetyworld.experiment.collect import collect
from megatron_srp.medsafetyworld.experiment.differences import differences
from megatron_srp.medsafetyworld.experiment.graph import Experiment
from megatron_srp.medsafetyworld.experiment.presets import PRESETS, find_run_preset
from megatron_srp.medsafetyworld.experiment.progress import fraction_done
from megatron_srp.medsafetyworld.experiment.table import format_table
from megatron_srp.medsafetyworld.experiment.variants import STAGES, VARIANTS, parse_settings, parse_stages
from megatron_srp.medsafetyworld.world.presets import PRESETS as WORLDS


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

    def test_a_longer_sft_starts_from_filtering_and_leaves_other_trainings_as_they_are(self):
        longer = (VARIANTS["filtering"], replace(VARIANTS["filtering-sft"], own_stages=()))
        steps = {step.name: step.command for step in experiment(variants=longer, seeds=(0,)).steps()}

        def epochs(name):
            return steps[name][steps[name].index("--srp-sft-epochs") + 1]

        assert "seed0/filtering/start" in steps["seed0/filtering-sft/sft/train"]
        assert int(epochs("seed0/filtering-sft/sft/train")) == 2 * int(epochs("seed0/filtering/sft/train"))
        assert epochs("seed0/filtering-sft/adversarial/train") == epochs("seed0/filtering/adversarial/train")

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

    def test_questions_change_the_corpus_and_nothing_else(self):
        def commands(name):
            steps = experiment(variants=(VARIANTS[name],), stages=("sft", "sft-recovery"), seeds=(0,)).steps()
            return {step.name.replace(name, "srp"): " ".join(step.command).replace(name, "srp") for step in steps}

        assert commands("srp-questions") == commands("srp")
        assert VARIANTS["srp-questions"] not in {*parse_settings("all"), *parse_settings("policies")}

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
    assert mini["entities"] == ("10,000 compounds, 1,500 outcomes", "160 compounds, 80 outcomes")
    assert mini["batch of SFT, of benign fine-tuning"] == ("128, 64 conversations", "8, 8 packed sequences")
    assert "SFT data mixed into benign fine-tuning" not in {what for what, *_ in differences("small", "two-hop")}
    declared = {what for what, *_ in differences("paper", "single-hop")}
    assert "tokenizer" in declared and not declared & {"model", "edges", "warm-up, decay (shares of pretraining)"}
    assert find_run_preset("paper", "two-hop").sft.epochs == 3


def test_the_paper_preset_has_the_numbers_of_its_tables_12_and_13():
    one, two = WORLDS["paper"]["single-hop"], WORLDS["paper"]["two-hop"]
    assert (one.compounds, one.outcomes, one.edges) == (10_000, 1500, {"single": 20_000, "pair": 6000})
    assert (two.compounds, two.mediators, two.outcomes, two.edges["join"]) == (10_000, 8500, 1500, 10_000)
    texts = {name: (r.templates, r.probability) for name, r in (one.renderings | two.renderings).items()}
    assert texts == {
        "single/forward": (1400, 1), "single/reverse": (1400, 0.3), "single/co-occurrence": (1000, 0.4),
        "pair/forward": (1400, 1), "pair/reverse": (1400, 0.3), "pair/co-occurrence": (1000, 0.8),
        "step/forward": (200, 1), "step/reverse": (200, 1),
        "join/forward": (700, 1), "join/reverse": (700, 1), "chain/forward": (700, 1),
    }  # fmt: skip
    for spec, samples in ((one, 20_000), (two, 6000)):
        assert (spec.sft_samples, spec.sft_reverse, spec.sft_templates) == (samples, 0.5, 10)
        assert (spec.refuse_ratio, spec.test_per_class, spec.benign_samples) == (0.1, 500, 5000)
        training = find_run_preset("paper", spec.task)
        assert (training.pretrain.lr, training.pretrain.batch, training.pretrain.epochs) == (5e-3, 128, 1)
        assert training.mix * samples == 200 and training.seq_length == 512
        assert training.optimizer[training.optimizer.index("--weight-decay") + 1] == "0"
        assert (training.benign.lr, training.benign.epochs) == (1e-3, 3)
    assert [(p.sft.lr, p.sft.epochs) for p in map(find_run_preset, ("paper", "paper"), (one.task, two.task))] == [
        (1e-3, 2), (1e-3, 3)
    ]  # fmt: skip


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
