"""Questions in, answers out: greedy, in batches, by the engine of guarded generation, with no guard in the way.

Reflections are hidden and collected, and stop nothing; an end-of-text token ends an answer, which is how a
model stops itself. Forced reflections are read in between and leave no trace.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.medsafetyworld.measure.attacks import Attack
from megatron_srp.medsafetyworld.measure.questions import Question
from megatron_srp.medsafetyworld.measure.scoring import Answer
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization import load_tokenizer

if TYPE_CHECKING:
    from megatron_srp.generation.engines.request import Request

REFLECT_EVERY = 4  # tokens from one forced reflection to the next
_MARGIN = 1.25  # longer than the longest training answer: some models continue


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are made: the batch size, and where the model runs (None: as `srp generate` chooses).

    In float32 on a GPU too: the models are small, and probabilities in bfloat16 are coarse near a threshold.
    """

    batch_size: int = 128
    device: str | None = None
    dtype: str = "float32"


class Answerer:
    """One exported model.

    Args:
        folder: model and tokenizer, as `srp export` writes them.
        form: how it writes reflections; None for what its folder says.
        longest: texts as long as the longest answers.
        progress: called with each number of answers made.

    Raises:
        UsageError: when there is no model, or its tokenizer does not distinguish the verdicts.
    """

    def __init__(
        self,
        folder: Path,
        form: ReflectionFormat | None,
        longest: Sequence[str],
        settings: Settings,
        progress: Callable[[int], None],
    ) -> None:
        from megatron_srp.generation.engines.hf.model import GuardedModel, Options
        from megatron_srp.generation.engines.request import Sampling

        self._model = GuardedModel(str(folder.resolve()), form, settings.device, settings.dtype)
        self.form = form = self._model.form
        self._tokenizer = load_tokenizer("HuggingFaceTokenizer", folder)
        marks = [form.open, form.close] if form.special_tokens else []
        self._text_tokenizer = self._tokenizer.reading_as_text(marks)  # no text can write those
        self._batch_size, self._progress = settings.batch_size, progress
        reflection = len(form.encode(SafetyLabel(Verdict.UNSAFE), self._tokenizer))
        tokens = max((len(self._tokenizer.encode_inside(f" {text}")) for text in longest), default=32)
        self._policy, self._max_tokens = GuardPolicy("off"), int(_MARGIN * tokens) + 3 * reflection
        self._options = Options(self._policy, Sampling(), self._max_tokens)

    def chat(self, questions: Sequence[Question], attack: Attack) -> list[Answer]:
        """Answers to questions, each begun as the attack does, with forced reflections."""
        prefills = [attack.prefill(question, self.form) for question in questions]
        pairs = list(zip(questions, prefills, strict=True))
        answers = self._answer([self._chat(question, words, attack.ids) for question, words in pairs])
        return [replace(answer, prefill=words) for answer, words in zip(answers, prefills, strict=True)]

    def go_on(self, beginnings: Sequence[Question]) -> list[Answer]:
        """How the model continues pretraining texts, each at the beginning of a document."""
        eos = self._tokenizer.require_eos()  # the end of the document before, as in packed sequences
        requests = [self._model.complete(beginning.text, self._options) for beginning in beginnings]
        return self._answer([replace(request, prompt=[eos, *request.prompt]) for request in requests])

    def describe(self) -> dict[str, Any]:
        """The model and how it was run, as JSON."""
        model = self._model.network
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_new_tokens": self._max_tokens,
            "reflect_every": REFLECT_EVERY,
        }

    def _chat(self, question: Question, prefill: str, ids: bool) -> "Request":
        request = self._model.chat([{"role": "user", "content": question.text}], self._options)
        policy = replace(self._policy, reflect_every=REFLECT_EVERY)
        if not prefill:
            return replace(request, policy=policy)
        if ids:  # special tokens follow the prompt without a space
            return replace(request, prefill=self._tokenizer.encode_inside(prefill), policy=policy)
        spaced = self._tokenizer.decode(list(request.prompt[-1:])).endswith((" ", "\n"))
        words = self._text_tokenizer.encode_inside(prefill if spaced else f" {prefill}")
        return replace(request, prefill=words, policy=policy)

    def _answer(self, requests: Sequence["Request"]) -> list[Answer]:
        # Similar lengths together: padding is read as well.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt) + len(requests[i].prefill))
        answers: dict[int, Answer] = {}
        for at in range(0, len(order), self._batch_size):
            batch = order[at : at + self._batch_size]
            found = self._model.generator.generate([requests[i] for i in batch])
            answers |= {i: _read(generation) for i, generation in zip(batch, found, strict=True)}
            self._progress(len(batch))
        return [answers[i] for i in range(len(requests))]


def _read(generation: Generation) -> Answer:
    risks = [min(forced.controversial + forced.unsafe, 1.0) for forced in generation.forced]
    return Answer(
        generation.text,
        verdicts=tuple(str(label.verdict) for label in generation.reflections),
        prompt_risk=risks[0] if risks else None,
        answer_risk=max(risks[1:], default=None),
    )


def longest_answers(world: Path, most: int = 50) -> list[str]:
    """The longest training answers, in characters."""
    lines = (world / "sft.jsonl").read_text().splitlines()
    answers = {json.loads(line)["messages"][-1]["content"] for line in lines}
    return sorted(answers, key=len)[-most:]
