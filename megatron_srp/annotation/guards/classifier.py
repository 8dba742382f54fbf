"""Guards that are encoders with a classification head (`AutoModelForSequenceClassification`), described by a YAML file:

name: duoguard
classifier: DuoGuard/DuoGuard-0.5B   # folder or hub name
tokenizer: Qwen/Qwen2.5-0.5B         # default: the model's own
head: sigmoid                        # each label has a probability of its own; softmax: the labels share one
safe: [safe]                         # softmax: the labels that mean Safe
threshold: 0.5                       # a label counts from this probability on; --guard-threshold overrides it
categories: {LABEL_0: Violent}       # label of the model's config: the category's name; default: the label
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, StringArray, labels_of
from megatron_srp.annotation.extensions import check_options
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

HEADS = ("sigmoid", "softmax")
ENGINES = ("hf", "vllm")


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """A classifier's description; the module's docstring explains the fields. `revision` is a hash of the file."""

    name: str
    classifier: str
    head: str
    tokenizer: str | None = None
    safe: Sequence[str] = ()
    threshold: float = 0.5
    categories: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""

    @classmethod
    def load(cls, path: Path, tree: Mapping[str, Any]) -> "ClassifierSpec":
        """Raises UsageError for a mistake in the file."""
        known = [f.name for f in fields(cls) if f.name != "revision"]
        for name in tree:
            if name not in known:
                raise UsageError(f"--guard {path}: unknown field {name!r}; {did_you_mean(str(name), known)}")
        try:
            spec = cls(**tree, revision=hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        except TypeError as error:
            raise UsageError(f"--guard {path}: {error}; a classifier has a name, a classifier and a head") from None
        if spec.head not in HEADS:
            raise UsageError(f"--guard {path}: head {spec.head!r}; {did_you_mean(str(spec.head), list(HEADS))}")
        if (spec.head == "softmax") != bool(spec.safe):
            raise UsageError(
                f"--guard {path}: a softmax head has labels that mean Safe (`safe: [NAME]`), a sigmoid none"
            )
        return spec

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises UsageError where the file names labels that the model does not have."""
        for name in (*self.safe, *self.categories):
            if name not in labels:
                choices = did_you_mean(str(name), list(labels))
                raise UsageError(f"guard {self.name}: its model has no label {name!r}; {choices}")


def load_classifier(path: Path, tree: Mapping[str, Any], options: GuardOptions) -> "ClassifierGuard":
    """The guard that the file describes, with its model loaded; raises UsageError."""
    allowed = {"model", "tokenizer", "threshold", "engine", "engine_options"}
    if not allowed.issuperset(options.changed()):
        raise UsageError(f"--guard {path} is a classifier and does not accept {', '.join(options.changed_flags())}")
    from megatron_srp.annotation.guards.chat_guard import check_threshold

    check_threshold(options.threshold)
    spec = ClassifierSpec.load(path, tree)
    model = options.model or spec.classifier
    tokenizer = options.tokenizer or (None if options.model else spec.tokenizer)
    encoder = _load_encoder(options.engine, model, tokenizer, options.engine_options)
    return ClassifierGuard(spec, encoder, options.threshold or spec.threshold)


def _load_encoder(engine: str, model: str, tokenizer: str | None, options: Mapping[str, Any]) -> Any:
    """The model in that engine, transformers or vLLM; raises UsageError for another one, and for its options."""
    given = f"--guard-engine {engine}"
    if engine not in ENGINES:
        raise UsageError(f"{given}: a classifier runs in {' or '.join(ENGINES)}")
    with missing_packages_explained(given):
        if engine == "vllm":
            from megatron_srp.annotation.engines.vllm_encoder import VLLMEncoder

            check_options(VLLMEncoder, options, given, skip=2)
            return VLLMEncoder(model, tokenizer, **options)
        from megatron_srp.annotation.engines.hf_encoder import TextEncoder

        check_options(TextEncoder, options, given, skip=3)
        return TextEncoder(model, tokenizer, head=True, **options)


class ClassifierGuard(Guard):
    """Unsafe from a probability on; the categories are the labels that reach it.

    Args:
        encoder: with `labels`, `logits` and `revision`.
    """

    def __init__(self, spec: ClassifierSpec, encoder: Any, threshold: float) -> None:
        spec.check_labels(encoder.labels)
        self.spec, self.encoder, self.threshold = spec, encoder, threshold
        self.name, self.revision = spec.name, f"{spec.revision}-{encoder.revision}"
        self._harmful = np.array([label not in spec.safe for label in encoder.labels])
        self._names = [spec.categories.get(label, label) for label in encoder.labels]

    @property
    def settings(self) -> dict[str, Any]:
        return {"guard": self.name, "revision": self.revision, "threshold": self.threshold}

    def close(self) -> None:
        self.encoder.close()

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        shares = self._probabilities(texts)
        harms = self._harm(shares)
        return [self._result(*one) for one in zip(shares, harms.tolist(), strict=True)]

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        return self.results(texts.to_pylist())

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        return self.classify(texts.to_pylist())

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return self._harm(self._probabilities(texts))

    def _probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, L] of the labels."""
        logits = self.encoder.logits(texts) if texts else np.empty((0, len(self._names)), np.float32)
        if self.spec.head == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        exponents = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        return exponents / exponents.sum(1, keepdims=True)

    def _harm(self, shares: np.ndarray) -> np.ndarray:
        """float32[N]: of softmax, the share of the labels that are not safe; of sigmoid, the likeliest label's."""
        of = shares[:, self._harmful]
        return (of.max(1) if self.spec.head == "sigmoid" else of.sum(1)).astype(np.float32)

    def _result(self, shares: np.ndarray, harm: float) -> GuardResult:
        if harm < self.threshold:
            return GuardResult(SAFE, 1 - harm)
        reached = np.flatnonzero(self._harmful & (shares >= self.threshold))
        if not len(reached):  # softmax: the harmful labels reach it only together
            reached = np.array([np.where(self._harmful, shares, -1).argmax()])
        names = dict.fromkeys(self._names[i] for i in reached.tolist())
        return GuardResult(SafetyLabel(Verdict.UNSAFE, tuple(names)), harm)


def classifier_tree(path: Path) -> Mapping[str, Any] | None:
    """The content of a YAML file that describes a classifier; None for any other file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict) and "classifier" in tree else None
