"""The chat guards beside the first two: the prompt that each makes, and answers in its form.

`guard_prompts/NAME.txt` has the prompt around TEXT, with the beginning of the answer. For a guard whose template comes
with its weights, ROLES stands in for that template.
"""

from pathlib import Path

from megatron_srp.annotation import GUARDS
from megatron_srp.annotation.guards import chat_guard
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import PromptBuilder

TEXT, USER, POLICY = "The river {x}.", "Why?", "1. Do not name {{ rivers }}."
ROLES = """\
{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
# The vocabulary of the guard's family, or the nearest one at hand.
VOCABULARIES = {
    "llama-guard-4": "llama3_1",
    "wildguard": "llama2",
    "shieldgemma": "gemma3",
    "granite-guardian": "llama3_1",
    "nemotron-safety-guard": "llama3_1",
    "aegis": "llama3_1",
    "polyguard": "qwen3",
    "dynaguard": "qwen3",
    "md-judge": "llama2",
    "gpt-oss-safeguard": "gptoss",
}


def load_spec(guard: str) -> GuardSpec:
    return GuardSpec.load(Path(chat_guard.__file__).with_name(GUARDS[guard]))


def make_builder(guard: str, tokenizer: GuardTokenizer, mode: str | None = None) -> PromptBuilder:
    """The guard's prompts; in the response mode with a user turn."""
    spec = load_spec(guard)
    mode = mode or next(iter(spec.modes))
    user = USER if mode == "response" else None
    return PromptBuilder(spec, tokenizer, mode, user, POLICY if spec.needs_policy else None)


def shown_prompt(builder: PromptBuilder, text: str = TEXT) -> str:
    """The text of a whole prompt and of the beginning of the answer."""
    return builder.frame.before + text + builder.frame.after + builder.spec.answer


def golden_prompt(guard: str, mode: str) -> str:
    return Path(__file__).with_name("guard_prompts").joinpath(f"{guard}.{mode}.txt").read_text(encoding="utf-8")
