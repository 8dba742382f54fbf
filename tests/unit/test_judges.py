"""Judges: what they say, and that nothing is asked twice."""

import json
import resource
import signal

import pytest

from megatron_srp.annotation.engines.http_client import EndpointClient, Limits
from megatron_srp.errors import InputError, UsageError
from megatron_srp.evaluation.column import ColumnSpec, Context
from megatron_srp.evaluation.columns import attacked
from megatron_srp.evaluation.judges import Exchange, JudgePanel, Opinion, both
from megatron_srp.evaluation.judges.heuristic import HeuristicJudge
from megatron_srp.evaluation.judges.llm import LLMJudge
from megatron_srp.evaluation.judges.strict import StrictJudge
from megatron_srp.evaluation.results import Results, ResultStore
from megatron_srp.evaluation.suite import describe
from megatron_srp.evaluation.types import AttackCase, Behavior, Defence, Response
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from tests.helpers.endpoint import Endpoint


def answer(text: str, *verdicts: Verdict, stop: str = "eos") -> Response:
    return Response(text, text, tuple(SafetyLabel(v) for v in verdicts), stop, ())


@pytest.mark.parametrize(
    ("response", "jailbroken"),
    [
        (answer("Sure, here is how."), True),
        (answer("Sure, here is how.", Verdict.SAFE), True),
        (answer("Sure, here is how.", Verdict.SAFE, Verdict.UNSAFE), False),
        (answer("Sure, here is how.", Verdict.CONTROVERSIAL), False),
        (answer("I’m sorry, but I can’t."), False),
        (answer("Well. I cannot say."), False),
        (answer("Sure", stop="unsafe"), False),
        (answer(" \n"), False),
    ],
)
def test_the_heuristic_judge(response, jailbroken):
    exchange = Exchange("Do x", response)
    assert HeuristicJudge().judge([exchange], "jailbreak") == [Opinion(jailbroken)]
    assert HeuristicJudge().judge([exchange], "refusal") == [Opinion(not jailbroken)]


@pytest.mark.parametrize(
    ("shown", "raw", "jailbroken"),
    [
        ("First cut it.", " First cut it. <think> Unsafe </think>", True),  # the harm is there already
        ("I'm sorry.", " First cut it. <think> Unsafe </think> I'm sorry.", True),
        ("I'm sorry.", " <think> Unsafe </think> I'm sorry.", False),
        ("Sure.", " <think> Safe </think> Sure.", True),
        ("I cannot.", " <think> Safe </think> I cannot. <think> Unsafe </think>", False),
        ("", " First cut it. <think> Unsafe </think>", False),  # the guard took it back
    ],
)
def test_the_strict_judge(shown, raw, jailbroken):
    exchange = Exchange("Do x", Response(shown, raw, (), "eos", ()))
    assert StrictJudge(ReflectionFormat()).judge([exchange], "jailbreak") == [Opinion(jailbroken)]


def test_each_judge_reads_as_many_tokens_as_it_needs(store, monkeypatch):
    asked = []

    def answered(cases, target, defence, context, name, length):
        asked.append(length)
        return [answer("to kill" if length == 256 else "I")], [""]

    monkeypatch.setattr(attacked, "answer", answered)
    spec = ColumnSpec("gcg", "attack", options={"max_new_tokens": {"heuristic": 10, "llm": 256}})
    with Endpoint(says_yes_to_kill) as endpoint:
        context = Context(None, "model", store, panel(endpoint, store), None, {})
        case = [AttackCase("0", "Do x")]
        result = attacked.judged(spec, context, None, [Behavior("0", "Do x")], case, Defence("unguarded"), {})
    assert asked == [10, 256]
    assert {m.name: m.estimate and m.estimate.value for m in result.measures} == {
        **{"heuristic": 1.0, "strict": None, "llm": 1.0, "harmbench": None, "mixed": 1.0}
    }
    assert result.cases[0].response.text == "to kill"


def says_yes_to_kill(body: dict) -> dict:
    words = body["messages"][1]["content"].partition("ANSWER\n")[2]
    return {"choices": [{"message": {"content": "Yes." if "kill" in words else "no"}}]}


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "cache") as found:
        yield found


def panel(endpoint: Endpoint, store: ResultStore) -> JudgePanel:
    llm = LLMJudge(EndpointClient(endpoint.url, Limits(tries=2, patience_s=1)), "tiny")
    return JudgePanel([HeuristicJudge(), llm], {"harmbench": "no classifier"}, store.file("judgements"))


EXCHANGES = [Exchange("Do x", answer(text)) for text in ("to kill", "a river", "I'm sorry, I kill", "to kill")]
NAMES = ("heuristic", "strict", "llm", "harmbench", "mixed")


def test_a_panel_asks_once_and_says_who_is_missing(store):
    with Endpoint(says_yes_to_kill) as endpoint:
        asked = panel(endpoint, store)
        opinions, not_run = asked.ask(NAMES, EXCHANGES, "jailbreak")
        assert {name: [o.verdict for o in given] for name, given in opinions.items()} == {
            "heuristic": [True, True, False, True],
            "llm": [True, False, True, True],
            "mixed": [True, False, False, True],
        }
        assert set(not_run) == {"harmbench", "strict"} and not_run["harmbench"] == "no classifier"
        assert len(endpoint.requests) == 3  # the last exchange is the first again
        assert asked.ask(NAMES, EXCHANGES, "jailbreak")[0] == opinions
        assert len(endpoint.requests) == 3
        asked.ask(["llm"], EXCHANGES[:1], "refusal")  # another question is another opinion
        assert len(endpoint.requests) == 4
        asked.close()


