"""What a long prompt costs the answers that are being generated when it joins them."""

import statistics
import time
from collections.abc import Sequence

from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.policy import GuardPolicy

ALONE = 24  # tokens of the stream before the long prompt joins


def gaps_of_a_stream(engine: GuardedEngine, short: Sequence[int], long: Sequence[int]) -> tuple[float, float]:
    """Processor seconds between two tokens of a stream: the median while it is alone, and the longest from when a long
    prompt joins until that one's answer has its first tokens."""
    session = engine.session()
    _add(session, engine, short, 1 << 20)
    session.step()  # which reads the prompt too
    alone = [_step(session) for _ in range(ALONE)]
    joining = _add(session, engine, long, 4)
    found = []
    while not joining.ended:
        found.append(_step(session))
    session.close()
    return statistics.median(alone), max(found)


def _add(session: Session, engine: GuardedEngine, prompt: Sequence[int], tokens: int) -> Answer:
    request = Request(prompt, (), GuardPolicy("stop"), max_new_tokens=tokens)
    answer = Answer(request, engine.vocabulary, lambda text: None)
    session.add([answer])
    return answer


def _step(session: Session) -> float:
    began = time.process_time()
    session.step()
    return time.process_time() - began
