"""What the engines have in common: answers that come and go while others are being generated.

    session = engine.session()
    session.add([answer])
    while session.answers:
        session.step()

The guard acts inside `step`. To end an answer early, set its `stopping`, for it to be judged and
finished at the next step; or call its `finish`, if nobody will read it, and the engine drops it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.guard.vocabulary import GuardVocabulary


class Session(ABC):
    """Answers that are generated together.

    Attributes:
        answers: those that have not ended.
    """

    answers: list[Answer]

    @abstractmethod
    def add(self, answers: Sequence[Answer]) -> None:
        """Add answers, and reflect on their prompts where that is requested."""

    @abstractmethod
    def step(self) -> None:
        """Advance every answer by about one token, and drop those that have ended."""

    def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Drop all answers."""


class GuardedEngine(ABC):
    """A model that generates under a guard.

    Attributes:
        vocabulary: what the guards know of its tokens.
        scores: whether it can score the tokens of prompts.
    """

    scores = False
    vocabulary: GuardVocabulary

    @abstractmethod
    def session(self) -> Session:
        """A new session; one at a time."""

    def generate(
        self,
        requests: Sequence[Request],
        on_text: Callable[[int, str], None] = lambda index, text: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Generation]:
        """An answer to each request, all of them together.

        Args:
            on_text: called with a request's index and text to show, as soon as it may be shown.
            cancelled: asked before each token; when it returns true, the answers end there with `length`.

        Raises:
            Exception: what made one of them fail.
        """

        def shower(index: int) -> Callable[[str], None]:
            return lambda text: on_text(index, text)

        answers = [Answer(request, self.vocabulary, shower(i)) for i, request in enumerate(requests)]
        session = self.session()
        session.add(answers)
        while session.answers and not cancelled():
            session.step()
        for answer in session.answers:
            answer.finish()
        session.close()
        if error := next((answer.error for answer in answers if answer.error), None):
            raise error
        return [answer.result() for answer in answers]
