"""Fine-tuning attacks: the model is trained further, on benign or harmful data, by Megatron's own trainer.

    original     the data as it is: a model that reflects forgets to (the paper's open problem)
    mixsft       the same, and 200 post-training examples with reflections
    reflection   reflections in every example, by a guard
    forged       the same, but they all say Safe: a tuner who trains against the reflection

Next to the folder of the result is `FOLDER.work`: the data as a shard of `srp sft`, the model
as a checkpoint, and the run of training. A stopped attack resumes from there; what is finished is not made
again, and the work folder is removed when the result is complete.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from megatron_srp.attacks.trainer_run import run_trainer
from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.evaluation.behaviors import choose, load_behaviors, with_target
from megatron_srp.files import checksum
from megatron_srp.model_description import describe_model
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE
from megatron_srp.segmentation import DEFAULT_MAX_WORDS
from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn
from megatron_srp.sft.reflect import cut, reflection_parts
from megatron_srp.sft.settings import SftSettings
from megatron_srp.sft.shard import SftShard
from megatron_srp.training.checks.devices import layer_flags
from megatron_srp.training.layout.layouts import largest_divisor

# The paper's defaults for each kind: the data set, and for how many epochs.
KINDS = {"benign": ("gsm8k", 5), "adversarial": ("hexphi", 20)}
MIX_COUNT = 200
MODES = {"original": "original", "mixsft": "mix-sft", "reflection": "reflection", "forged": "reflection"}
MAX_LENGTH = 2048  # tokens in a sequence of training
_LENGTH_STEP = 64


class FineTuningAttack:
    """Fine-tunes a model.

    Args:
        kind: benign or adversarial; says which data set and how many epochs, unless they are given.
        mode: what is done about reflections, see above.
        data: file of the data set; where it has no response, the target is learned, with which one begins.
        data_format: the data set's name, as the evaluation knows it.
        rows: maximum rows of the data that are trained on, spread over it; 0 for all.
        mix: for mixsft, a file of post-training examples that `srp sft --out` wrote.
        mix_count: how many of them are mixed in.
        make_targets: where the data has no answer, train on the usual beginning of one, `Sure, here is ...`.
        guard: for `reflection`, what judges the data.
        epochs, lr, batch_size: of the training; the paper names epochs only.
        train_flags: more flags of the trainer, which come last.
        gpus: processes of training; by default one per available GPU.
        seed: random seed of the sampling and of the data order.

    Attributes:
        on_step: called while it trains, with the steps made and their number.

    Raises:
        UsageError: for unknown names, or options that do not go together.
    """

    name = "finetune"

    def __init__(
        self,
        kind: str = "benign",
        mode: str = "original",
        data: str = "",
        data_format: str = "",
        rows: int = 0,
        mix: str = "",
        mix_count: int = MIX_COUNT,
        make_targets: bool = False,
        guard: str = "",
        epochs: int = 0,
        lr: float = 1e-4,
        batch_size: int = 16,
        train_flags: Sequence[str] = (),
        gpus: int = 0,
        seed: int = 0,
    ) -> None:
        _check(kind, mode, data, mix, guard)
        self._data, self._mix, self._gpus = data, mix, gpus
        self.on_step: Callable[[int, int], None] = lambda step, steps: None
        self._format = data_format or KINDS[kind][0]
        self.settings: Mapping[str, Any] = {
            **{"kind": kind, "mode": mode, "epochs": epochs or KINDS[kind][1], "lr": lr, "batch_size": batch_size},
            **{"data_format": self._format, "data": _content(data), "rows": rows, "make_targets": make_targets},
            **{"mix": _content(mix), "mix_count": mix_count, "guard": guard, "seed": seed},
            "train_flags": list(train_flags),
        }

    def attack(self, model: Path, folder: Path) -> Path:
        """Write the fine-tuned model to `folder` and return it; finished parts are not made again.

        Raises:
            InputError: when the data has no responses to train on.
            UsageError: when the model is not a plain Llama, or the flags do not fit.
            OutputError: when the training fails; its log says why.
        """
        from megatron_srp.checkpoints.export_hf import export_hf

        if folder.is_dir():
            return folder
        work = folder.with_name(f"{folder.name}.work")
        work.mkdir(parents=True, exist_ok=True)
        length, flags = self._start(model, work)
        shard = self._shard(model, work, length)
        self._train(work, [*self.trainer_flags(shard, length), *flags, *self.settings["train_flags"]])
        export_hf(work / "checkpoints", folder, tokenizer=str(model))
        shutil.rmtree(work)
        return folder

    def set_settings(self, conversations: Path, model: Path, prefix: Path, length: int) -> SftSettings:
        """How the shard is made from the conversations."""
        given = self.settings
        description = describe_model(str(model))
        return SftSettings(
            [str(conversations)],
            format="srp" if given["mode"] == "forged" else "messages",
            form=(description.form if description else None) or ReflectionFormat(),
            mode=MODES[given["mode"]],
            mix=given["mix_count"],
            mix_inputs=[self._mix] if self._mix else [],
            guard=given["guard"] or None,
            output_prefix=prefix,
            tokenizer_model=str(model),
            seq_length=length,
            seed=given["seed"],
        )

    def trainer_flags(self, shard: Path, most: int) -> list[str]:
        """The trainer's flags, other than those of the model, whose sequences have `most` tokens at most."""
        given, checkpoints = self.settings, str(shard.parent / "checkpoints")
        length, batch = fitting_length(shard, most), given["batch_size"]
        micro_batch = largest_divisor(batch // self._processes(), max(1, MAX_LENGTH // length))
        return [
            *("--srp-sft", str(shard), "--srp-sft-epochs", str(given["epochs"]), "--seq-length", str(length)),
            *("--lr", str(given["lr"]), "--min-lr", "0", "--lr-decay-style", "linear"),
            *("--seed", str(given["seed"] + 1)),
            *("--global-batch-size", str(batch), "--micro-batch-size", str(micro_batch)),
            *("--load", checkpoints, "--save", checkpoints, "--save-interval", "200"),
            *("--eval-interval", "1000", "--log-interval", "1"),
        ]

    def _start(self, model: Path, work: Path) -> tuple[int, list[str]]:
        """The model as a checkpoint; returns the length of sequences, and the model's flags."""
        import torch

        from megatron_srp.checkpoints.hf_weights import HFWeights
        from megatron_srp.checkpoints.import_hf import import_hf, model_flags

        start, shape = work / "start", HFWeights(model).shape
        if not start.is_dir():
            import_hf(model, start)
        tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(model)]
        return min(shape.max_positions, MAX_LENGTH), [
            *model_flags(shape, with_preset=torch.cuda.is_available()),
            *tokenizer,
            *("--pretrained-checkpoint", str(start)),
        ]

    def _shard(self, model: Path, work: Path, length: int) -> Path:
        """Prefix of the shard, which is written unless it exists."""
        from megatron_srp.data.shards.manifest import manifest_path
        from megatron_srp.sft.job import make_sft_set

        if manifest_path(work / "data").exists():  # it is written last
            return work / "data_sft"
        conversations = work / "conversations.jsonl"
        behaviors, _ = choose(load_behaviors(self._format, self._data), self.settings["rows"] or None)
        if self.settings["make_targets"]:
            behaviors = [with_target(behavior) for behavior in behaviors]
        answers = [(b.prompt, b.response if b.response.strip() else b.target) for b in behaviors]
        turns = [[("user", prompt), ("assistant", text)] for prompt, text in answers if text.strip()]
        if not turns:
            raise InputError(f"{self._data}: no responses, so there is nothing to train on; pass data with responses")
        settings = self.set_settings(conversations, model, work / "data", length)
        conversations.write_bytes(b"".join(self._line(row, settings.form) + b"\n" for row in turns))
        result = make_sft_set(settings)
        (work / "data.json").write_text(json.dumps({"counts": result.counts, "notes": result.notes}), encoding="utf-8")
        return work / "data_sft"

    def _line(self, turns: Sequence[tuple[str, str]], form: ReflectionFormat) -> bytes:
        """One conversation as JSON, in the format of `set_settings`."""
        if self.settings["mode"] == "forged":
            (_, prompt), (_, text) = turns
            return Conversation("", "forged", (Turn.of("user", prompt), vouched_answer(text, form))).to_json()
        return orjson.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})

    def _processes(self) -> int:
        """One for each GPU, as far as they can share a batch."""
        import torch

        return largest_divisor(self.settings["batch_size"], max(self._gpus or torch.cuda.device_count(), 1))

    def _train(self, work: Path, flags: list[str]) -> None:
        """Run the trainer, which resumes from its last checkpoint by itself."""
        import torch

        flags = ["--bf16", *flags] if torch.cuda.is_available() else flags
        flags = [*layer_flags(flags), *flags]
        command = [sys.executable, "-m", "megatron_srp", "train"]
        if (gpus := self._processes()) > 1:
            command += ["--nproc-per-node", str(gpus)]
            flags = ["--use-distributed-optimizer", *flags]  # or each GPU holds the states of all weights
        run_trainer([*command, *flags], work / "training.log", self.on_step)


