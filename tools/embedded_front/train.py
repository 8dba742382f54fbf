"""Train the embedded front, `--guard small`, from public prompts and prose.

    python tools/embedded_front/train.py --prompts advbench:advbench.csv harmbench:harmbench_text.csv \
        xstest:xstest.csv gsm8k:gsm8k_train.jsonl --prose PROSE... \
        --out megatron_srp/annotation/guards/small.safetensors

Only sets whose licences allow derived works without conditions of use may go in: AdvBench and HarmBench (MIT), GSM8K
(MIT), XSTest (CC-BY-4.0), prose in the public domain or under CC-BY, and `harmless_requests.yaml`. AlpacaEval's data is
CC-BY-NC: it is for measuring alone.

The card's figures are out of fold: each prompt is judged by one of five models that did not see it.
"""

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
import yaml

from megatron_srp.annotation.cascade.sample import sample_segments
from megatron_srp.annotation.fronts.card import CAUTION
from megatron_srp.annotation.fronts.front_file import Front, save_front
from megatron_srp.annotation.fronts.train_small import train_small
from megatron_srp.annotation.guard_evaluation.datasets import load_dataset
from megatron_srp.annotation.guards.small import SmallGuard

FOLDS = 5
THRESHOLD = 0.8  # chosen on the out-of-fold figures: public prompts of harm are far denser than harm in a corpus
PROSE_SEGMENTS, REQUESTS = 20_000, 4_000
LIMITS = (
    "It knows words and not their meaning, and English only. AdvBench's goals resemble one another, which flatters its "
    "figure."
)
LICENCES = {
    "advbench": "AdvBench, MIT",
    "harmbench": "HarmBench, MIT",
    "xstest": "XSTest, CC-BY-4.0",
    "gsm8k": "GSM8K, MIT",
    "requests": "harmless_requests.yaml, this project's",
    "prose": "novels in the public domain; ELTeC and OpenStax, CC-BY",
}


def make_requests(count: int) -> list[str]:
    """Distinct ordinary requests."""
    tree = yaml.safe_load((Path(__file__).with_name("harmless_requests.yaml")).read_text())
    fill = {name: re.split(r",\s*", tree[f"{name}s"].strip()) for name in ("topic", "thing", "food", "chore")}
    rng = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[re.sub(r"\{(\w+)\}", lambda m: rng.choice(fill[m[1]]), rng.choice(tree["requests"]))] = None
    return list(found)


class Texts:
    """All texts: bool `harmful`, the `source` of each, and a random-looking number that decides its fold."""

    def __init__(self, prompts: Sequence[str], prose: Sequence[Path]) -> None:
        rows = [(e.text, e.harmful, name.partition(":")[0]) for name in prompts for e in load_dataset(name)]
        rows += [(text, False, "requests") for text in make_requests(REQUESTS)]
        rows += [
            (text, False, "prose") for text in sample_segments(prose, "text", 100, PROSE_SEGMENTS).texts.to_pylist()
        ]
        self.texts = pa.array([row[0] for row in rows], pa.large_string())
        self.harmful = np.array([row[1] for row in rows])
        self.source = np.array([row[2] for row in rows])
        self.numbers = np.array([xxhash.xxh3_64_intdigest(row[0].encode()) >> 8 for row in rows])

    def train(self, rows: np.ndarray) -> Front:
        """On bool[N] `rows`, a tenth of which makes scores probabilities."""
        aside = rows & (self.numbers // FOLDS % 10 == 0)
        return train_small(*self._pick(rows & ~aside), self._pick(aside))

    def _pick(self, rows: np.ndarray) -> tuple[pa.LargeStringArray, np.ndarray]:
        return self.texts.take(pa.array(np.flatnonzero(rows))), self.harmful[rows]

    def out_of_fold(self) -> np.ndarray:
        """float64[N] probabilities of harm by models that did not see the text."""
        found, folds = np.zeros(len(self.texts)), self.numbers % FOLDS
        for fold in range(FOLDS):
            guard = SmallGuard(self.train(folds != fold))
            found[folds == fold] = guard.harm_probabilities_array(self._pick(folds == fold)[0])
        return found


def make_card(texts: Texts, harms: np.ndarray) -> dict[str, Any]:
    rows = {}
    for source in dict.fromkeys(texts.source.tolist()):
        for harmful in (False, True):
            of = (texts.source == source) & (texts.harmful == harmful)
            if of.any():
                right = (harms[of] >= THRESHOLD) == harmful
                rows[f"{source}, {'harmful' if harmful else 'harmless'}"] = [
                    int(of.sum()),
                    round(float(right.mean()), 4),
                ]
    return {
        "kind": "small",
        "caution": f"{CAUTION} {LIMITS}",
        "trained_on": LICENCES,
        "out_of_fold": {"threshold": THRESHOLD, "texts and accuracy": rows},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", required=True, metavar="FORMAT:PATH")
    parser.add_argument("--prose", nargs="+", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    texts = Texts(args.prompts, args.prose)
    card = make_card(texts, texts.out_of_fold())
    front = replace(texts.train(np.ones(len(texts.texts), bool)), card=card, threshold=THRESHOLD)
    save_front(front, args.out)
    for name, (count, accuracy) in card["out_of_fold"]["texts and accuracy"].items():
        print(f"{name:<22} {count:>6,} {accuracy:.1%}")
    print(f"wrote {args.out}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
