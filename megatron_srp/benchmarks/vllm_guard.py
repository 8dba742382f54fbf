"""What the guard inside vLLM costs: two engines of one model, with and without it, in turn.

    python -m megatron_srp.benchmarks.vllm_guard MODEL

Every token counts, those of reflections too. Nothing is stopped, so that both engines write about as much.
"""

import argparse
import json
import os
import time
from typing import Any

from megatron_srp.benchmarks.timing import spread
from megatron_srp.generation.vllm.settings import VARIABLE

BATCHES = (1, 8, 32)
GUARD = {"on_unsafe": "off", "reflect_every": 32}
TOPICS = ("a lighthouse", "two rivers", "an old clock", "a train at night")


def load(model: str, guard: dict[str, Any] | None) -> Any:
    """An engine of its own; `guard` is its SRP_GUARD."""
    from vllm import LLM

    os.environ.pop(VARIABLE, None)
    if guard is not None:
        os.environ[VARIABLE] = json.dumps(guard)
    return LLM(model=model, enforce_eager=True, max_model_len=512, max_num_seqs=max(BATCHES), seed=0)


def tokens_per_second(engine: Any, batch: int, tokens: int, temperature: float) -> float:
    """Of one batch of answers."""
    from vllm import SamplingParams

    turns = [[{"role": "user", "content": f"Write a long story about {TOPICS[i % 4]}, {i}."}] for i in range(batch)]
    began = time.perf_counter()
    found = engine.chat(turns, SamplingParams(temperature=temperature, seed=0, max_tokens=tokens), use_tqdm=False)
    return sum(len(one.outputs[0].token_ids) for one in found) / (time.perf_counter() - began)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    plain, guarded = load(args.model, None), load(args.model, GUARD)
    print(
        "| batch | temperature | plain, tokens/s | with the guard, tokens/s | ratio |\n|---|---|---|---|---|",
        flush=True,
    )
    for batch in args.batches:
        for temperature in (0.0, 1.0):
            pairs = [
                [tokens_per_second(engine, batch, args.tokens, temperature) for engine in (plain, guarded)]
                for _ in range(args.rounds + 1)
            ][1:]  # the first is to warm up
            one, other = ([pair[i] for pair in pairs] for i in (0, 1))
            ratios = [b / a for a, b in pairs]
            print(f"| {batch} | {temperature:g} | {spread(one)} | {spread(other)} | {spread(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
