"""How many answers are generated at a time, and a queue that keeps within that."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the help of a command needs `Limits` alone, at once
    from megatron_srp.generation.engines.base import GuardedEngine
    from megatron_srp.generation.engines.request import Answer, Request
    from megatron_srp.generation.guard.policy import Generation


@dataclass(frozen=True, slots=True)
class Limits:
    """What runs at a time.

    Attributes:
        answers: maximum number of answers.
        tokens: maximum tokens of all their prompts and answers together, which the cache has to hold. A request
            that alone needs more runs alone.
    """

    answers: int = 16
    tokens: int = 32_768

    def admits(self, running: "Sequence[Request]", request: "Request") -> bool:
        """Whether another request may run next to those."""
        if not running:
            return True
        used = sum(one.most_tokens for one in running)
        return len(running) < self.answers and used + request.most_tokens <= self.tokens


def answer_all(
    engine: "GuardedEngine", requests: "Sequence[Request]", limits: Limits
) -> "Iterator[tuple[int, Generation]]":
    """The answers to all requests with their indices, each as soon as it ends; the next one then takes its place.

    Raises:
        Exception: what made one of them fail.
    """
    waiting, running = deque(enumerate(requests)), dict[int, Any]()
    session = engine.session()
    try:
        while waiting or running:
            session.add(_admitted(engine, waiting, running, limits))
            session.step()
            for index, answer in [pair for pair in running.items() if pair[1].ended]:
                del running[index]
                if answer.error:
                    raise answer.error
                yield index, answer.result()
    finally:
        session.close()


def _admitted(
    engine: "GuardedEngine", waiting: "deque[tuple[int, Request]]", running: "dict[int, Answer]", limits: Limits
) -> "list[Answer]":
    """Those that may begin now, moved from `waiting` to `running`."""
    from megatron_srp.generation.engines.request import Answer

    begun = []
    while waiting and limits.admits([answer.request for answer in running.values()], waiting[0][1]):
        index, request = waiting.popleft()
        running[index] = Answer(request, engine.vocabulary, lambda text: None)
        begun.append(running[index])
    return begun
