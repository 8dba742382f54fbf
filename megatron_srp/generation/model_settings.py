"""What the folder of a model decides about how it is guarded, unless a flag decides otherwise."""

from dataclasses import dataclass

from megatron_srp.generation.model_folder import check_model_folder
from megatron_srp.model_description import choose_form, describe_model
from megatron_srp.reflection import DEFAULT_STOP_AFTER, ReflectionFormat, parse_stop_after
from megatron_srp.schema import Verdict


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How one model is guarded.

    Attributes:
        form: how it writes reflections.
        stop_at: the verdicts that count as unsafe.
        notes: what is assumed, since nothing says it; one line each.
    """

    form: ReflectionFormat
    stop_at: frozenset[Verdict]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: str, tokens: str | None = None, stop_after: str | None = None) -> "ModelSettings":
        """Of a folder, or a name on the hub.

        Args:
            tokens, stop_after: the flags --reflection-tokens and --stop-after, None where not given.

        Raises:
            UsageError: when it cannot be a model, or a flag contradicts it.
            InputError: when a file of it cannot be read.
        """
        check_model_folder(model)
        description = describe_model(model)
        form, note = choose_form(model, description, tokens)
        own = (form.stop_after if description else None) or DEFAULT_STOP_AFTER
        stop_at = own if stop_after is None else parse_stop_after(stop_after, of="answer")
        return cls(form, stop_at, (note,) if note else ())
