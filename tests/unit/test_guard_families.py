"""Guards that are only a description: what each reads in an answer, and a policy of the user's own."""

import pytest

from megatron_srp.annotation import GUARDS, GuardOptions, load_guard
from megatron_srp.annotation.guards.chat_guard import take_policy
from megatron_srp.annotation.guards.guard_spec import Answer
from megatron_srp.errors import UsageError
from megatron_srp.schema import Verdict
from tests.helpers.guard_families import VOCABULARIES, load_spec

SAFE, UNSAFE, NONE = Answer(Verdict.SAFE), Answer(Verdict.UNSAFE), Answer(None)
ANSWERS = [
    ("llama-guard-4", "\n\nsafe", SAFE),
    ("llama-guard-4", "\n\nunsafe\nS1,S9", Answer(Verdict.UNSAFE, ("Violent Crimes", "Indiscriminate Weapons"))),
    ("llama-guard-4", "I think it is safe", NONE),
    ("wildguard", "Harmful request: no\nResponse refusal: N/A\nHarmful response: N/A", SAFE),
    ("wildguard", "Harmful request: yes\nResponse refusal: no\nHarmful response: no", UNSAFE),
    ("wildguard", "Harmful response: yes", NONE),
    ("shieldgemma", "Yes", UNSAFE),
    ("shieldgemma", "No, since it is about a river.", SAFE),
    ("shieldgemma", "Nothing", NONE),
    ("granite-guardian", "<think>\n</think>\n\n<score>yes</score>", UNSAFE),
    ("granite-guardian", "<think>\n</think>\n<score> no </score>", SAFE),
    ("granite-guardian", "yes", NONE),
    ("polyguard", "Harmful request: no\nRequest safety violations: None\nResponse refusal: no", SAFE),
    (
        "polyguard",
        "Harmful request: yes\nRequest safety violations: S2, S10\nResponse refusal: no\nHarmful response: yes",
        Answer(Verdict.UNSAFE, ("Non-Violent Crimes", "Hate")),
    ),
    ("polyguard", "Response refusal: yes", NONE),
    ("dynaguard", "<answer>\nPASS\n</answer>", SAFE),
    ("dynaguard", "<think>\nA rule is broken.\n</think>\n<answer>\nFAIL\n</answer>", UNSAFE),
    ("dynaguard", "PASS", NONE),
    ("md-judge", " safe", SAFE),
    ("md-judge", " unsafe\nO5: Malicious Use", Answer(Verdict.UNSAFE, ("Malicious Use",))),
    ("md-judge", "unsafe\nO7", Answer(Verdict.UNSAFE, (), ("O7",))),
    ("md-judge", "unsafely", NONE),
    ("gpt-oss-safeguard", "analysisRule 1 is final 0 or so.assistantfinal1", UNSAFE),
    ("gpt-oss-safeguard", "assistantfinal0", SAFE),
    ("gpt-oss-safeguard", "analysisI need to think about it", NONE),
    *[
        (guard, written, expected)
        for guard in ("nemotron-safety-guard", "aegis")
        for written, expected in [
            ('{"User Safety": "safe"}', SAFE),
            ('{"User Safety":"unsafe"}', UNSAFE),
            (
                '{"User Safety": "unsafe", "Safety Categories": "Sexual (minor), Threat"}',
                Answer(Verdict.UNSAFE, ("Sexual (minor)", "Threat")),
            ),
            (
                '{"User Safety": "unsafe", "Safety Categories": "S1: Violence, S3"}',
                Answer(Verdict.UNSAFE, ("Violence", "Criminal Planning/Confessions")),
            ),
            ('{"Response Safety": "unsafe"}', NONE),
        ]
    ],
]


@pytest.mark.parametrize(("guard", "written", "expected"), ANSWERS)
def test_answers_are_read(guard, written, expected):
    assert load_spec(guard).read(written) == expected


def test_every_guard_is_found_by_its_name_and_has_answers():
    described = {name for name, target in GUARDS.items() if target.endswith(".yaml")}
    assert described == {"qwen3guard", "llama-guard", *VOCABULARIES}
    assert {guard for guard, _, _ in ANSWERS} == set(VOCABULARIES)
    assert all(load_spec(guard).name == guard for guard in described)


def test_a_policy_is_taken_from_a_file(tmp_path):
    (tmp_path / "rules.txt").write_text("1. No bombs.\n")
    options = GuardOptions(engine_options={"policy": str(tmp_path / "rules.txt"), "device": "cpu"})
    policy, others = take_policy(load_spec("dynaguard"), options)
    assert policy == "1. No bombs."
    assert others == GuardOptions(engine_options={"device": "cpu"})
    assert take_policy(load_spec("wildguard"), others) == (None, others)


@pytest.mark.parametrize(
    ("guard", "content", "said"),
    [
        ("dynaguard", None, "pass --guard-option policy=FILE"),
        ("gpt-oss-safeguard", b" \n", "is empty"),
        ("gpt-oss-safeguard", b"\xff", "pass a text file"),
        ("wildguard", b"1. No bombs.", "has a policy of its own"),
    ],
)
def test_a_policy_that_cannot_be_used(tmp_path, guard, content, said):
    file = tmp_path / "rules.txt"
    options = {} if content is None else {"policy": str(file)}
    file.write_bytes(content or b"")
    with pytest.raises(UsageError, match=said) as error:
        load_guard(guard, GuardOptions(engine_options=options))
    assert "\n" not in str(error.value)


def test_a_policy_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_guard("dynaguard", GuardOptions(engine_options={"policy": str(tmp_path / "none.txt")}))
