"""The curve against its definition, and the tool on files that `srp generate` would write."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.cli.threshold import main
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.guard.policy import ForcedReflection, Generation, to_record
from megatron_srp.generation.threshold.recommend import at_threshold, case_probability, recommend, threshold_curve
from megatron_srp.schema import Verdict

PROBABILITIES = st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]) | st.floats(0, 1), min_size=1)


@settings(max_examples=300, deadline=None)
@given(PROBABILITIES, PROBABILITIES, st.floats(0, 1, exclude_min=True), st.floats(0, 0.5), st.randoms())
def test_the_curve_says_what_each_threshold_does(harmful, benign, threshold, limit, rng):
    succeeds = [rng.random() < 0.7 for _ in harmful]
    curve = threshold_curve(harmful, benign, succeeds)

    def does(at: float) -> tuple[float, float]:
        passed = sum(success and p < at for p, success in zip(harmful, succeeds, strict=True))
        return passed / len(harmful), sum(p >= at for p in benign) / len(benign)

    point = at_threshold(curve, threshold)
    assert (point.attack_success, point.false_stops) == does(threshold)
    assert curve[0].above == 0 and curve[-1].threshold == 1
    best = recommend(curve, limit)
    allowed = [found for found in map(does, {threshold, *harmful, *benign, 1.0} - {0.0}) if found[1] <= limit]
    if best is None:
        assert not allowed
    else:
        assert best.false_stops <= limit and (best.attack_success, best.false_stops) <= min(allowed, default=(2, 2))
        low, high = best.shown
        assert best.above <= low < best.setting <= high <= best.threshold


def test_a_gap_is_cut_in_its_middle():
    best = recommend(threshold_curve([0.8, 0.9, 0.95], [0.0, 0.1, 0.2]))
    assert (best.above, best.threshold, best.middle) == (0.2, 0.8, 0.5)
    assert recommend(threshold_curve([0.5], [1.0] * 3), 0.5) is None
    for harmful, benign in (([], [0.1]), ([0.1], []), ([1.1], [0.1]), ([float("nan")], [0.1])):
        with pytest.raises(UsageError):
            threshold_curve(harmful, benign)


def test_a_case_is_its_worst_reflection():
    forced = [{"safe": 0.9, "controversial": 0.04, "unsafe": 0.06}, {"safe": 0.4, "controversial": 0.5, "unsafe": 0.1}]
    assert case_probability(forced) == pytest.approx(0.6)
    assert case_probability(forced, {Verdict.UNSAFE}) == 0.1
    assert case_probability([]) == 0.0


def write(path, cases, **more):
    records = [
        to_record(
            Generation("x", (), "eos", 3, (ForcedReflection(0, 1 - p, 0.0, p), ForcedReflection(3, 1.0, 0.0, 0.0)))
        )
        for p in cases
    ]
    path.write_text("".join(json.dumps(record | more) + "\n" for record in records))
    return str(path)


def test_the_tool(tmp_path, capsys):
    harmful, benign = tmp_path / "harmful.jsonl", tmp_path / "benign.jsonl"
    write(harmful, [0.7] * 8 + [0.3] * 2)
    main(["--harmful", str(harmful), "--benign", write(benign, [0.1] * 99 + [0.6])])
    said = capsys.readouterr().out
    assert "10 harmful and 100 benign answers" in said
    assert "--unsafe-threshold 0.2: attack success 0.0%, false stops 1.0%; so does any above 0.1, up to 0.3." in said
    assert "The default, 0.5: attack success 20.0%, false stops 1.0%." in said
    assert "| 0.9 | 100.0 | 0.0 |" in said
    main(["--harmful", write(harmful, [0.1] * 4, jailbroken=False), "--benign", str(benign), "--max-false-stops", "0"])
    assert "attack success 0.0%, false stops 0.0%; so does any above 0.6, up to 1." in capsys.readouterr().out


def test_near_1_the_tool_prints_as_many_digits_as_it_takes(tmp_path, capsys):
    harmful, benign = write(tmp_path / "harmful.jsonl", [0.99998]), write(tmp_path / "benign.jsonl", [0.99961] * 9)
    main(["--harmful", harmful, "--benign", benign])
    said = capsys.readouterr().out
    assert "--unsafe-threshold 0.9998: attack success 0.0%, false stops 0.0%" in said
    assert "so does any above 0.9997, up to 0.9999." in said


@pytest.mark.parametrize(
    ("line", "flags", "said"),
    [
        ("{", [], "harmful.jsonl:1: not valid JSON"),
        ("[]", [], "harmful.jsonl:1: not a JSON object"),
        ('{"forced": []}', [], "harmful.jsonl:1: no forced reflections; write it with"),
        ('{"forced": [{"safe": 1}]}', [], "no forced reflections"),
        ("", ["--max-false-stops", "1"], "--max-false-stops 1"),
        ("", ["--stop-after", "Unsaef"], "Unsaef"),
        (None, [], "harmful.jsonl: no answers; write them with"),
    ],
)
def test_mistakes(line, flags, said, tmp_path):
    benign = write(tmp_path / "benign.jsonl", [0.1])
    (tmp_path / "harmful.jsonl").write_text(f"{line}\n" if line is not None else "")
    with pytest.raises((InputError, UsageError)) as error:
        main(["--harmful", str(tmp_path / "harmful.jsonl"), "--benign", benign, *flags])
    assert said in str(error.value)
