"""Many requests, a full batch at a time: each answer that ends makes room for the next."""

from collections import deque
from collections.abc import Iterator, Sequence

from megatron_srp.generation.engines.base import GuardedEngine
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.policy import Generation


def answer_all(engine: GuardedEngine, requests: Sequence[Request], limits: Limits) -> Iterator[tuple[int, Generation]]:
    """The answers to all requests with their indices, each as soon as it ends; the next one then takes its place.

    Raises:
        Exception: what made one of them fail.
    """
    waiting, running = deque(enumerate(requests)), dict[int, Answer]()
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
    engine: GuardedEngine, waiting: deque[tuple[int, Request]], running: dict[int, Answer], limits: Limits
) -> list[Answer]:
    """Those that may begin now, moved from `waiting` to `running`."""
    begun = []
    while waiting and limits.admits([answer.request for answer in running.values()], waiting[0][1]):
        index, request = waiting.popleft()
        running[index] = Answer(request, engine.vocabulary, lambda text: None)
        begun.append(running[index])
    return begun
