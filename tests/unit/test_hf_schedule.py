"""Who is read when: chunks of long prompts next to running answers, equal prompts once, lengths kept apart."""

import random
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from megatron_srp.generation.engines.continuous import answer_all
from megatron_srp.generation.engines.hf import generator as hf
from megatron_srp.generation.engines.hf.generator import CHUNK, SHARED_CHUNK, SHORT
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.engines.request import Answer, Request, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from tests.helpers.scripted_model import OPEN, ScriptedBatch, scripted_engine

QUIET = [1, 2, 3]  # tokens of prompts


class CountedBatch(ScriptedBatch):
    """Records the size of every pass: rows that get tokens, and the padded width it attends to."""

    passes: ClassVar[list[tuple[int, int, int]]] = []

    def feed(self, rows, scored=False) -> list:
        super().feed(rows)
        self.passes.append((sum(1 for row in rows if row), sum(map(len, rows)), self.width))
        return []


@pytest.fixture(autouse=True)
def passes(monkeypatch) -> list[tuple[int, int, int]]:
    monkeypatch.setattr(CountedBatch, "passes", [])
    monkeypatch.setattr(hf, "CachedBatch", CountedBatch)
    monkeypatch.setattr("tests.helpers.scripted_model.ScriptedBatch", CountedBatch)
    return CountedBatch.passes


def prompt(number: int, length: int) -> list[int]:
    return random.Random(number).choices(QUIET, k=length)


def begin(*requests: Request):
    engine = scripted_engine(1)
    engine.vocabulary = replace(engine.vocabulary, eos_ids=frozenset())  # none of them ends by itself
    answers = [Answer(request, engine.vocabulary, lambda text: None) for request in requests]
    session = engine.session()
    session.add(answers)
    return session, answers


def endless(tokens: list[int], **settings) -> Request:
    return Request(tokens, policy=GuardPolicy("off"), max_new_tokens=400, **settings)


def test_a_long_prompt_keeps_nobody_waiting(passes):
    session, (running,) = begin(endless(prompt(0, 10)))
    session.step()
    long = Answer(endless(prompt(1, 1000)), running.guard._vocabulary, lambda text: None)
    session.add([long])
    steps = 0
    while not long.guard.num_tokens:
        passes.clear()
        before = running.guard.num_tokens
        session.step()
        steps += 1
        assert running.guard.num_tokens == before + 1
        assert sum(tokens for _, tokens, _ in passes) <= SHARED_CHUNK + 2
    assert steps == -(-1000 // SHARED_CHUNK)


def test_a_short_prompt_does_not_wait_for_a_long_one():
    session, (long,) = begin(endless(prompt(1, 20 * CHUNK)))
    session.step()
    short = Answer(endless(prompt(2, 5)), long.guard._vocabulary, lambda text: None)
    session.add([short])
    session.step()
    session.step()
    assert short.guard.num_tokens and not long.guard.num_tokens


def test_equal_prompts_are_read_once(passes):
    asked = [endless(prompt(3, 50), sampling=Sampling(1.0, seed=i)) for i in range(8)]
    session, answers = begin(*asked)
    session.step()
    assert passes[0][:2] == (1, 50)
    assert all(answer.guard.num_tokens == 1 for answer in answers)
    assert len({tuple(answer.guard.tokens) for answer in answers}) > 1  # and are drawn one by one


def test_short_texts_are_not_padded_to_long_ones(passes):
    session, _ = begin(*[endless(prompt(i, 20)) for i in range(4)], endless(prompt(9, 4 * SHORT)))
    for _ in range(10):
        passes.clear()
        session.step()
    assert all(rows == 1 for rows, _, width in passes if width > SHORT)
    assert any(width <= SHORT for _, _, width in passes)


def test_answers_in_any_company_are_those_of_one_alone():
    rng = random.Random(5)
    asked = [
        Request(
            prompt(i % 7, rng.choice([1, 5, 200, 300, 700])),
            prompt(i, i % 3),
            GuardPolicy("retract", reflect_every=rng.choice([0, 4])),
            Sampling(rng.choice([0.0, 1.0]), seed=i),
            rng.choice([1, 10, 60]),
        )
        for i in range(24)
    ]
    found = dict(answer_all(scripted_engine(2), asked, Limits(5, 2000)))
    assert [found[i] for i in range(24)] == [scripted_engine(2).generate([request])[0] for request in asked]


def test_an_answer_that_ends_while_its_prompt_is_read():
    session, (first, second) = begin(endless(prompt(1, 3 * CHUNK)), endless(prompt(2, 3 * CHUNK), prefill=(OPEN,)))
    session.step()
    first.finish()
    second.stopping = True
    session.step()
    assert not session.answers
    assert second.guard.result().unjudged_tokens == 1


def test_a_prompt_that_cannot_be_read_fails_alone(monkeypatch):
    session, (running,) = begin(endless(prompt(0, 10)))
    session.step()
    broken = Answer(endless(prompt(1, 40)), running.guard._vocabulary, lambda text: None)

    def feed(self, rows, scored=False) -> list:
        if max(map(len, rows)) > 1:
            raise torch.OutOfMemoryError("no room for that prompt")
        return ScriptedBatch.feed(self, rows)

    monkeypatch.setattr(CountedBatch, "feed", feed)
    session.add([broken])
    before = running.guard.num_tokens
    session.step()
    assert isinstance(broken.error, torch.OutOfMemoryError) and running.guard.num_tokens == before + 1


@pytest.mark.parametrize(
    ("running", "size", "fits"), [([], 900, True), ([50], 50, True), ([50], 51, False), ([10, 10], 10, False)]
)
def test_limits(running, size, fits):
    requests = [Request([1] * (n - 1), max_new_tokens=1) for n in [*running, size]]
    assert Limits(2, 100).admits(requests[:-1], requests[-1]) is fits
