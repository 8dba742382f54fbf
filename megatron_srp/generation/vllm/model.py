"""What the guard knows of a model that vLLM serves, without its weights."""

from dataclasses import dataclass
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.model_settings import ModelSettings
from megatron_srp.generation.vllm.inline_answer import ReflectionTokens
from megatron_srp.generation.vllm.settings import VARIABLE, read_settings
from megatron_srp.reflection import ReflectionFormat


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, and how it is guarded.

    Attributes:
        policy: the operator's.
        prompts: its tokenizer, and the escaping of text for it.
        notes: what is assumed about it, since nothing says it; one line each.
    """

    policy: GuardPolicy
    form: ReflectionFormat
    tokens: ReflectionTokens
    prompts: PromptedModel | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model_config: Any) -> "ServedModel":
        """Of vLLM's ModelConfig, as SRP_GUARD and the model's folder say.

        Raises:
            UsageError: when SRP_GUARD is not set, or does not fit the model.
        """
        settings = read_settings()
        if settings is None:
            raise UsageError(f"{VARIABLE} is not set; set it to a JSON object, {{}} for the defaults")
        stop_after = ",".join(settings.stop_at) if settings.stop_at else None
        own = ModelSettings.of(model_config.model, settings.reflection_tokens, stop_after, settings.unsafe_threshold)
        prompts = PromptedModel(model_config.tokenizer, own.form, eos_ids(model_config))
        prompts.max_length = model_config.max_model_len
        tokens = ReflectionTokens.of(prompts.vocabulary, prompts.tree, own.form, prompts.text_tokenizer)
        return cls(settings.policy(own.stop_at, own.threshold), own.form, tokens, prompts, own.notes)


def eos_ids(model_config: Any) -> list[int]:
    """The tokens at which vLLM ends an answer, by the model's generation settings and its configuration."""
    found = model_config.try_get_generation_config().get("eos_token_id")
    if found is None:
        found = getattr(model_config.hf_config, "eos_token_id", None)
    return [] if found is None else [found] if isinstance(found, int) else list(found)
