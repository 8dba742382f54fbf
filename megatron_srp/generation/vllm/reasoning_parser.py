"""`vllm serve --reasoning-parser srp`: reflections, wherever they stand in an answer, go to its `reasoning` field.

For servers without the middleware. Under `retract` text is held back until a verdict on the whole of its segment. A
parser cannot change why an answer ended, nor show a refusal.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser

from megatron_srp.generation.guard.scanner import ReflectionScanner
from megatron_srp.generation.vllm.inline_answer import InlineAnswer
from megatron_srp.generation.vllm.model import ServedModel
from megatron_srp.schema import SafetyLabel


class ReflectionParser(ReasoningParser):
    """Hides reflections.

    Args:
        tokenizer: vLLM's own, which is not used.
    """

    engine_based_streaming = True  # so that vLLM asks for what is held back when an answer ends
    _models: ClassVar[dict[str, ServedModel]] = {}  # vLLM makes a parser for every answer

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self._answer: InlineAnswer | None = None
        self._labels = 0

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """The reflections and the text of a whole answer.

        Its tokens are not given, so nobody knows which reflections were forced in the middle of a segment. Under
        `retract` with an interval, text counts as let pass where a Safe one ends the answer, and else not at all.
        """
        served = self._served()
        policy, form = served.policy, served.form
        shown, held, labels = "", "", []
        for found in ReflectionScanner(form).feed(model_output, ended=True):
            if isinstance(found, str):
                held += found
                continue
            labels.append(found)
            if policy.stops(found):
                break
            if not policy.reflect_every:
                shown, held = shown + held, ""
        passed = not held or model_output.rstrip().endswith(form.close)
        if policy.on_unsafe != "retract" or (labels and passed and not policy.stops(labels[-1])):
            shown += held
        return " ".join(map(form.render, labels)) or None, shown or None

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """What the next tokens add to either field."""
        answer = self._following()
        return self._message("".join(map(answer.push, delta_token_ids)))

    def finish_streaming(self) -> DeltaMessage | None:
        """The last text of an answer that has ended."""
        return self._message(self._following().finish())

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        return False  # a reflection may come after any segment

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        return input_ids

    def _message(self, shown: str) -> DeltaMessage | None:
        answer = self._following()
        labels: list[SafetyLabel] = list(answer.guard.reflections[self._labels :])
        self._labels += len(labels)
        form = self._served().form
        reasoning = " ".join(map(form.render, labels))
        return DeltaMessage(content=shown or None, reasoning=reasoning or None) if shown or reasoning else None

    def _following(self) -> InlineAnswer:
        if self._answer is None:
            served = self._served()
            self._answer = InlineAnswer(served.tokens, served.policy)
        return self._answer

    def _served(self) -> ServedModel:
        config = self._model_config
        assert config is not None
        return self._models.setdefault(config.model, self._models.get(config.model) or ServedModel.of(config))
