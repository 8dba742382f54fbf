"""An untouched copy judges each prompt before the model answers it."""

import json
from pathlib import Path

import pytest

from megatron_srp.cli.generate import main
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.engines.hf.model import GuardedModel, Options
from megatron_srp.generation.engines.prompt_judge import judge_prompts
from megatron_srp.generation.engines.request import Answer, Sampling
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, GuardPolicy
from tests.helpers.served import Served, say

REFUSE = GuardPolicy("refuse")


@pytest.fixture(scope="module")
def model(tiny_reflector) -> GuardedModel:
    """Its own copy judges its prompts."""
    found = GuardedModel(str(tiny_reflector), device="cpu")
    judge_prompts(found, GuardedModel(str(tiny_reflector), device="cpu"), 0.5)
    return found


def answers_to(model: GuardedModel, *words: str, policy: GuardPolicy = REFUSE) -> list[Answer]:
    options = Options(policy, Sampling(), 60)
    requests = [model.chat([{"role": "user", "content": f"say: {word}"}], options) for word in words]
    return [Answer(request, model.vocabulary, lambda text: None) for request in requests]


def ended(model: GuardedModel, answers: list[Answer]) -> list[Answer]:
    session = model.generator.session()
    session.add(answers)
    while session.answers:
        session.step()
    session.close()
    return answers


def test_only_prompts_that_the_copy_passes_are_answered(tiny_reflector, tmp_path):
    """The others are as without it, also where one is asked for in another place of the batch."""
    turns = [json.dumps({"messages": say(word)}) + "\n" for word in ("river", "kill", "house")]
    (tmp_path / "in.jsonl").write_text("".join(turns))

    def generate(out: str, *flags: str) -> list[dict]:
        common = ["--model", str(tiny_reflector), "--device", "cpu", "--input", str(tmp_path / "in.jsonl")]
        main([*common, "--on-unsafe", "refuse", "--out", str(tmp_path / out), *flags])
        return [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]

    alone = generate("alone.jsonl")
    judged = generate("judged.jsonl", "--prompt-verdicts-by", str(tiny_reflector))
    assert alone[1]["num_tokens"] > 0 and not alone[1]["forced"]
    assert (judged[1]["text"], judged[1]["stop_reason"], judged[1]["num_tokens"]) == (DEFAULT_REFUSAL, "unsafe", 0)
    assert judged[1]["forced"][0]["unsafe"] + judged[1]["forced"][0]["controversial"] >= 0.5
    assert [judged[0], judged[2]] == [alone[0], alone[2]]


def test_a_server_shows_nothing_of_an_answer_to_such_a_prompt(tiny_reflector):
    flags = ["--on-unsafe", "refuse", "--served-name", "tiny", "--prompt-verdicts-by", str(tiny_reflector)]
    with Served(tiny_reflector, *flags) as started:
        client = started.wait().client
        river, kill = (client.chat.completions.create(model="tiny", messages=say(word)) for word in ("river", "kill"))
    assert river.choices[0].message.content == "we saw the morning. then a river."
    (refused,) = kill.choices
    assert (refused.message.content, refused.finish_reason) == (DEFAULT_REFUSAL, "content_filter")
    assert kill.usage.completion_tokens == 0 < river.usage.completion_tokens


def test_the_copy_has_a_threshold_of_its_own(model):
    """The model's threshold, which here lets everything pass, is for the model's verdicts."""
    (kill,) = ended(model, answers_to(model, "kill", policy=GuardPolicy("stop", unsafe_threshold=1.0)))
    assert kill.result().stop_reason == "unsafe" and not kill.result().tokens


def test_requests_without_a_guard_are_as_before(model):
    (kill,) = ended(model, answers_to(model, "kill", policy=GuardPolicy("off")))
    assert kill.result().tokens and not kill.result().forced


def test_an_answer_that_waits_for_its_verdict_can_be_ended(model):
    """As one whose reader is gone, or whose time is up."""
    gone, late, river = answers_to(model, "kill", "kill", "river")
    gone.finish()
    late.stopping = True
    ended(model, [gone, late, river])
    assert [answer.result().stop_reason for answer in (gone, late, river)] == ["length", "length", "eos"]
    assert not late.result().tokens


def test_a_prompt_that_cannot_be_read_fails_alone(model, monkeypatch):
    judge = model.generator._judge
    monkeypatch.setattr(type(judge.session()), "_read_on", lambda session, reading, budget: _fail(reading.answers))
    (kill,) = ended(model, answers_to(model, "kill"))
    assert isinstance(kill.error, InputError)


def _fail(answers: list[Answer]) -> None:
    for answer in answers:
        answer.fail(InputError("out of memory"))


def test_what_is_no_copy_is_refused(tiny_reflector, tmp_path: Path):
    own, other = GuardedModel(str(tiny_reflector), device="cpu"), GuardedModel(str(tiny_reflector), device="cpu")
    other.max_length = 100
    with pytest.raises(UsageError, match="takes 100 tokens, and the model 256"):
        judge_prompts(own, other, 0.5)
    other.tokenizer.add_tokens(["<more>"])
    with pytest.raises(UsageError, match="another tokenizer; pass a copy from before"):
        judge_prompts(own, other, 0.5)
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        main(["--model", str(tiny_reflector), "--prompt-verdicts-by", str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="--on-unsafe off stops at nothing"):
        main(["--model", str(tiny_reflector), "--on-unsafe", "off", "--prompt-verdicts-by", str(tiny_reflector)])
