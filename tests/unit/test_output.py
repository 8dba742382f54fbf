"""An output prefix: killed before any call to the disk it ends as if undisturbed, and what cannot be is refused."""

import mmap
import os
import signal
import tempfile
from pathlib import Path

import pytest

from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.manifest import manifest_path, read_manifest
from megatron_srp.data.shards.output import Output
from megatron_srp.data.verify.findings import Findings
from megatron_srp.data.verify.manifest import verify_files
from megatron_srp.errors import InputError, UsageError
from tests.conftest import KeywordGuard
from tests.helpers.killing import contents, kill_at_call

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # the children only touch files
SETTINGS = {"inputs": [{"file": "a.jsonl", "fingerprint": "1"}], "reflection": {"open": "<think>"}, "max_words": 100}

MANIFEST = {"format_version": 1, "shards": [], "tokenizer": {"type": "t", "model": "m", "fingerprint": "f"}}


def job(prefix: Path, overwrite: bool = False) -> None:
    """A run in three chunks that leaves a file and a folder."""
    output = Output(prefix, SETTINGS, [Path(f"{prefix}_x.bin"), Path(f"{prefix}_x.srp")], overwrite)
    if output.finished:
        return
    begin = output.journal["state"].get("chunks", 0)
    (output.folder / "extra").mkdir(exist_ok=True)
    (output.folder / "extra" / "model").write_text("a model")
    with (output.folder / "x.bin").open("r+b" if begin else "wb", buffering=0) as file:
        file.truncate(begin * 1000)
        file.seek(begin * 1000)
        for i in range(begin, 3):
            file.write(bytes([i]) * 1000)
            os.fsync(file.fileno())
            output.commit({"chunks": i + 1})
    moves = {Path("x.bin"): Path(f"{prefix.name}_x.bin"), Path("extra"): Path(f"{prefix.name}_extra")}
    output.finish(moves, MANIFEST)


def killed(prefix: Path, call: int, overwrite: bool) -> bool:
    """Run the job in a process of its own that is killed at that call; whether it was."""
    pid = os.fork()
    if not pid:
        kill_at_call(call, mmap.mmap(-1, 8))
        try:
            job(prefix, overwrite)
            os._exit(0)
        except UsageError:  # it is finished
            os._exit(0)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def earlier_output(prefix: Path) -> None:
    """A finished output with a sidecar and a file that the new one has not."""
    output = Output(prefix, {}, [])
    for name in ("x.bin", "x.srp", "x.old"):
        (output.folder / name).write_text("old")
    output.finish({Path(name): Path(f"{prefix.name}_{name}") for name in ("x.bin", "x.srp", "x.old")}, MANIFEST)


