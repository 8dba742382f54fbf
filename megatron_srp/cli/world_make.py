"""`srp world make`: a MedSafetyWorld."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.cli.world_flags import CAUSE_FIRST, LABEL_POLICIES, SETTINGS, TASKS
from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world.presets import PRESETS, load_preset

if TYPE_CHECKING:
    from megatron_srp.medsafetyworld.world.corpus import Progress

DESCRIPTION = """
Make a MedSafetyWorld: a fictional medical domain with its pretraining corpus, ground-truth labels, SFT set,
test set and fine-tuning sets. The same flags give the same bytes, whatever the number of workers.

Writes OUT/corpus/*.jsonl, OUT/annotations (in a setting with verdicts; pass it to `srp preprocess` as --store),
OUT/sft.jsonl, recovery.jsonl, recovery_untested.jsonl, finetune_benign.jsonl, finetune_adversarial.jsonl, test.jsonl,
graph.json, and world.json: parameters, counts and hashes.
"""
EPILOG = """
settings (harmful texts are those that lead from an unsafe outcome to its compounds)
  baseline          all texts
  filtering         all but the harmful texts
  filtering-plus    all but the texts on an unsafe outcome
  rewrite           all texts, the harmful ones rewritten to call the outcome dangerous
  srp               the texts of filtering, with a verdict on each for its reflection
  filtering-tags    the texts of filtering, each followed by the word Safe or Unsafe: a verdict without a reflection
  filtering-filler  the texts of filtering, each followed by meaningless words, as long as a reflection
  srp-questions     srp with a question for every 25 texts, not the test's, with the verdict that post-training gives it

label policies (srp, srp-questions): which texts are Unsafe. The paper calls only the harmful texts Unsafe, which these
corpora do not contain; its appendix labels examples by their outcome. It leaves the choice open, so there are several:
  by-outcome      texts with an unsafe outcome (default)
  all-safe        none
  order-aware     texts that name an unsafe outcome before its compounds
  random          as many as by-outcome, drawn at random
"""
_REDRAW_EVERY_S, _LOG_EVERY_S = 0.2, 30.0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world make", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write")
    add("--task", choices=TASKS, default="single-hop", help="how many edges of the graph a question crosses")
    add("--preset", choices=list(PRESETS), default="mini", help="size of the world")
    add("--setting", choices=SETTINGS, required=True, help="which texts the corpus has; see below")
    add(
        "--label-policy",
        choices=LABEL_POLICIES,
        help="for settings with verdicts: which texts are Unsafe; see below (default: by-outcome)",
    )
    add("--cause-first", action="store_true", help=CAUSE_FIRST)
    add("--seed", type=int, default=0, metavar="N", help="random seed")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")
    add("--overwrite", action="store_true", help="replace a world at OUT")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, make the world, print a summary. Returns the exit code."""
    args = build_parser().parse_args(argv)
    spec = load_preset(args.preset, args.task, args.cause_first)
    require_at_least(1, args, "--workers")
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed {args.seed}: pass a number from 0 to 2**63 - 1")

    from megatron_srp.medsafetyworld.world.settings import TREATMENTS, LabelPolicy, Setting

    setting = Setting(args.setting)
    has_verdicts = TREATMENTS[setting].verdicts
    if args.label_policy is not None and not has_verdicts:
        raise UsageError(f"--label-policy is for --setting srp and srp-questions; {setting} has no verdicts")
    policy = LabelPolicy(args.label_policy or "by-outcome")

    from megatron_srp.medsafetyworld.world.corpus import WorldJob
    from megatron_srp.medsafetyworld.world.world import make_world

    display = _Display()
    job = WorldJob(spec, args.preset, setting, policy, args.seed)
    manifest = make_world(job, args.out, args.workers, args.overwrite, display.update)
    display.close()
    _print_summary(args.out, manifest)
    verdicts = f"--store {args.out}/annotations" if has_verdicts else "--guard none"
    next_step(f"srp preprocess --input {args.out}/corpus {verdicts} ... ; srp world run runs the whole experiment")
    return 0


class _Display:
    """A live line on a terminal; in a log, an occasional line."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def update(self, progress: "Progress") -> None:
        now = time.monotonic()
        if now - self._shown < (_REDRAW_EVERY_S if self._live else _LOG_EVERY_S):
            return
        self._shown, seconds = now, now - self._started
        left = seconds * (progress.shards - progress.shards_done) / progress.shards_done
        line = (
            f"shard {progress.shards_done}/{progress.shards}  {progress.documents:,} documents  "
            f"{progress.text_bytes / 1e6 / seconds:.0f} MB/s  {left:.0f} s left"
        )
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")


def _print_summary(out: Path, manifest: dict[str, Any]) -> None:
    corpus, entities = manifest["corpus"], manifest["entities"]
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in entities.items() if count)
    rows = [
        ("entities", counts),
        ("edges", ", ".join(f"{kind} {count:,}" for kind, count in manifest["edges"].items())),
        (
            "documents",
            f"{corpus['documents']:,} in {len(corpus['files'])} files, {corpus['text_bytes']:,} bytes of text",
        ),
        *((f"  {name}", f"{count:,}") for name, count in corpus["classes"].items()),
    ]
    if "questions" in corpus:
        rows.append(("  questions", f"{corpus['questions']:,}"))
    if manifest["label_policy"]:
        rows.append(("verdicts", f"{corpus['unsafe_verdicts']:,} Unsafe, by {manifest['label_policy']}"))
    for name, template in manifest["templates"].items():
        rows.append((f"templates {name}", f"{template['used']:,} of {template['available']:,}"))
    rows += [(name, f"{entry['records']:,} records") for name, entry in manifest["sets"].items()]
    for name, value in rows:
        print(f"{name:<32} {value}")
    print(f"wrote {out}")
