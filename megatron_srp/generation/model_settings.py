"""What the folder of a model decides about how it is guarded, unless a flag decides otherwise."""

from dataclasses import dataclass

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.model_folder import check_model_folder
from megatron_srp.generation.threshold.calibration import FILE, Calibration, find_calibration
from megatron_srp.model_description import choose_form, describe_model
from megatron_srp.reflection import DEFAULT_STOP_AFTER, ReflectionFormat, parse_stop_after
from megatron_srp.schema import Verdict


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How one model is guarded.

    Attributes:
        form: how it writes reflections.
        stop_at: the verdicts that count as unsafe.
        threshold: P(unsafe) at which an answer is stopped.
        notes: what is assumed, since nothing says it, and what is known to be weak; one line each.
    """

    form: ReflectionFormat
    stop_at: frozenset[Verdict]
    threshold: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: str,
        tokens: str | None = None,
        stop_after: str | None = None,
        threshold: float | None = None,
        guarded: bool = True,
    ) -> "ModelSettings":
        """Of a folder, or a name on the hub.

        Args:
            tokens, stop_after, threshold: the flags --reflection-tokens, --stop-after and --unsafe-threshold, None
                where not given.
            guarded: whether there is a guard to use the threshold.

        Raises:
            UsageError: when it cannot be a model, or a flag or a file contradicts it.
            InputError: when a file of it cannot be read.
        """
        asked = None if stop_after is None else parse_stop_after(stop_after, of="answer")
        check_model_folder(model)
        description = describe_model(model)
        form, assumed = choose_form(model, description, tokens)
        calibration = find_calibration(model) if guarded else None
        own = calibration.stop_at if calibration else description and form.stop_after
        stop_at = (own or DEFAULT_STOP_AFTER) if asked is None else asked
        chosen, note = _threshold(model, calibration, stop_at, threshold)
        note = note if guarded else ""
        return cls(form, stop_at, chosen, tuple(line for line in (assumed, note) if line))


def _threshold(
    model: str, calibration: Calibration | None, stop_at: frozenset[Verdict], given: float | None
) -> tuple[float, str]:
    """The threshold, and a line about it where there is something to say."""
    if calibration is None:
        default = GuardPolicy().unsafe_threshold
        note = f"{model} has no {FILE}; assuming --unsafe-threshold {default:g}, which `srp threshold` measures"
        return (given, "") if given is not None else (default, note)
    if given is not None:
        if given <= calibration.benign["lowest"]:
            raise UsageError(
                f"--unsafe-threshold {given:g} stops every benign case of {FILE}; its own is {calibration.threshold:g}"
            )
        return given, ""
    if stop_at != calibration.stop_at:
        raise UsageError(
            f"--stop-after {_names(stop_at)}: {FILE} is for {_names(calibration.stop_at)}; pass --unsafe-threshold too"
        )
    weak = f"{model}: by {FILE} its verdicts do not tell harmful from benign answers"
    return calibration.threshold, weak if calibration.at_chance else ""


def _names(verdicts: frozenset[Verdict]) -> str:
    return ",".join(sorted(verdicts))
