"""`calibration.json`: written by `srp threshold`, used by whatever guards the model, refused where it does not fit."""

import json
import random
import shutil
from math import inf
from pathlib import Path

import pytest

from megatron_srp.cli import COMMANDS, load
from megatron_srp.cli.threshold import main
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.model_settings import ModelSettings
from megatron_srp.generation.threshold.calibration import Calibration, is_at_chance
from megatron_srp.generation.threshold.recommend import percentile_setting
from megatron_srp.schema import Verdict
from megatron_srp.statistics.auc import auc
from megatron_srp.statistics.quantile import quantile
from tests.unit.test_threshold import write


@pytest.fixture
def folder(tmp_path: Path, tokenizer_models) -> Path:
    """What identifies a model, without a model."""
    model = tmp_path / "model"
    shutil.copytree(tokenizer_models["gpt2"][1], model)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(100))
    return model


def calibrate(folder: Path, benign: list[float], harmful: list[float] | None = None, *flags: str) -> Calibration:
    argv = ["--model", str(folder), "--benign", write(folder.parent / "benign.jsonl", benign)]
    argv += ["--harmful", write(folder.parent / "harmful.jsonl", harmful)] if harmful else []
    main([*argv, *flags])
    return Calibration.read(folder / "calibration.json")


def test_from_both_sides(folder, capsys):
    found = calibrate(folder, [0.1] * 99 + [0.6], [0.7] * 8 + [0.3] * 2)
    assert (found.threshold, found.at_chance, found.stop_at) == (0.2, False, {Verdict.UNSAFE, Verdict.CONTROVERSIAL})
    assert found.auc["value"] == pytest.approx(0.998) and found.auc["low"] > 0.7
    assert found.benign["cases"] == 100 and found.benign["file"] == "benign.jsonl" and found.harmful["cases"] == 10
    assert {"threshold": 0.5, "attack_success": 0.2, "false_stops": 0.01} in found.curve
    assert f"wrote {folder}/calibration.json" in capsys.readouterr().out
    content = json.loads((folder / "calibration.json").read_text())
    documented = "format_version threshold stop_at model date max_false_stops benign harmful curve at_chance auc"
    assert content.keys() == set(documented.split()) and content["format_version"] == 1
    assert content["benign"].keys() == set("file bytes xxh3_128 cases lowest percentile low high".split())
    settings = ModelSettings.of(str(folder))
    assert settings.threshold == 0.2 and not any("calibration" in note for note in settings.notes)
    assert ModelSettings.of(str(folder), threshold=0.4).threshold == 0.4  # a flag overrides


def test_from_benign_cases_alone(folder, capsys):
    benign = [i / 1000 for i in range(500)]
    found = calibrate(folder, benign)
    assert found.threshold == 0.495 and sum(p >= found.threshold for p in benign) == 5
    assert found.harmful is None and found.at_chance is None and found.curve[0]["attack_success"] is None
    assert found.benign["percentile"] == 0.494 and found.benign["low"] < 0.494 < found.benign["high"] < 0.5
    said = capsys.readouterr().out
    assert "500 benign answers" in said and "false stops 1.0% (95%: 0.4% to 2.3%)" in said
    calibrate(folder, benign[:20])
    assert "to unbounded, too few answers" in capsys.readouterr().out


def test_the_interval_covers_the_quantile():
    """Of uniform samples, whose 0.9 quantile is 0.9."""
    rng = random.Random(0)
    samples = [quantile([rng.random() for _ in range(100)], 0.9) for _ in range(400)]
    covered = sum(one.low <= 0.9 <= one.high for one in samples)
    assert 0.93 * 400 <= covered < 400  # 95% at least, and not always
    assert quantile([0.5] * 20, 0.99).high == inf


@pytest.mark.parametrize(
    ("benign", "share", "expected"),
    [([0.2] * 9 + [0.6], 0.1, 0.201), ([0.2] * 10, 0.1, 0.201), ([1.0], 0.0, None), ([0.0, 0.0], 0.0, 1.0)],
)
def test_a_percentile_is_not_stopped_itself(benign, share, expected):
    assert percentile_setting(benign, share) == expected


def test_another_model(folder):
    calibrate(folder, [0.1] * 100)
    (folder / "model.safetensors").write_bytes(bytes(99) + b"x")
    with pytest.raises(UsageError, match=r"calibration\.json was measured on another model"):
        ModelSettings.of(str(folder))


@pytest.mark.parametrize(
    "argv",
    [
        ("generate", "--model", "MODEL", "--input", "prompts.jsonl", "--out", "OUT"),
        ("serve", "--model", "MODEL"),
        ("evaluate", "MODEL", "--out", "OUT"),
        ("gate", "MODEL", "--out", "OUT"),
    ],
)
def test_no_command_takes_the_calibration_of_another_model(folder, argv):
    calibrate(folder, [0.1] * 100)
    (folder / "model.safetensors").write_bytes(bytes(99) + b"x")
    out = folder.parent / "out"
    given = {"MODEL": str(folder), "OUT": str(out)}
    with pytest.raises(UsageError, match=r"measured on another model.* Run `srp threshold --model`") as error:
        load(COMMANDS[argv[0]]).main([given.get(word, word) for word in argv[1:]])
    assert error.value.exit_code == 2 and "\n" not in str(error.value) and not out.exists()


