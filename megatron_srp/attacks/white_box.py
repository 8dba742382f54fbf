"""The target as an attacker with its weights sees it: prompts are treated as every user's prompt is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import UsageError
from megatron_srp.evaluation.types import AttackCase, Defence, TargetModel
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel
from megatron_srp.verdict_tree import VerdictTree

if TYPE_CHECKING:
    from megatron_srp.evaluation.hf_target import HFTarget


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """Token ids exactly as in deployment: a search cannot find what a prompt cannot contain there."""

    target: "HFTarget"
    defence: Defence

    @classmethod
    def of(cls, target: TargetModel, defence: Defence) -> "WhiteBox":
        """Raises UsageError for a target whose weights are not available."""
        from megatron_srp.evaluation.hf_target import HFTarget

        if not isinstance(target, HFTarget):
            raise UsageError(f"{target.name}: this attack needs the model's weights; pass a transformers folder")
        return cls(target, defence)

    @property
    def network(self) -> Any:
        """The transformers model."""
        return self.target.network

    @property
    def form(self) -> ReflectionFormat:
        return self.target.form

    @property
    def verdict_tree(self) -> VerdictTree:
        """What forced reflections read."""
        return self.target.model.tree

    @property
    def token_texts(self) -> Sequence[bytes]:
        """The bytes of each token; empty for special tokens."""
        return self.target.model.generator.vocabulary.pieces

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of each prompt, escaped where the defence does so and in the chat template, up to the answer.

        Raises:
            InputError: for one that leaves no room for an answer.
        """
        return [list(self.target.encode(AttackCase("", prompt), self.defence).prompt) for prompt in prompts]

    def encode_reflection(self, label: SafetyLabel) -> list[int]:
        """Ids of a reflection as the model writes it, without the end-of-text after one that stops."""
        return self.form.encode(label, self.target.model.text_tokenizer, stop=False)

    def encode_answer(self, text: str) -> list[int]:
        """Ids of what the model is to write after a prompt, reflections included."""
        # A prefill that is not escaped, with the leading space that answers in training have.
        return list(self.target.encode(AttackCase("", "x", text), Defence.UNGUARDED).prefill)
