"""The steps from an empty folder to records, and what each needs.

    OUT/seed0/tokenizer                             one for all settings of a seed
    OUT/seed0/SETTING/world, shard                  srp world make, srp preprocess
                      pretrained/checkpoints        Megatron's trainer
                      start                         the pretrained model for post-training (`start`)
                      chats                         conversations as shards (`conversations`)
                      STAGE/checkpoints             the trainer on --srp-sft
                      STAGE/model, record.json      exported, and what `evaluation` measured
    OUT/report.html, report.json, report.md

A step is a command that could be run by hand in OUT. Its fingerprint covers what decides its result, so that a
changed option redoes that step and what depends on it, and nothing else.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from megatron_srp import __version__
from megatron_srp.medsafetyworld.experiment.presets import Phase, RunPreset
from megatron_srp.medsafetyworld.experiment.variants import (
    PRETRAINED,
    STAGES,
    VARIANTS,
    Stage,
    Variant,
    tier,
)
from megatron_srp.medsafetyworld.world.settings import TREATMENTS, Setting
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
        task, label_policy, cause_first: of the world.
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
    cause_first: bool = False
    limit: int | None = None
    workers: int = 1
    gpus: int = 1
    command: str = ""

    def steps(self) -> list[Step]:
        """All steps, each after what it needs: the two-by-two of every seed first (`variants.tier`)."""
        graphs = [_SeedGraph(self, seed) for seed in self.seeds]
        models = [model for graph in graphs for model in graph.models()]
        models.sort(key=lambda model: model[0])  # stable: by seed within a tier
        records = tuple(measure for _, measure in models)
        command = (*_STEP, "report", *(step.results[-1] for step in records))
        results = ("report.html", "report.json", "report.md")
        report = Step("report", command, results, records, free=("--command", self.command))
        return list(_with_needs([report], set()))


def _with_needs(steps: Iterable[Step], seen: set[str]) -> Iterator[Step]:
    """The steps and all that they need, each once, after what it needs."""
    for step in steps:
        if step.name not in seen:
            seen.add(step.name)
            yield from _with_needs(step.needs, seen)
            yield step


class _SeedGraph:
    """The steps of one seed; variants share those of the same name."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.of, self.preset, self.seed = experiment, experiment.preset, seed
        self.root = f"seed{seed}"
        self.tokenizer = f"{self.root}/tokenizer"

    def models(self) -> Iterator[tuple[int, Step]]:
        """What measures each model, with its tier."""
        for variant in self.of.variants:
            yield tier(variant, PRETRAINED), self._measure_pretrained(variant)
            trained: dict[str, Step] = {}
            for name in variant.stages(self.of.stages):
                trained[name] = self._tune(variant, STAGES[name], trained)
                yield tier(variant, name), self._measure(variant, name, trained[name])

    def _make_tokenizer(self) -> Step:
        make = (*_STEP, "tokenizer", self.preset.world, self.of.task, str(self.seed), self.tokenizer)
        return Step(self.tokenizer, make, (self.tokenizer,))

    def _world(self, variant: Variant) -> Step:
        folder = f"{self.root}/{variant.pretrained}/world"
        flags: tuple[str, ...] = ("--task", self.of.task, "--preset", self.preset.world, "--setting", variant.setting)
        flags += ("--seed", str(self.seed), *(("--cause-first",) if self.of.cause_first else ()))
        if TREATMENTS[Setting(variant.setting)].verdicts:
            flags += ("--label-policy", variant.policy or self.of.label_policy)
        command = ("-m", "megatron_srp", "world", "make", *flags, folder)
        return Step(folder, command, (folder,), free=("--workers", str(self.of.workers)))

    def _shard(self, variant: Variant) -> Step:
        folder = f"{self.root}/{variant.pretrained}"
        has_verdicts = TREATMENTS[Setting(variant.setting)].verdicts and not variant.data_policy
        verdicts = ("--store", f"{folder}/world/annotations") if has_verdicts else ("--guard", "none")
        command: tuple[str, ...] = ("-m", "megatron_srp", "preprocess", "--input", f"{folder}/world/corpus/*.jsonl")
        command += (*verdicts, "--append-eod", "--output-prefix", f"{folder}/shard/corpus")
        command += ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self.tokenizer)
        needs, free = (self._world(variant), self._make_tokenizer()), ("--workers", str(self.of.workers))
        return Step(f"{folder}/shard", command, (f"{folder}/shard",), needs, free, seconds=6)

    def _treated(self, variant: Variant) -> Step:
        """A sidecar of the variant's policy on its plain shard; the shard itself where it has no policy."""
        shard = self._shard(variant)
        if not variant.data_policy:
            return shard
        folder = f"{self.root}/{variant.pretrained}"
        command: tuple[str, ...] = ("-m", "megatron_srp", "preprocess", "--input-shards", self._corpus(variant))
        command += ("--store", f"{folder}/world/annotations", "--policy", variant.data_policy)
        command += ("--reflection-tokens", "special" if variant.special else "text")
        command += ("--output-prefix", f"{folder}/policy/corpus")
        command += ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self.tokenizer)
        free = ("--workers", str(self.of.workers))
        return Step(f"{folder}/policy", command, (f"{folder}/policy",), (shard, self._world(variant)), free, seconds=6)

    def _corpus(self, variant: Variant) -> str:
        return f"{self.root}/{variant.pretrained}/shard/corpus_text_document"

    def _sidecar(self, variant: Variant) -> tuple[str, ...]:
        """The sidecar of the variant's policy, if it has one."""
        path = f"{self.root}/{variant.pretrained}/policy/corpus_text_document.srp"
        return (path,) if variant.data_policy else ()

    def _tokenizer(self, variant: Variant) -> tuple[str, Step]:
        """The tokenizer that the variant's model is trained with, and what makes it."""
        if variant.special:
            return f"{self.root}/{variant.pretrained}/policy/corpus_tokenizer", self._treated(variant)
        return self.tokenizer, self._make_tokenizer()

    def _pretrain(self, variant: Variant) -> Step:
        phase, prefix, shard = self.preset.pretrain, self._corpus(variant), self._treated(variant)
        counted = VARIANTS[variant.steps_of] if variant.steps_of else variant
        command: tuple[str, ...] = (
            *_STEP,
            "pretrain",
            self._corpus(counted),
            str(phase.epochs),
            str(self.preset.decay),
        )
        command += (*self._training(variant.pretrained, PRETRAINED, phase), "--lr-decay-style", "WSD")
        command += ("--seq-length", str(self.preset.seq_length), "--data-path", prefix)
        command += tuple(flag for path in self._sidecar(variant) for flag in ("--srp-sidecar", path))
        command += ("--lr-wsd-decay-style", "linear", "--lr-warmup-fraction", str(self.preset.warmup))
        command += ("--split", "1,0,0", "--eval-iters", "0", "--no-create-attention-mask-in-dataloader")
        needs = (shard, self._shard(counted)) if variant.steps_of else (shard,)
        return self._train_step(variant.pretrained, PRETRAINED, command, needs, self.preset.minutes * 60)

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

    def _start(self, variant: Variant) -> Step:
        folder = f"{self.root}/{variant.pretrained}/start"
        model = self._measure(VARIANTS[variant.pretrained], PRETRAINED, self._pretrain(variant))
        trained_on = (self._corpus(variant), folder, str(self.seed), *self._sidecar(variant))
        command = (*_STEP, "start", model.results[0], *trained_on)
        return Step(folder, command, (folder,), (model, self._treated(variant)), seconds=_START_S)

    def _chats(self, variant: Variant) -> Step:
        folder, form = f"{self.root}/{variant.name}/chats", "reflected" if variant.reflected else "plain"
        world, (tokenizer, made) = self._world(variant), self._tokenizer(variant)
        marks = ("special",) if variant.special and variant.reflected else ()
        command = (*_STEP, "chats", world.results[0], tokenizer, folder, form, str(self.preset.chat_length), *marks)
        return Step(folder, command, (folder,), (world, made), seconds=3)

    def _tune(self, variant: Variant, stage: Stage, trained: dict[str, Step]) -> Step:
        """A training on conversations, from the checkpoint of the stage before."""
        before, chats = trained[stage.after] if stage.after else self._start(variant), self._chats(variant)
        data = [part for name, share in stage.data for part in self._weighted(chats, name, share)]
        phase: Phase = getattr(self.preset, stage.phase)
        epochs = phase.epochs * (variant.sft_times if stage.phase == "sft" else 1)
        command = (*_STEP, "tune", *self._training(variant.name, stage.name, phase), "--pretrained-checkpoint")
        command += (before.results[0], "--seq-length", str(self.preset.chat_length), "--lr-decay-style", "linear")
        command += ("--lr-warmup-fraction", str(self.preset.tuning_warmup))
        command += ("--srp-sft", *data, "--srp-sft-epochs", f"{epochs:.0f}")
        command += ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self._tokenizer(variant)[0])
        share = 0.25 if stage.phase == "sft" else 0.05
        return self._train_step(variant.name, stage.name, command, (before, chats), share * self.preset.minutes * 60)

    def _weighted(self, chats: Step, name: str, share: str) -> tuple[str, str]:
        """A shard of `conversations`, after how often an epoch uses it."""
        return str(self.preset.mix) if share == "mix" else share, f"{chats.results[0]}/{name}_sft"

    def _measure(self, variant: Variant, stage: str, train: Step) -> Step:
        """Export the model and measure it, in one process: most of the time is start-up."""
        folder, world = f"{self.root}/{variant.name}/{stage}", self._world(variant)
        made = (f"{folder}/model", f"{folder}/record.json")
        command = (*_STEP, "measure", train.results[0], *made, world.results[0], variant.name, stage, str(self.seed))
        return Step(f"{folder}/measure", (*command, *self._limit()), made, (train, world), seconds=4 * _START_S)

    def _measure_pretrained(self, variant: Variant) -> Step:
        """What the pretrained model knows; another variant's is recorded under this one's name."""
        measured = self._measure(VARIANTS[variant.pretrained], PRETRAINED, self._pretrain(variant))
        if not variant.base:
            return measured
        folder, world = f"{self.root}/{variant.name}/{PRETRAINED}", self._world(variant)
        record, model = f"{folder}/record.json", measured.results[0]
        command = (*_STEP, "measure", "-", model, record, world.results[0], variant.name, PRETRAINED, str(self.seed))
        return Step(f"{folder}/measure", (*command, *self._limit()), (record,), (measured, world), seconds=_START_S)

    def _limit(self) -> tuple[str, ...]:
        return () if self.of.limit is None else ("--limit", str(self.of.limit))