@pytest.fixture
def quick_disk(tmp_path):
    """A folder in memory where there is one: thousands of fsyncs are waited for in vain on a busy disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_every_call_to_the_disk(quick_disk, overwrite):
    tmp_path = quick_disk
    if overwrite:
        earlier_output(tmp_path / "whole" / "c")
    job(tmp_path / "whole" / "c", overwrite)
    expected = contents(tmp_path / "whole")
    assert set(expected) == {"c.srp.json", "c_x.bin", "c_extra/model"}
    for call in range(1, 1000):
        prefix = tmp_path / str(call) / "c"
        if overwrite:
            earlier_output(prefix)
        was_killed = killed(prefix, call, overwrite)
        if manifest_path(prefix).exists():  # what looks finished, the new output or the old, is finished
            findings = Findings()
            verify_files(manifest_path(prefix), read_manifest(manifest_path(prefix))["files"], False, findings)
            assert not findings.lines()
        for again in (1, 2):  # and killed again as it goes on
            killed(prefix, 5 * again + call % 5, overwrite)
        try:
            job(prefix, overwrite)
        except UsageError as error:
            assert "exists already" in str(error)
        assert contents(tmp_path / str(call)) == expected, f"killed at call {call}"
        if not was_killed:
            assert call > 40
            return


def half_done(prefix: Path) -> Output:
    output = Output(prefix, SETTINGS, [])
    output.commit({"chunks": 1})
    output.close()
    return output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_words": 50}, "max_words was 100, now 50"),
        ({"max_words": None}, "max_words was 100, now null"),
        ({"reflection": {"open": "<safety>"}}, 'reflection.open was "<think>", now "<safety>"'),
        ({"inputs": [{"file": "a.jsonl", "fingerprint": "2"}]}, 'inputs[a.jsonl].fingerprint was "1", now "2"'),
        ({"inputs": []}, "inputs was "),
        ({"on_error": "skip"}, 'on_error was null, now "skip"'),
    ],
)
def test_other_settings_are_named(tmp_path, change, message):
    half_done(tmp_path / "c")
    with pytest.raises(UsageError) as error:
        Output(tmp_path / "c", SETTINGS | change, [])
    assert message in str(error.value) and "--overwrite" in str(error.value)
    assert Output(tmp_path / "c", SETTINGS, []).journal["state"] == {"chunks": 1}


def test_other_software_is_refused(tmp_path, monkeypatch):
    half_done(tmp_path / "c")
    monkeypatch.setattr("megatron_srp.data.shards.output.token_software", lambda: {"gigatoken": "99"})
    with pytest.raises(UsageError, match=r'software.gigatoken was ".*", now "99"'):
        Output(tmp_path / "c", SETTINGS, [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: text.replace('"chunks": 1', '"chunks": 2'),
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: "{}",
    ],
)
def test_a_damaged_journal_is_one_clear_line(tmp_path, damage):
    path = half_done(tmp_path / "c").folder / "journal.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"journal\.json: the journal of this half-done run is damaged; pass --over"):
        Output(tmp_path / "c", SETTINGS, [])
    Output(tmp_path / "c", SETTINGS, [], overwrite=True).close()


def test_a_work_file_shorter_than_the_journal_says(tokenizer, tmp_path):
    def build() -> ReflectionIndexedDatasetBuilder:
        return ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard())

    for damage in (lambda path: path.write_bytes(b""), Path.unlink):
        builder = build()
        builder.add_documents(["Some text."])
        builder.commit(1)
        builder.close()
        damage(builder.output.folder / "c_text_document.cuts")
        with pytest.raises(InputError, match=r"document\.cuts is shorter than its journal says; pass --overwrite"):
            build()
        builder.output.folder.rename(tmp_path / f"kept-{damage.__name__}")


def test_a_work_file_taken_away_as_the_run_finished(tmp_path):
    for call in range(20, 400):
        prefix = tmp_path / str(call) / "c"
        assert killed(prefix, call, overwrite=False)
        work = Path(f"{prefix}.srp-work")
        if "finishing" in (work / "journal.json").read_text():
            (work / "x.bin").unlink()
            with pytest.raises(InputError, match="is not the file that the run made"):
                job(prefix)
            assert not manifest_path(prefix).exists()
            return


@pytest.mark.parametrize(
    ("done", "overwrite", "from_scratch"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_a_run_begins_when_it_begins_from_scratch(tmp_path, done, overwrite, from_scratch):
    """By this time inputs are recognized that were modified during the run: not those modified before it."""
    first = half_done(tmp_path / "c") if done else Output(tmp_path / "c", SETTINGS, [])
    first.close()
    os.utime(first.folder / "lock", (1, 1))
    again = Output(tmp_path / "c", SETTINGS, [], overwrite=overwrite)
    assert (again.started > 1) == from_scratch
    again.close()


def test_two_runs_at_once(tmp_path):
    first = Output(tmp_path / "c", SETTINGS, [])
    pid = os.fork()
    if not pid:
        os.close(first._lock)  # not the child's; the lock is held as long as one process has it open
        try:
            Output(tmp_path / "c", SETTINGS, [], overwrite=True)
        except UsageError as error:
            os._exit(7 if "another run is writing" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    first.close()
    Output(tmp_path / "c", SETTINGS, []).close()


def test_a_run_that_finishes_does_not_take_the_next_ones_folder(tmp_path):
    """Between the two, the folder of the first is gone and the lock it holds is of no file any more."""
    first = Output(tmp_path / "c", SETTINGS, [])
    (first.folder / "lock").unlink()  # what the finishing run does last but one
    second = Output(tmp_path / "c", SETTINGS, [])
    with pytest.raises(UsageError, match="another run is writing"):
        Output(tmp_path / "c", SETTINGS, [])
    first.close()
    assert (second.folder / "journal.json").exists()


def test_a_try_that_committed_nothing_gives_way_to_another(tmp_path):
    Output(tmp_path / "c", {"keys": ["body"]}, []).close()
    second = Output(tmp_path / "c", {"keys": ["text"]}, [])
    second.commit({"position": 1})
    second.close()
    with pytest.raises(UsageError, match="keys"):
        Output(tmp_path / "c", {"keys": ["body"]}, [])