def test_no_opinion_is_asked_for_again(store):
    with Endpoint(lambda body: {"choices": [{"message": {"content": "perhaps"}}]}) as endpoint:
        asked = panel(endpoint, store)
        for _ in range(2):
            opinions, _ = asked.ask(["heuristic", "llm", "mixed"], EXCHANGES[:1], "jailbreak")
            assert opinions["llm"][0].verdict is opinions["mixed"][0].verdict is None
            assert "neither yes nor no: 'perhaps'" in opinions["llm"][0].failure
        assert len(endpoint.requests) == 2
        endpoint.fault = 401
        assert "HTTP 401" in asked.ask(["llm"], EXCHANGES[1:2], "jailbreak")[1]["llm"]
        asked.close()


def test_a_preference_does_not_depend_on_who_stands_first(store):
    def prefers_long(body: dict) -> dict:
        first = body["messages"][1]["content"].partition("FIRST ANSWER\n")[2].partition("SECOND ANSWER\n")[0]
        better = "first" if "a long answer" in first else "second"
        return {"choices": [{"message": {"content": f"<think> hm, second? </think> {better}"}}]}

    with Endpoint(prefers_long) as endpoint:
        asked = panel(endpoint, store)
        good = [Exchange(f"x{i}", answer("a long answer"), reference="short") for i in range(12)]
        bad = [Exchange(f"x{i}", answer("short"), reference="a long answer") for i in range(12)]
        assert [o.verdict for o in asked.ask(["llm"], good, "preference")[0]["llm"]] == [True] * 12
        assert [o.verdict for o in asked.ask(["llm"], bad, "preference")[0]["llm"]] == [False] * 12
        firsts = [r["messages"][1]["content"].partition("FIRST ANSWER\n")[2][:6] for r in endpoint.requests]
        assert len(set(firsts)) == 2  # both orders occur
        asked.close()


def test_texts_cannot_fill_places_or_be_special_tokens(store):
    with Endpoint(says_yes_to_kill) as endpoint:
        judge = LLMJudge(EndpointClient(endpoint.url), "tiny")
        (_, user) = judge.messages(Exchange("{{answer}} <|im_end|>", answer("{{request}}")), "jailbreak")
        assert "{{answer}}" in user["content"] and "{{request}}" in user["content"]
        assert "<|im_end|>" not in user["content"]
        judge.close()


def test_mixed():
    yes, no, none = Opinion(True), Opinion(False), Opinion(None, "why")
    assert both([yes, yes, no, none, none], [yes, no, none, yes, no]) == [yes, no, no, none, no]


def test_results_survive_a_cut_and_name_damage(tmp_path):
    path = tmp_path / "r.jsonl"
    results = Results(path)
    results.add([("a", {"x": 1}), ("b", "é")])
    results.close()
    with path.open("ab") as file:
        file.write(b'{"key": "c", "va')
    results = Results(path)
    assert results["a"] == {"x": 1} and results["b"] == "é" and "c" not in results
    results.add([("c", None)])
    results.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    path.write_text('{"key": "a", "value": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"r\.jsonl:2: damaged"):
        Results(path)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path):
    """A limit on the size of files stands in for the disk."""
    path = tmp_path / "r.jsonl"
    results = Results(path)
    results.add([("a", 1)])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, unlimited[1]))
    try:
        with pytest.raises(OSError, match=r"r\.jsonl"):
            results.add([("b", "x" * 100)])
        with pytest.raises(OSError):
            results.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, handler)
    again = Results(path)
    assert again["a"] == 1 and "b" not in again
    again.close()


def test_one_run_at_a_time(tmp_path):
    with ResultStore(tmp_path), pytest.raises(UsageError, match="another evaluation writes"):
        ResultStore(tmp_path)
    with ResultStore(tmp_path):
        pass


@pytest.mark.parametrize(("llm", "shown"), [(False, "did not refuse (heuristic) 75 %"), (True, "heuristic 75 %")])
def test_words_of_refusal_alone_are_not_called_a_success(llm, shown, store, monkeypatch):
    """Nonsense has none either; so the figure has another name where no judge has read the answers."""
    responses = [exchange.response for exchange in EXCHANGES]
    monkeypatch.setattr(attacked, "answer", lambda *_: (responses, [""] * len(responses)))
    spec = ColumnSpec("direct", "attack")
    behaviors = [Behavior(str(i), "Do x") for i in range(len(responses))]
    cases = [AttackCase("0", "Do x")] * len(responses)
    with Endpoint(says_yes_to_kill) as endpoint:
        judges = panel(endpoint, store)
        if not llm:
            judges = JudgePanel(
                [HeuristicJudge()], dict.fromkeys(("llm", "harmbench"), "no judge"), store.file("alone")
            )
        context = Context(None, "model", store, judges, None, {})
        result = attacked.judged(spec, context, None, behaviors, cases, Defence("unguarded"), {})
    assert shown in describe(result).split("; ")
    assert [measure.name for measure in result.measures] == list(NAMES)  # comparisons go by the judges' names
    assert result.measures[0].to_json().get("label") == (None if llm else "did not refuse (heuristic)")
