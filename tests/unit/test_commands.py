"""The `srp` command: its table, what every command's help says, and what it does about mistakes."""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp import cli
from megatron_srp.annotation import engines as guards
from megatron_srp.cli import COMMANDS, Command, bench, check, evaluate, gate, load, world
from megatron_srp.cli.corpus_flags import TOKENIZER_TYPES
from megatron_srp.cli.guard_flags import ENGINES
from megatron_srp.cli.sft_flags import FORMATS
from megatron_srp.cli.world_flags import LABEL_POLICIES, SETTINGS, TASKS
from megatron_srp.errors import UsageError
from megatron_srp.evaluation.gate.criteria import criteria_names
from megatron_srp.evaluation.suite import suite_names
from megatron_srp.medsafetyworld.world.presets import PRESETS
from megatron_srp.medsafetyworld.world.settings import LabelPolicy, Setting
from megatron_srp.sft.chat_formats import NAMES
from megatron_srp.tokenization import TYPES
from tests.helpers.commands import SRP, srp

ROOT = Path(__file__).parents[2]
HEAVY = "{'torch', 'numpy', 'yaml', 'pyarrow', 'transformers', 'rich', 'orjson', 'ray', 'vllm', 'megatron'}"
NESTED = {"bench": bench, "check": check, "world": world}
LEAVES: dict[tuple[str, ...], Command] = {(name,): command for name, command in COMMANDS.items() if name not in NESTED}
LEAVES |= {(group, name): command for group, file in NESTED.items() for name, command in file.COMMANDS.items()}
each_command = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def flags_of(path: tuple[str, ...]) -> list[argparse.Action]:
    return [action for action in load(LEAVES[path]).build_parser()._actions if action.dest != "help"]


def test_help_lists_every_command_by_group():
    shown = srp("--help").stdout
    assert all(f"\n  {name} " in shown and command.help in shown for name, command in COMMANDS.items())
    assert (
        shown.index("\ndata:") < shown.index("\n  preprocess ") < shown.index("\nshards:") < shown.index("\ntraining:")
    )


def test_the_console_script_is_the_module():
    script = Path(sys.executable).with_name("srp")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == srp("--help").stdout


@pytest.mark.parametrize("argv", [["--help"], *[[*path, "--help"] for path in LEAVES]], ids=" ".join)
def test_help_imports_nothing_heavy(argv):
    code = f"import sys\nfrom megatron_srp.cli import main\ntry: main({argv!r})\nexcept SystemExit as end: code = end.code\n"
    code += f"print(code, sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.endswith("\n0 []\n")


@each_command
def test_every_flag_states_its_default(path):
    parser = load(LEAVES[path]).build_parser()
    formatter = parser.formatter_class(parser.prog)
    for action in flags_of(path):
        assert action.help, action.dest
        if action.option_strings and not action.required and not action.dest.startswith("srp_"):
            assert "default" in formatter._get_help_string(action), action.option_strings
        if action.nargs != 0 and action.type in (int, float):
            assert action.metavar, f"{action.option_strings} has no unit"


@each_command
def test_its_name_and_description(path):
    parser = load(LEAVES[path]).build_parser()
    assert parser.prog == f"srp {' '.join(path)}" and parser.description


@each_command
def test_it_ends_with_the_next_command(path):
    source = Path(load(LEAVES[path]).__file__).read_text()
    assert "next_step(" in source, "see parser.next_step"


