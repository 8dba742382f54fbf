"""Every command of the README and the guides runs; of those that need a GPU, a cluster or weights, every flag is known."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_srp.cli import COMMANDS, load
from megatron_srp.toy_corpus.corpus import HARMFUL, sentence, texts, train_tokenizer
from megatron_srp.training.flags.command_line import LOOKED_AT
from tests.helpers.commands import srp

ROOT = Path(__file__).parents[2]
GUIDES = [
    *("prepare", "policies", "annotate", "train", "post-train", "serve", "evaluate", "release", "world", "extend"),
    "your-own-script",
]
# In the order in which a reader comes to them: later commands use what earlier ones made.
PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *(ROOT / f"docs/guides/{name}.md" for name in GUIDES)]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = list(dict.fromkeys(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)))  # run here, each once
ELSEWHERE = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace(
    "\\\n", " "
)  # need more than this machine
FILES = re.findall(r"```(?:python|yaml) title=\"(.*?)\"\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory) -> Path:
    """A folder as a user would have it: a corpus, a tokenizer, and the tools."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "corpus").mkdir()
    rng = random.Random(0)
    documents = [*texts(80), *(sentence(rng, HARMFUL) for _ in range(8))]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    (folder / "corpus" / "part.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.table({"text": list(texts(20, seed=1))}), folder / "more.parquet")
    train_tokenizer(folder / "tokenizer", documents=50)
    for name in ("tools", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name, content in FILES:
        (folder / name).write_text(content)
    return folder


def test_make_commands():
    assert BLOCKS[0].split("\n") == ["make demo", "make test", ""]
    programs = {"demo": "srp world run", "smoke": "srp smoke", "test": "pytest"}
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
            ["bash", "-euc", script], cwd=user_folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, script + done.stdout[-2000:] + done.stderr[-4000:]
    assert (user_folder / "out" / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "30"
    made = user_folder / "out"
    assert (made / "plain_text_document.bin").stat().st_size > 0
    assert (made / "joined_text_document.bin").read_bytes() == (made / "corpus_text_document.bin").read_bytes()


def test_the_flags_of_commands_for_other_machines():
    lines = [line for line in ELSEWHERE.splitlines() if re.match(r"srp |tools/|.*examples/", line)]
    assert lines
    for line in lines:
        for script in re.findall(r"(?:tools|examples)/[\w/]+\.\w+", line):
            assert (ROOT / script).is_file(), script
        if line.startswith("srp "):
            known, given = known_flags(shlex.split(line, comments=True)[1:])
            assert given <= known, line


def known_flags(words: list[str]) -> tuple[set[str], set[str]]:
    """The flags that the command of a line has, and those that the line gives."""
    module = load(COMMANDS[words[0]])
    grouped = getattr(module, "COMMANDS", COMMANDS)
    if grouped is not COMMANDS:
        module = load(grouped[words[1]])
    flags = {flag for action in module.build_parser()._actions for flag in action.option_strings}
    if words[0] == "train":  # Megatron's parser has the others
        flags |= set(LOOKED_AT)
    return flags, {word for word in words if word.startswith("--")}


def test_messages_in_troubleshooting_are_those_of_the_code():
    sources = " ".join(path.read_text() for path in (ROOT / "megatron_srp").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings over several lines
    headings = re.findall(r"^### (`.*`)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = re.findall(r"`(.*?)`", " ".join(headings))
    assert messages and not [message for message in messages if message not in sources]


def test_the_short_tour(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = srp("smoke", "--out", tmp_path / "smoke", "--documents", "60", "--steps", "3", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "smoke" / "report.html").read_text()
    assert "&lt;think&gt; Unsafe" in page and "<think>" not in page
    assert page.count("data:image/png;base64,") == 3  # the embedded guard names no categories
    shutil.rmtree(tmp_path / "smoke")
