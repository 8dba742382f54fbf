"""The steps from an empty folder to records, and what each needs.

    OUT/seed0/tokenizer                             one for all settings of a seed
    OUT/seed0/SETTING/world, shard                  srp world make, srp preprocess
                      pretrained/checkpoints        Megatron's trainer
                      start                         the pretrained model for post-training (`start`)
                      chats                         conversations as shards (`conversations`)
                      STAGE/checkpoints             the trainer on --srp-sft
                      STAGE/model, record.json      exported, and what `evaluation` measured
    OUT/report.html, report.json

A step is a command that could be run by hand in OUT. Its fingerprint covers what decides its result, so that a
changed option redoes that step and what depends on it, and nothing else.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from megatron_srp import __version__
from megatron_srp.medsafetyworld.experiment.presets import Phase, RunPreset
from megatron_srp.medsafetyworld.experiment.variants import (
    ADVERSARIAL,
    BENIGN,
    PRETRAINED,
    RECOVERY,
    SFT,
    VARIANTS,
    Variant,
)
from megatron_srp.training.layout.layouts import largest_divisor

_START_S = 10.0  # CPU seconds that a command of Megatron's or torch's takes to start
_STEP = ("-m", "megatron_srp.medsafetyworld.experiment.step")


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: unique, `seed0/srp/sft/train`, and the name of its log.
        command: arguments of Python.
        results: files and folders it makes, removed before it is redone from scratch.
        needs: steps that come first.
        free: arguments that do not change the result, such as a number of workers.
        seconds: expected CPU time, for the time left.
    """

    name: str
    command: tuple[str, ...]
    results: tuple[str, ...]
    needs: tuple["Step", ...] = ()
    free: tuple[str, ...] = ()
    seconds: float = 1.0
    fingerprint: str = field(init=False, default="")

    def __post_init__(self) -> None:
        content = [__version__, self.command, [step.fingerprint for step in self.needs]]
        object.__setattr__(self, "fingerprint", hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class Experiment:
    """What the user asks for; everything but `workers`, `gpus` and `command` decides results.

    Attributes:
        preset: how to train, and on which world.
        variants, stages, seeds: what is trained and measured.
        task, label_policy: of the world.
        limit: questions of each class; None for all.
        workers: processes that prepare data. gpus: ranks of a training.
        command: the one that reproduces it all, for the report.
    """

    preset: RunPreset
    variants: tuple[Variant, ...]
    stages: tuple[str, ...]
    seeds: tuple[int, ...]
    task: str = "single-hop"
    label_policy: str = "by-outcome"
    limit: int | None = None
    workers: int = 1
    gpus: int = 1
    command: str = ""

    def steps(self) -> list[Step]:
        """All steps, each after what it needs."""
        found: dict[str, Step] = {}
        for seed in self.seeds:
            for step in _SeedGraph(self, seed).steps():
                found.setdefault(step.name, step)
        records = tuple(step for step in found.values() if step.name.endswith("/measure") and self._asked(step))
        command = (*_STEP, "report", *(step.results[-1] for step in records))
        report = Step("report", command, ("report.html", "report.json"), records, free=("--command", self.command))
        return [*found.values(), report]

    def _asked(self, measure: Step) -> bool:
        """Whether the report includes it: `post-only` by itself needs filtering's model, but no row for filtering."""
        return measure.name.split("/")[1] in {variant.name for variant in self.variants}


class _SeedGraph:
    """The steps of one seed; several variants share those of one world."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.of, self.preset, self.seed = experiment, experiment.preset, seed
        self.root = f"seed{seed}"
        self.tokenizer = f"{self.root}/tokenizer"

    def steps(self) -> Iterable[Step]:
        make = (*_STEP, "tokenizer", self.preset.world, self.of.task, str(self.seed), self.tokenizer)
        tokenizer = Step(self.tokenizer, make, (self.tokenizer,))
        yield tokenizer
        for variant in self.of.variants:
            world = self._world(variant.world)
            shard = self._shard(variant.world, world, tokenizer)
            pretrain = self._pretrain(variant.world, shard)
            model = self._measure(VARIANTS[variant.world], PRETRAINED, world, pretrain)
            start = self._start(variant.world, model, shard)
            chats = self._chats(variant, world, tokenizer)
            yield from (world, shard, pretrain, model, start, chats)
            if variant.name != variant.world:
                yield self._measure_again(variant, world, model)
            yield from self._tunings(variant, world, start, chats)

    def _world(self, setting: str) -> Step:
        folder = f"{self.root}/{setting}/world"
        flags = ("--task", self.of.task, "--preset", self.preset.world, "--setting", setting, "--seed", str(self.seed))
        policy = ("--label-policy", self.of.label_policy) if setting == "srp" else ()
        command = ("-m", "megatron_srp", "world", "make", *flags, *policy, folder)
        return Step(folder, command, (folder,), free=("--workers", str(self.of.workers)))

    def _shard(self, setting: str, world: Step, tokenizer: Step) -> Step:
        folder = f"{self.root}/{setting}"
        verdicts = ("--store", f"{folder}/world/annotations") if setting == "srp" else ("--guard", "none")
        command: tuple[str, ...] = ("-m", "megatron_srp", "preprocess", "--input", f"{folder}/world/corpus/*.jsonl")
        command += (*verdicts, "--append-eod", "--output-prefix", f"{folder}/shard/corpus")
        command += ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self.tokenizer)
        free = ("--workers", str(self.of.workers))
        return Step(f"{folder}/shard", command, (f"{folder}/shard",), (world, tokenizer), free, seconds=6)

    def _pretrain(self, setting: str, shard: Step) -> Step:
        phase, prefix = self.preset.pretrain, f"{self.root}/{setting}/shard/corpus_text_document"
        command = (*_STEP, "pretrain", prefix, str(phase.epochs), *self._training(setting, PRETRAINED, phase))
        command += ("--seq-length", str(self.preset.seq_length), "--data-path", prefix, "--lr-decay-style", "WSD")
        command += ("--lr-wsd-decay-style", "linear", "--lr-warmup-fraction", "0.02", "--split", "1,0,0")
        command += ("--eval-iters", "0", "--no-create-attention-mask-in-dataloader")
        return self._train_step(setting, PRETRAINED, command, (shard,), self.preset.minutes * 60)

    def _train_step(
        self, owner: str, stage: str, command: tuple[str, ...], needs: tuple[Step, ...], seconds: float
    ) -> Step:
        folder = f"{self.root}/{owner}/{stage}"
        free = ("--gpus", str(self.of.gpus))
        return Step(f"{folder}/train", command, (f"{folder}/checkpoints",), needs, free, seconds + _START_S)

    def _training(self, owner: str, stage: str, phase: Phase) -> tuple[str, ...]:
        """Flags of every training."""
        checkpoints = f"{self.root}/{owner}/{stage}/checkpoints"
        longest = max(self.preset.seq_length, self.preset.chat_length)
        optimizer = self.preset.optimizer if stage == PRETRAINED else self.preset.tuning_optimizer
        flags = ("--", *self.preset.model, *optimizer, "--lr", str(phase.lr), "--min-lr", "0")
        micro_batch = largest_divisor(phase.batch, self.preset.micro_batch)
        flags += ("--global-batch-size", str(phase.batch), "--micro-batch-size", str(micro_batch))
        flags += ("--max-position-embeddings", str(longest), "--seed", str(1234 + self.seed))
        flags += ("--load", checkpoints, "--save", checkpoints, "--eval-interval", "1000000")
        return (*flags, "--srp-log", "brief", "--log-interval", "20", "--no-one-logger")

    def _start(self, setting: str, model: Step, shard: Step) -> Step:
        folder, prefix = f"{self.root}/{setting}", f"{self.root}/{setting}/shard/corpus_text_document"
        command = (*_STEP, "start", model.results[0], prefix, f"{folder}/start", str(self.seed))
        return Step(f"{folder}/start", command, (f"{folder}/start",), (model, shard), seconds=_START_S)

    def _chats(self, variant: Variant, world: Step, tokenizer: Step) -> Step:
        folder = f"{self.root}/{variant.name}/chats"
        form = "reflected" if variant.reflected else "plain"
        command = (*_STEP, "chats", world.results[0], self.tokenizer, folder, form, str(self.preset.chat_length))
        return Step(folder, command, (folder,), (world, tokenizer), seconds=3)

    def _tunings(self, variant: Variant, world: Step, start: Step, chats: Step) -> Iterable[Step]:
        sft: Step | None = None
        for stage in variant.stages(self.of.stages):
            before = start if sft is None or stage == RECOVERY else sft
            train = self._tune(variant, stage, before, chats)
            sft = sft or train
            yield from (train, self._measure(variant, stage, world, train))

    def _tune(self, variant: Variant, stage: str, before: Step, chats: Step) -> Step:
        """A training on conversations, from the checkpoint that `before` made."""
        data = [f"{chats.results[0]}/{part}" if part[0].isalpha() else part for part in self._data(stage)]
        phase = self.preset.adversarial if stage == ADVERSARIAL else self.preset.benign
        phase = self.preset.sft if stage in (SFT, RECOVERY) else phase
        command = (*_STEP, "tune", *self._training(variant.name, stage, phase), "--pretrained-checkpoint")
        command += (before.results[0], "--seq-length", str(self.preset.chat_length), "--lr-decay-style", "linear")
        command += ("--lr-warmup-fraction", "0.05", "--srp-sft", *data, "--srp-sft-epochs", f"{phase.epochs:.0f}")
        command += ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self.tokenizer)
        share = 0.25 if stage in (SFT, RECOVERY) else 0.05
        return self._train_step(variant.name, stage, command, (before, chats), share * self.preset.minutes * 60)

    def _data(self, stage: str) -> tuple[str, ...]:
        """Shards of `conversations` with how often an epoch uses each."""
        mix = str(self.preset.mix)
        mixes = {
            SFT: ("1", "sft_sft"),
            RECOVERY: ("1", "sft_sft", "1", "recovery_sft"),
            BENIGN[0]: ("1", "benign_sft"),
            BENIGN[1]: ("1", "benign_sft", mix, "sft_sft"),
            BENIGN[2]: ("1", "benign-reflection_sft"),
            ADVERSARIAL: ("1", "adversarial_sft"),
        }
        return mixes[stage]

    def _measure(self, variant: Variant, stage: str, world: Step, train: Step) -> Step:
        """Export the model and measure it, in one process: most of the time is start-up."""
        folder = f"{self.root}/{variant.name}/{stage}"
        made = (f"{folder}/model", f"{folder}/record.json")
        command = (*_STEP, "measure", train.results[0], *made, world.results[0], variant.name, stage, str(self.seed))
        return Step(f"{folder}/measure", (*command, *self._limit()), made, (train, world), seconds=2 * _START_S)

    def _measure_again(self, variant: Variant, world: Step, measured: Step) -> Step:
        """What another variant's pretrained model knows, recorded under this one's name."""
        folder, model = f"{self.root}/{variant.name}/{PRETRAINED}", measured.results[0]
        record = f"{folder}/record.json"
        command = (*_STEP, "measure", "-", model, record, world.results[0], variant.name, PRETRAINED, str(self.seed))
        return Step(f"{folder}/measure", (*command, *self._limit()), (record,), (measured, world), seconds=_START_S)

    def _limit(self) -> tuple[str, ...]:
        return () if self.of.limit is None else ("--limit", str(self.of.limit))
