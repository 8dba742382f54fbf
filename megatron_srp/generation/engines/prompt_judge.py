"""Another model judges each prompt before the model answers it: an untouched copy, which no fine-tuning has changed."""

from collections.abc import Sequence
from dataclasses import replace

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Answer, Request, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.model_folder import check_model_folder
from megatron_srp.generation.threshold.calibration import FILE, find_calibration


def prompt_threshold(folder: str, policy: GuardPolicy) -> float:
    """P(unsafe) at which the copy in `folder` stops a prompt: by its own calibration, or else as `policy` says.

    Raises:
        UsageError: when it is no model, or its calibration counts other verdicts as unsafe than `policy`.
    """
    check_model_folder(folder)
    found = find_calibration(folder)
    if found and found.stop_at != policy.stop_at:
        own = ",".join(sorted(found.stop_at))
        raise UsageError(f"--prompt-verdicts-by {folder}: its {FILE} is for {own}; pass --stop-after {own}")
    return found.threshold if found else policy.unsafe_threshold


def judge_prompts(model: PromptedModel, copy: PromptedModel, threshold: float) -> None:
    """Let `model` answer only those prompts for which `copy` reads P(unsafe) below `threshold`.

    Requests without a guard, and those that ask for no answer, are as before.

    Raises:
        UsageError: when `copy` has another vocabulary, or takes shorter prompts.
    """
    if copy.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise UsageError("--prompt-verdicts-by: it has another tokenizer; pass a copy from before the fine-tuning")
    if copy.max_length < model.max_length:
        lengths = f"{copy.max_length:,} tokens, and the model {model.max_length:,}"
        raise UsageError(f"--prompt-verdicts-by: it takes {lengths}; pass a copy of the model")
    model.generator = PromptJudgedEngine(model.generator, copy.generator, threshold)


class PromptJudgedEngine(GuardedEngine):
    """Answers with one engine the prompts that another one passes."""

    def __init__(self, engine: GuardedEngine, judge: GuardedEngine, threshold: float) -> None:
        self._engine, self._judge, self._threshold = engine, judge, threshold
        self.vocabulary, self.scores = engine.vocabulary, engine.scores

    def session(self) -> "PromptJudgedSession":
        return PromptJudgedSession(self._engine.session(), self._judge, self._threshold)


class PromptJudgedSession(Session):
    """Answers that wait for a verdict on their prompts, and those that are being generated."""

    def __init__(self, session: Session, judge: GuardedEngine, threshold: float) -> None:
        self._session, self._judge, self._threshold = session, judge, threshold
        self._verdicts = judge.session()
        self._waiting: list[tuple[Answer, Answer]] = []  # with what the judge reads for each

    @property
    def answers(self) -> list[Answer]:  # type: ignore[override]
        return [answer for answer, _ in self._waiting] + self._session.answers

    def add(self, answers: Sequence[Answer]) -> None:
        self._session.add([answer for answer in answers if not _is_judged(answer.request)])
        new = [(answer, self._verdict_for(answer)) for answer in answers if _is_judged(answer.request)]
        self._verdicts.add([verdict for _, verdict in new])
        self._waiting += new

    def step(self) -> None:
        if self._waiting:
            self._read()
        if self._session.answers:
            self._session.step()

    def close(self) -> None:
        self._verdicts.close()
        self._session.close()
        self._waiting.clear()

    def _verdict_for(self, answer: Answer) -> Answer:
        return Answer(_verdict_on(answer.request), self._judge.vocabulary, lambda text: None)

    def _read(self) -> None:
        for answer, verdict in self._waiting:
            if answer.stopping:
                answer.finish()
            if answer.ended:
                verdict.finish()
        self._verdicts.step()
        for answer, verdict in self._waiting:
            if verdict.ended and not answer.ended:
                self._decide(answer, verdict)
        self._session.add([answer for answer, verdict in self._waiting if verdict.ended and not answer.ended])
        self._waiting = [pair for pair in self._waiting if not pair[1].ended]

    def _decide(self, answer: Answer, verdict: Answer) -> None:
        """End an answer whose prompt is unsafe, or could not be read."""
        if verdict.error:
            answer.fail(verdict.error)
            return
        found = verdict.result().forced[-1]
        if found.unsafe_of(answer.request.policy) >= self._threshold:
            answer.refuse_prompt(found, self._threshold)


def _is_judged(request: Request) -> bool:
    return request.policy.on_unsafe != "off" and request.max_new_tokens > 0


def _verdict_on(request: Request) -> Request:
    """A request for a forced reflection on the prompt and no more."""
    policy = replace(request.policy, on_unsafe="off", reflect_prompt=True)
    return replace(request, prefill=(), policy=policy, sampling=Sampling(), max_new_tokens=0, scored=False)