@each_command
def test_a_wrong_flag_is_one_line_that_names_it(path):
    if path in [("train",), ("run",)]:
        pytest.skip("Megatron's parser answers, or a script's")
    with pytest.raises(UsageError, match=r"--helpp.*did you mean '--help'"):
        load(LEAVES[path]).main(["--helpp"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["preproces"], "srp has no command 'preproces'; did you mean 'preprocess'?"),
        (["xyz"], "srp has no command 'xyz'; `srp --help` lists them"),
        (["world", "mak"], "srp world has no command 'mak'; did you mean 'make'?"),
        (["world"], "srp world: name a command; `srp world --help` lists them"),
        ([], "srp: name a command; `srp --help` lists them"),
        (["export"], "the following arguments are required: CHECKPOINT, OUT; see `srp export --help`"),
        (["presets", "1p8b"], "unknown preset '1p8b'; "),
        (["compare", "tests/none", "tests/none"], "tests/none: no such file; pass the --out folder of `srp evaluate`"),
        (["preprocess", "--out-prefix", "x"], "unrecognized arguments: --out-prefix; did you mean '--output-prefix'?"),
        (["generate", "--model", "m", "--on-unsafe", "refus"], "--on-unsafe 'refus': choose from off, refuse, "),
        (["generate", "--model", "m", "--stop-after", "Safe"], "--stop-after Safe would end every answer"),
        (["sft", "--input", "x", "--mode", "original", "--guard-model", "m"], "--guard-model is an option of a guard"),
        (["evaluate", "owner/m", "--out", "o", "--guard-threshold", "1"], "--guard-threshold is an option of a guard"),
        (["generate", "--model", "tests/no-model"], "model tests/no-model: no such folder"),
        (["annotate", "--input", "x", "--guard", "heuristic", "--store", "s", "--json-keys", "a", "b"], "one key at a"),
    ],
)
def test_a_mistake_is_one_line(argv, said, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {said}") or said in shown.err
    assert shown.err.count("\n") == 1 and not shown.out


def test_a_megatron_checkpoint_is_not_a_model(tmp_path, capsys):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generate", "--model", str(tmp_path)])
    assert f"is a Megatron checkpoint; export it first: srp export {tmp_path} FOLDER" in capsys.readouterr().err


def test_old_names_of_flags_work_with_a_note(capsys):
    parser = load(COMMANDS["annotate"]).build_parser()
    old = ["--engine=vllm", "--threshold", "0.5", "--json-key", "body", "--engine-option", "a=1"]
    args = parser.parse_args(["--input", "x", "--store", "s", "--guard", "g", *old])
    assert (args.guard_engine, args.guard_threshold, args.json_keys, args.guard_option) == (
        "vllm",
        0.5,
        ["body"],
        ["a=1"],
    )
    assert capsys.readouterr().err.splitlines()[0] == "note: --engine is now called --guard-engine"
    assert "--engine " not in parser.format_help()


def test_help_names_the_suites_and_criteria_that_come_with_the_package():
    for text, names in ((evaluate.SUITE_HELP, suite_names()), (gate.CRITERIA_HELP, criteria_names())):
        assert set(re.findall(r"(\w+), ", text)) == set(names)


def test_version_names_the_stack():
    done = srp("--version")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"megatron-srp", "python", "megatron-core", "torch", "transformer-engine", "transformers"} <= set(rows)
    assert rows["megatron-core"].startswith("0.19.")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_flags(shell):
    done = srp("completion", shell)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("preprocess", "evaluate-guard", "--guard-engine", "--label-policy"))
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("x", name="starlette.requests"),
            "srp x needs starlette, which is not installed; pip install 'megatron-srp[serve]'",
        ),
        (ModuleNotFoundError("x", name="orjson"), "pip install 'megatron-srp'"),
        (ImportError("cannot import name '_kernels' from 'megatron_srp'", name="megatron_srp"), "compiled kernels"),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(error, said, monkeypatch):
    class Broken:
        @staticmethod
        def main(argv):
            raise error

    monkeypatch.setattr(cli, "load", lambda command: Broken)
    with pytest.raises(UsageError) as raised:
        cli.dispatch("srp", {"x": cli.Command("x", "", "")}, ["x"])
    assert said in str(raised.value)


def test_a_wrong_import_of_our_own_is_a_bug(monkeypatch):
    error = ModuleNotFoundError("No module named 'megatron_srp.nothing'", name="megatron_srp.nothing")

    class Broken:
        @staticmethod
        def main(argv):
            raise error

    monkeypatch.setattr(cli, "load", lambda command: Broken)
    with pytest.raises(ModuleNotFoundError):
        cli.dispatch("srp", {"x": cli.Command("x", "", "")}, ["x"])


def test_an_old_python_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.12 or newer, and this is Python 3\.11\.7"):
        cli.main(["--help"])


def test_the_choices_are_those_of_the_modules_that_are_too_heavy_to_ask():
    assert TOKENIZER_TYPES == TYPES and set(FORMATS) == set(NAMES) and set(ENGINES) == set(guards.ENGINES)
    assert (tuple(map(str, Setting)), tuple(map(str, LabelPolicy))) == (SETTINGS, LABEL_POLICIES)
    assert {*TASKS} == {task for tasks in PRESETS.values() for task in tasks}


def test_train_shows_our_flags_at_once():
    shown = srp("train", "--help").stdout
    assert (
        "--srp-preset" in shown
        and "--srp-sft" in shown
        and "--nproc-per-node N" in shown
        and "megatron_srp.training.pretrain --help" in shown
    )


def test_nothing_looks_for_tools():
    files = [
        path
        for path in (ROOT / "megatron_srp").rglob("*.py")
        if re.search(r'/ "tools"|tools/\w+\.py', path.read_text())
    ]
    assert not files
    assert sorted(path.name for path in (ROOT / "tools").iterdir() if path.is_file()) == [
        *(
            "gpu_check.sh",
            "make_unicode_classes.py",
            "preprocess_with_reflections.py",
            "setup_comparisons.sh",
            "setup_venv.sh",
        ),
    ]


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(f"{' '.join(SRP)} --help | head -n 1", shell=True, capture_output=True, text=True)
    assert done.stdout == "usage: srp NAME ...\n" and not done.stderr


def test_messages_name_flags_as_they_are_called_now():
    parsers = [load(command).build_parser() for command in LEAVES.values()]
    present = {flag for parser in parsers for flag in parser._option_string_actions}
    former = {flag for parser in parsers for flag in getattr(parser, "_old_names", ())} - present
    assert "--tokenizer" in former
    named = re.compile(rf"(?:{'|'.join(former)})(?![\w-])")
    for file in sorted(Path(cli.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in former:
                assert not named.search(node.value), f"{file}:{node.lineno}: {node.value}"
