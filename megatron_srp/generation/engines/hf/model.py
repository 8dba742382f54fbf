"""A model folder of transformers as a guarded model: text or messages in, answers out."""

from typing import Any

from megatron_srp.annotation.engines.hf_loading import choose_device, choose_dtype, load_model
from megatron_srp.generation.engines.hf.generator import HFGenerator
from megatron_srp.generation.engines.hf.rewind import rewindable_length
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options
from megatron_srp.generation.model_folder import check_model_folder
from megatron_srp.reflection import ReflectionFormat

__all__ = ["GuardedModel", "Options"]


class GuardedModel(PromptedModel):
    """Loads model and tokenizer.

        >>> from megatron_srp import GuardedModel, GuardPolicy
        >>> model = GuardedModel("model", device="cpu")
        >>> answers = model.answer(["A river"], GuardPolicy(on_unsafe="refuse"), max_new_tokens=8)
        >>> answers[0].stop_reason in ("eos", "unsafe", "length")
        True

    Args:
        folder: model and tokenizer, as `srp export` writes them, or a name on the hub.
        form: how the model writes reflections; by default as its `srp.json` says.
        device: "cuda", "cuda:1" or "cpu"; by default a GPU where there is one.
        dtype: by default bfloat16 on a GPU and float32 on CPU.

    Attributes:
        network: transformers' own model.

    Raises:
        UsageError: when something is missing or does not fit, or the model's cache cannot be rewound.
    """

    def __init__(
        self, folder: str, form: ReflectionFormat | None = None, device: str | None = None, dtype: str | None = None
    ) -> None:
        check_model_folder(folder)
        where = choose_device(device)
        numbers = choose_dtype(dtype or ("bfloat16" if where.type == "cuda" else "float32"))
        model = load_model(folder, numbers)
        self.max_length = rewindable_length(model)
        ends = model.generation_config.eos_token_id
        super().__init__(folder, form, [] if ends is None else [ends] if isinstance(ends, int) else ends)
        self.network: Any = model.to(where).eval()
        self.generator = HFGenerator(self.network, self.vocabulary, self.tree)
