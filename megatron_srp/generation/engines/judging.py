"""Requests that only ask for a verdict: on what a user says, or on each segment of an answer or document."""

from collections.abc import Sequence
from dataclasses import replace

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.policy import ForcedReflection, Generation, GuardPolicy
from megatron_srp.schema import Verdict
from megatron_srp.segmentation import segment_text

MOST_CATEGORY_TOKENS = 32
MAX_SEGMENTS = 16  # of one text: each is read with all before it


def requests_to_judge(
    model: PromptedModel, given: str | Sequence[dict[str, str]], policy: GuardPolicy
) -> list[Request]:
    """One request for each verdict, each of which ends with one forced reflection and generates nothing.

    As in training, a user's turn is judged as a whole, and what follows it, or a text where the model has no chat
    template, segment by segment.

    Args:
        given: a text, or a conversation whose last turn is judged.

    Raises:
        InputError: for an empty or too long text, or a conversation that begins with an answer.
    """
    options = Options(replace(policy, on_unsafe="off", reflect_prompt=True), Sampling())
    if isinstance(given, str) and model.tokenizer.chat_template:
        given = [{"role": "user", "content": given}]
    if isinstance(given, str):
        return [_only_judged(model.complete(text, options)) for text in _beginnings(given, model.max_words)]
    if given[-1]["role"] != "assistant":
        return [_only_judged(model.chat(given, options))]
    if len(given) == 1:
        raise InputError("messages: begin with the turn that the answer replies to, or pass the text alone as input")
    answer = _beginnings(given[-1]["content"], model.max_words)
    return [_only_judged(model.chat(given[:-1], options, text)) for text in answer]


def worst(found: Sequence[ForcedReflection], policy: GuardPolicy) -> int:
    """Which verdict has the highest probability of those that count as unsafe."""
    return max(range(len(found)), key=lambda i: found[i].unsafe_of(policy))


def request_to_name(model: PromptedModel, judged: Request, verdict: Verdict) -> Request:
    """A request for the categories that the model writes after that verdict, on what another request has judged."""
    form = model.form
    word = f"{'' if form.special_tokens else ' '}{form.open} {verdict}:"
    prompt = [*judged.prompt, *model.text_tokenizer.encode_inside(word)]
    room = max(min(model.max_length - len(prompt), MOST_CATEGORY_TOKENS), 0)
    return replace(judged, prompt=prompt, policy=GuardPolicy("off"), max_new_tokens=room)


def names_in(model: PromptedModel, found: Generation) -> list[str]:
    """The categories in the answer to `request_to_name`; none where the model does not end the list."""
    written, close, _ = model.decode(found.tokens).partition(model.form.close)
    return [name for part in written.split(",") if (name := part.strip())] if close else []


def _beginnings(text: str, max_words: int) -> list[str]:
    """The text up to the end of each of its segments."""
    ends = [segment.end for segment in segment_text(text, max_words)]
    if not ends:
        raise InputError("there is no text to judge")
    if len(ends) > MAX_SEGMENTS:
        raise InputError(f"the text has {len(ends)} segments; at most {MAX_SEGMENTS} are judged at once. Split it")
    return [text[:end] for end in ends]


def _only_judged(request: Request) -> Request:
    return replace(request, prompt=[*request.prompt, *request.prefill], prefill=(), max_new_tokens=0)