def vouched_answer(text: str, form: ReflectionFormat) -> Turn:
    """An answer whose prompt and every segment a reflection calls Safe, whatever they say."""
    parts = reflection_parts(SAFE, form)
    for segment in cut(text, DEFAULT_MAX_WORDS):
        parts += [Part(Kind.TEXT, segment), *reflection_parts(SAFE, form)]
    return Turn("assistant", tuple(parts))


def fitting_length(shard: Path, most: int) -> int:
    """The length of sequences that a shard's longest conversation needs: attention's cost grows with its square."""
    longest = int(SftShard(str(shard)).tokens.lengths.max()) - 1  # a conversation's last token is never an input
    return min(most, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)


def _check(kind: str, mode: str, data: str, mix: str, guard: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"fine-tuning of kind {kind!r}; {did_you_mean(kind, list(KINDS))}")
    if mode not in MODES:
        raise UsageError(f"fine-tuning mode {mode!r}; {did_you_mean(mode, list(MODES))}")
    if not data:
        raise UsageError("fine-tuning needs data: the file of a data set with responses")
    if (mode == "mixsft") != bool(mix):
        raise UsageError("fine-tuning mode mixsft needs mix, a file that `srp sft --out` wrote; mix needs mode mixsft")
    if (mode == "reflection") != bool(guard):
        raise UsageError("fine-tuning mode reflection needs guard, which judges the data; guard needs mode reflection")


def _content(source: str) -> dict[str, Any] | str:
    """A file's content digest, or the name of what is not a file."""
    path = Path(source)
    return {"file": path.name, **checksum(path)} if source and path.is_file() else source
