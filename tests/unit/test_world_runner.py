"""Steps that are run in the order of what they need, each once, in a run that is killed and goes on; and its command."""

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.medsafetyworld.experiment.graph import Step
from megatron_srp.medsafetyworld.experiment.runner import Runner
from megatron_srp.medsafetyworld.experiment.step import spread
from megatron_srp.medsafetyworld.experiment.variants import parse_stages

ROOT = Path(__file__).parents[2]


class Watcher:
    def __init__(self):
        self.ran, self.skipped = [], []

    def started(self, step, log):
        pass

    def ended(self, step, seconds, skipped):
        (self.skipped if skipped else self.ran).append(step.name)

    def tick(self):
        pass


def python(name, code, results, needs=()):
    return Step(name, ("-c", code), results, tuple(needs))


def run(out, steps, jobs=2):
    watcher = Watcher()
    with closing(Runner(out, jobs, watcher)) as runner:
        runner.run(steps)
    return watcher


def counting(name, needs=(), text="x"):
    """A step that adds to a file, so that one can see how often it was run."""
    return python(f"s/{name}", f"open('{name}', 'a').write('{text}')", (name,), needs)


class TestRunner:
    def test_runs_each_step_once(self, tmp_path):
        a = counting("a")
        b = counting("b", [a])
        assert run(tmp_path, [a, b]).ran == ["s/a", "s/b"]
        again = run(tmp_path, [a, b])
        assert again.ran == [] and again.skipped == ["s/a", "s/b"]
        assert (tmp_path / "a").read_text() == "x"

    def test_a_changed_step_and_what_needs_it_start_again(self, tmp_path):
        a, other = counting("a"), counting("other")
        run(tmp_path, [a, other, counting("b", [a])])
        new = counting("a", text="y")
        assert sorted(run(tmp_path, [new, other, counting("b", [new])]).ran) == ["s/a", "s/b"]
        assert (tmp_path / "a").read_text() == "y" and (tmp_path / "b").read_text() == "x"

    def test_a_result_that_was_removed_is_made_again(self, tmp_path):
        a = counting("a")
        run(tmp_path, [a])
        (tmp_path / "a").unlink()
        assert run(tmp_path, [a]).ran == ["s/a"]

    def test_a_failure_ends_with_the_log_and_goes_on_from_there(self, tmp_path):
        a = counting("a")
        code = "import pathlib, sys; p = pathlib.Path('b'); print('no luck'); p.exists() or (p.touch(), sys.exit(3))"
        b = python("s/b", code, ("b",), [a])
        with pytest.raises(OutputError, match=r"s/b failed with exit code 3; .*no luck"):
            run(tmp_path, [a, b])
        done = run(tmp_path, [a, b])  # what b had begun is still there
        assert done.ran == ["s/b"] and done.skipped == ["s/a"]

    def test_steps_run_side_by_side(self, tmp_path):
        wait = (
            "import pathlib, time\npathlib.Path('{0}').touch()\nwhile not pathlib.Path('{1}').exists(): time.sleep(.01)"
        )
        steps = [python("s/a", wait.format("a", "b"), ("a",)), python("s/b", wait.format("b", "a"), ("b",))]
        assert sorted(run(tmp_path, steps).ran) == ["s/a", "s/b"]

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").touch()
        with pytest.raises(UsageError, match="exists but is not a run"):
            run(tmp_path, [])

    def test_one_run_at_a_time(self, tmp_path):
        with closing(Runner(tmp_path, 1, Watcher())), pytest.raises(UsageError, match="another run is working"):
            Runner(tmp_path, 1, Watcher())

    def test_killed_in_mid_step_it_goes_on_and_no_child_is_left(self, tmp_path):
        script = tmp_path / "killed.py"
        script.write_text(KILLED.format(root=str(ROOT), out=str(tmp_path / "out")))
        process = subprocess.Popen([sys.executable, script], cwd=ROOT)
        pid_file = tmp_path / "out" / "pid"
        deadline = time.monotonic() + 600
        while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        child = int(pid_file.read_text())
        while is_running(child):
            assert time.monotonic() < deadline, "the step outlived the run"
            time.sleep(0.05)
        (tmp_path / "out" / "go").touch()
        finished = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        assert (tmp_path / "out" / "first").read_text() == "x"  # not run again
        assert (tmp_path / "out" / "begun").read_text() == "12"  # went on with what was there


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.test_world_runner import Watcher, counting, python
from megatron_srp.medsafetyworld.experiment.runner import Runner
first = counting("first")
code = '''
import os, time, pathlib
with open("begun", "a") as file:
    file.write("2" if pathlib.Path("begun").stat().st_size else "1")
pathlib.Path("pid").write_text(str(os.getpid()) + "\\\\n")
while not pathlib.Path("go").exists():
    time.sleep(.02)
'''
second = python("s/second", code, ("begun",), [first])
Runner(Path({out!r}), 2, Watcher()).run([first, second])
"""


class TestCommand:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--preset", "minni"], "--preset 'minni': choose from mini, nano, paper, small; did you mean 'mini'?"),
            (["--settings", "srp,filter"], "--settings 'filter': choose from .*; did you mean 'filtering'?"),
            (["--settings", "srp,srp"], "--settings 'srp,srp': name each once"),
            (["--settings", "hide,policies"], "--settings 'hide,policies': name each once; all and policies stand"),
            (["--stages", "benign"], "--stages 'benign': choose from .*adversarial.*"),
            (["--seeds", "0"], "--seeds 0: pass a number of at least 1"),
            (["--first-seed", "-1"], "--first-seed -1: pass a number of at least 0"),
            (["--limit", "-3"], "--limit -3: pass a number of at least 1"),
            (["--label-policy", "safe"], "--label-policy 'safe': choose from .*"),
            (["--preset", "nano", "--task", "two-hop"], "--task 'two-hop': choose from single-hop"),
        ],
    )
    def test_mistakes_are_one_line(self, flags, message, tmp_path):
        from megatron_srp.cli.world_run import main

        with pytest.raises(UsageError, match=message):
            main([*flags, str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()

    def test_a_dry_run_prints_the_steps_and_does_nothing(self, tmp_path, capsys):
        from megatron_srp.cli.world_run import main

        assert main(["--preset", "paper", "--settings", "all", "--dry-run", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        assert "seed2/rewrite/adversarial/train" in printed and not (tmp_path / "out").exists()

    def test_stages_are_in_the_order_they_are_trained_in(self):
        assert parse_stages("benign-mix-sft,adversarial") == ("sft", "adversarial", "benign-mix-sft")
        assert parse_stages("forged-adversarial") == ("sft", "sft-recovery-forged", "forged-adversarial")


@pytest.mark.parametrize(
    ("batch", "micro_batch", "gpus", "expected"),
    [
        (16, 16, 1, ("16", 1)),
        (16, 16, 2, ("8", 2)),
        (128, 64, 8, ("16", 8)),
        (4, 64, 8, ("1", 4)),
        (12, 5, 5, ("3", 4)),
    ],
)
def test_a_batch_is_spread_over_gpus(batch: int, micro_batch: int, gpus: int, expected: tuple[str, int]) -> None:
    flags = ["--global-batch-size", str(batch), "--micro-batch-size", str(micro_batch), "--bf16"]
    found, used = spread(flags, gpus)
    assert (found[3], used) == expected
    assert found[:3] + found[4:] == flags[:3] + flags[4:]
