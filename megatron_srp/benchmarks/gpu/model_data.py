"""What the real model is post-trained on and asked, from a folder of public data sets.

    python -m megatron_srp.benchmarks.gpu.model_data draw SETS OUT       chats and harmful prompts; OUT/eval is asked
    python -m megatron_srp.benchmarks.gpu.model_data plain CHATS OUT     the same conversations without reflections

GSM8K's test part and half of AlpacaEval are answers to learn, HarmBench's requests are to be refused. Nothing of that
is asked later but HarmBench, on which the adversarial fine-tuning trains: the attacks use AdvBench.
"""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError, run_command

LEARNED = ("gsm8k", "alpaca")
REFUSED = "harmbench"
ASKED = ("advbench", "harmbench", "xstest", "gsm8k-train")


def check_sets(folder: Path) -> None:
    """Refuse a folder that lacks a data set; imports nothing heavy."""
    if not folder.is_dir():
        raise UsageError(f"--sets {folder}: no such folder; give one with {', '.join({*LEARNED, *ASKED})}")


def draw(sets: Path, out: Path) -> None:
    """`out`/chats.jsonl and harmful.jsonl to post-train on, and `out`/eval with what is asked.

    Raises:
        InputError: for a data set that is not there.
    """
    from megatron_srp.evaluation.behaviors import find_sources, load_behaviors

    sources = find_sources([str(sets)])
    missing = sorted({*LEARNED, *ASKED} - sources.keys())
    if missing:
        raise InputError(f"{sets}: no file of {', '.join(missing)}")
    (out / "eval").mkdir(parents=True, exist_ok=True)
    for name in ASKED:
        shutil.copy(sources[name], out / "eval")
    answered = {name: load_behaviors(name, sources[name]) for name in LEARNED}
    held_out, answered["alpaca"] = answered["alpaca"][::2], answered["alpaca"][1::2]
    rows = [{"instruction": behavior.prompt, "output": behavior.response} for behavior in held_out]
    (out / "eval" / "alpaca.json").write_text(json.dumps(rows))
    chats = [b for behaviors in answered.values() for b in behaviors if b.response.strip()]
    _write(out / "chats.jsonl", ({"prompt": b.prompt, "response": b.response} for b in chats))
    _write(out / "harmful.jsonl", ({"prompt": b.prompt} for b in load_behaviors(REFUSED, sources[REFUSED])))


def plain(chats: Path, out: Path) -> None:
    """Conversations of `srp sft --out` as messages: what is said, without reflections and stops."""
    from megatron_srp.reflection import ReflectionFormat
    from megatron_srp.sft.conversation import turns_from_json

    rows = (json.loads(line) for line in chats.read_text(encoding="utf-8").splitlines())
    turns = (turns_from_json(row["turns"], ReflectionFormat()) for row in rows)
    _write(out, ({"messages": [{"role": t.role, "content": t.text.strip()} for t in each]} for each in turns))


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def main(argv: list[str]) -> None:
    action, source, out = argv
    {"draw": draw, "plain": plain}[action](Path(source), Path(out))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
