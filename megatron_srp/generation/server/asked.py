"""From what a client asks to requests for the engine."""

from dataclasses import replace
from secrets import randbits

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.api import ChatRequest, TextRequest
from megatron_srp.generation.server.client_policy import PolicyTooWeak, policy_of
from megatron_srp.generation.server.settings import Client


def requests_of(model: PromptedModel, client: Client, asked: ChatRequest | TextRequest) -> list[list[Request]]:
    """For each prompt, a request for each answer to it.

    Raises:
        InputError: for what cannot be answered.
        PolicyTooWeak: for a weaker guard than the client may have.
    """
    options = options_of(client, asked)
    _check_logprobs(model, client, asked)
    n = asked.n or 1
    if isinstance(asked, ChatRequest):
        prompts = [model.chat([message.as_turn() for message in asked.messages], options)]
    elif asked.echo:
        prompts = _scored(model, client, asked, options)
    else:
        prompts = [_continued(model, str(prompt), options) for prompt in asked.prompts]
    seed = randbits(62) if asked.seed is None else asked.seed
    prompts = [replace(prompt, logprobs=asked.alternatives is not None) for prompt in prompts]
    return [[_seeded(prompt, seed + at * n + i) for i in range(n)] for at, prompt in enumerate(prompts)]


def options_of(client: Client, asked: ChatRequest | TextRequest) -> Options:
    """The client's own options with the request's changes."""
    own = client.options
    if (answers := asked.num_prompts * (asked.n or 1)) > client.max_choices:
        raise InputError(f"{answers} answers in one request; this server gives at most {client.max_choices}")
    sampling = Sampling(
        own.sampling.temperature if asked.temperature is None else asked.temperature,
        own.sampling.top_p if asked.top_p is None else asked.top_p,
    )
    policy = policy_of(own.policy, asked.guard, client.allow_weaker)
    return Options(policy, sampling, min(asked.most_tokens or own.max_new_tokens, own.max_new_tokens))


def _continued(model: PromptedModel, prompt: str, options: Options) -> Request:
    model.refuse_unfinished(prompt)
    return model.complete(prompt, options)


def _scored(model: PromptedModel, client: Client, asked: TextRequest, options: Options) -> list[Request]:
    _refuse_unjudged("echo: scores name", client)
    if not model.generator.scores:
        raise InputError("echo: this server's engine scores no prompts; use --engine hf")
    return [model.score(prompt, replace(options, policy=GuardPolicy("off"))) for prompt in asked.prompts]


def _check_logprobs(model: PromptedModel, client: Client, asked: ChatRequest | TextRequest) -> None:
    if asked.alternatives is None:
        return
    if not model.generator.scores:
        raise InputError("logprobs: this server's engine gives none; use --engine hf")
    if asked.alternatives:
        field = "top_logprobs" if isinstance(asked, ChatRequest) else "logprobs above 0"
        _refuse_unjudged(f"{field}: they name other", client)


def _refuse_unjudged(what: str, client: Client) -> None:
    """Raises PolicyTooWeak for what names tokens that are in no answer, unless the client may have a weaker guard."""
    if client.options.policy.on_unsafe != "off" and not client.allow_weaker:
        raise PolicyTooWeak(
            f"{what} tokens that the model would write, and no verdict judges those; ask the operator for "
            "--allow-weaker or --on-unsafe off"
        )


def _seeded(request: Request, seed: int) -> Request:
    return replace(request, sampling=replace(request.sampling, seed=seed % 2**63))