def test_a_model_that_differs_in_one_tensor_only(folder):
    """As after pruning, or after a direction was removed: the ends of the file are as they were."""
    weights = bytearray(bytes(8 << 20))
    (folder / "model.safetensors").write_bytes(weights)
    calibrate(folder, [0.1] * 100)
    weights[5_000_000:5_016_384] = b"x" * 16_384  # 0.2% of it
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UsageError, match=r"calibration\.json was measured on another model"):
        ModelSettings.of(str(folder))


def test_benign_prompts_of_another_kind(folder, capsys):
    calibrate(folder, [i / 1000 for i in range(500)])
    other = write(folder.parent / "other.jsonl", [0.1] * 90 + [0.9] * 10)
    before = (folder / "calibration.json").read_bytes()
    main(["--model", str(folder), "--check", other])
    said = capsys.readouterr().out
    assert "100 benign answers: 0.495 stops 10.0% (95%: 5.5% to 17.4%)." in said
    assert (
        "warning: 10.0% of 100 benign prompts are stopped" in said
        and "they differ from those it was measured on" in said
    )
    main(["--model", str(folder), "--check", write(folder.parent / "same.jsonl", [0.1] * 99 + [0.9])])
    assert "warning" not in capsys.readouterr().out
    assert (folder / "calibration.json").read_bytes() == before
    for flags, message in (
        ([], "--check FILE compares with a calibration: pass --model DIR too"),
        (["--model", str(folder), "--harmful", other], "--check is for benign answers: leave --harmful out"),
    ):
        with pytest.raises(UsageError, match=message):
            main(["--check", other, *flags])
    for flags in ([], ["--benign", other, "--check", other]):
        with pytest.raises(UsageError, match="pass one of --benign FILE"):
            main(flags)
    (folder / "calibration.json").unlink()
    with pytest.raises(UsageError, match=r"has no calibration\.json to check; --benign FILE makes one"):
        main(["--check", other, "--model", str(folder)])


def test_the_area_under_the_curve():
    assert auc([0.9, 0.8], [0.1, 0.2])[0] == 1 and auc([0.1], [0.9])[0] == 0 and auc([0.5], [0.5])[0] == 0.5
    assert auc([0.9] * 20, [0.1] * 200)[1:] == (pytest.approx(0.839, abs=1e-3), 1.0)  # not certain, though perfect
    rng = random.Random(2)
    areas = [auc([rng.gauss(1, 1) for _ in range(30)], [rng.gauss(0, 1) for _ in range(60)]) for _ in range(300)]
    assert sum(low <= 0.7602 <= high for _, low, high in areas) >= 0.95 * 300  # of two normals one deviation apart


def test_none(folder):
    assert ModelSettings.of(str(folder)).notes[-1] == (
        f"{folder} has no calibration.json; assuming --unsafe-threshold 0.5, which `srp threshold` measures"
    )
    assert ModelSettings.of(str(folder)).threshold == 0.5
    for silent in ({"threshold": 0.3}, {"guarded": False}):
        assert not any("calibration" in note for note in ModelSettings.of(str(folder), **silent).notes)


def test_a_threshold_that_stops_everything(folder):
    calibrate(folder, [0.1, 0.2] * 100)
    with pytest.raises(UsageError, match=r"--unsafe-threshold 0\.05 stops every benign case"):
        ModelSettings.of(str(folder), threshold=0.05)
    (folder / "calibration.json").unlink()
    with pytest.raises(InputError, match=r"no threshold keeps false stops within 1.00%.*Nothing was written"):
        calibrate(folder, [1.0] * 10, [1.0] * 10)
    with pytest.raises(InputError, match="no threshold keeps false stops"):
        calibrate(folder, [1.0] * 10)
    assert not (folder / "calibration.json").exists()


def test_verdicts_at_chance(folder, capsys):
    rng = random.Random(1)
    calibrate(folder, [rng.random() for _ in range(200)], [rng.random() for _ in range(200)])
    assert "this model's verdicts are at chance" in capsys.readouterr().out
    assert any("do not tell harmful from benign" in note for note in ModelSettings.of(str(folder)).notes)
    assert not is_at_chance([0.9] * 5, [0.1] * 5) and is_at_chance([0.1] * 5, [0.9] * 5)


def test_verdicts_that_count(folder):
    found = calibrate(folder, [0.1] * 100, [0.7] * 10, "--stop-after", "Unsafe")
    assert found.stop_at == {Verdict.UNSAFE} == ModelSettings.of(str(folder)).stop_at
    with pytest.raises(UsageError, match=r"--stop-after Controversial,Unsafe: calibration.json is for Unsafe"):
        ModelSettings.of(str(folder), stop_after="Unsafe,Controversial")
    assert ModelSettings.of(str(folder), stop_after="Unsafe,Controversial", threshold=0.3).threshold == 0.3


@pytest.mark.parametrize("change", [{"format_version": 2}, {"threshold": 0}, {"threshold": "high"}, {"more": 1}])
def test_a_damaged_one(folder, change):
    calibrate(folder, [0.1] * 100)
    path = folder / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"calibration\.json: "):
        ModelSettings.of(str(folder))
