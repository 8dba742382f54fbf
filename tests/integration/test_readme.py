"""Every command of the README runs; of those that need a GPU, a cluster or weights, every flag is known."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_srp.toy_corpus.corpus import texts, train_tokenizer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
ELSEWHERE = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory) -> Path:
    """A folder as a user would have it: a corpus, a tokenizer, and the tools."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "corpus").mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(80)).encode()
    (folder / "corpus" / "part.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.table({"text": list(texts(20, seed=1))}), folder / "more.parquet")
    train_tokenizer(folder / "tokenizer", documents=50)
    for name in ("tools", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_make_commands():
    assert BLOCKS[0].split("\n") == ["make demo", "make test", ""]
    programs = {"demo": "tools/run_world.py", "smoke": "tools/smoke.py", "test": "pytest"}
    for target, program in programs.items():
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
        assert program in done.stdout


def test_continuous_integration_calls_the_test_command():
    assert "make test\n" in (ROOT / ".ci" / "run").read_text()


def test_the_commands_on_own_data_in_order(user_folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # Megatron's imports take twice as long without byte code
    for block in BLOCKS[1:]:
        script = block.replace("source .venv/bin/activate\n", "")
        done = subprocess.run(
            ["bash", "-euc", script], cwd=user_folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (user_folder / "out" / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "30"
    made = user_folder / "out"
    assert (made / "plain_text_document.bin").stat().st_size > 0
    assert (made / "joined_text_document.bin").read_bytes() == (made / "corpus_text_document.bin").read_bytes()


def test_the_flags_of_commands_for_other_machines():
    commands = re.findall(r"^(tools/\w+\.py|examples/\S+|.*examples/\S+)(.*)$", ELSEWHERE, re.MULTILINE)
    assert commands
    helps: dict[str, str] = {}
    for command, rest in commands:
        for script in re.findall(r"(?:tools|examples)/[\w/]+\.\w+", command + rest):
            assert (ROOT / script).is_file(), script
        if command.startswith("tools/"):
            if command not in helps:
                done = subprocess.run(
                    [sys.executable, ROOT / command, "--help"], capture_output=True, text=True, check=True
                )
                helps[command] = done.stdout
            for flag in re.findall(r"--[\w-]+", rest):
                assert re.search(rf"{flag}\b", helps[command]), f"{command} has no {flag}"


def test_the_short_tour(tmp_path):
    command = [
        sys.executable,
        ROOT / "tools" / "smoke.py",
        "--out",
        tmp_path / "smoke",
        "--documents",
        "60",
        "--steps",
        "3",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "smoke" / "report.html").read_text()
    assert "&lt;think&gt; Unsafe" in page and "<think>" not in page
    assert page.count("data:image/png;base64,") == 3
    shutil.rmtree(tmp_path / "smoke")
