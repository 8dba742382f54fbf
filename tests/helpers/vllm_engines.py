"""What the engines of answers and of verdicts find, as JSON: run in the environment that has vLLM, and in that of the
tests with transformers.

    python -m tests.helpers.vllm_engines answers MODEL OUT
    python -m tests.helpers.vllm_engines verdicts GUARD OUT        (OUT has the texts first)
    python -m tests.helpers.vllm_engines classes CLASSIFIER.yaml OUT        (the same)
"""

import json
import sys
from pathlib import Path
from typing import Any

from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy, to_record
from megatron_srp.reflection import ReflectionFormat

EAGER = {"enforce_eager": True, "max_num_seqs": 32}
WORDS = ("river", "knife", "kill", "house", "bomb")
POLICIES = (
    GuardPolicy("stop"),
    GuardPolicy("refuse"),
    GuardPolicy("retract", reflect_every=4),
    GuardPolicy("off", reflect_every=2),
)


def answers(model: PromptedModel) -> list[dict[str, Any]]:
    """To all words under all policies, some with a prefill."""
    asked = [
        model.chat([{"role": "user", "content": f"say: {word}"}], Options(policy, Sampling(), 40), prefill)
        for word in WORDS
        for policy, prefill in zip(POLICIES, ("", "", " we", ""), strict=True)
    ]
    return [to_record(found) for found in model.generator.generate(asked)]


def drawn(model: PromptedModel, policy: GuardPolicy, seeds: int) -> list[str]:
    """What is shown of answers at a temperature, one for each seed."""
    turns = [{"role": "user", "content": "say: knife"}]
    asked = [model.chat(turns, Options(policy, Sampling(0.7, seed=seed), 80)) for seed in range(seeds)]
    return [found.text for found in model.generator.generate(asked)]


def verdicts(guard_folder: str, engine: str, texts: list[str]) -> list[tuple[float, str]]:
    """Scores and labels of texts."""
    from megatron_srp.annotation import GuardOptions, load_guard

    own: dict[str, Any] = {"vllm": {"max_num_seqs": 32, "dtype": "float32"}, "hf": {}}[engine]
    guard = load_guard("qwen3guard", GuardOptions(guard_folder, engine=engine, engine_options=own))
    found = [(float(result.score), str(result.label)) for result in guard.results(texts)]
    guard.close()
    return found


def classes(description: str, engine: str, texts: list[str]) -> list[tuple[float, str]]:
    """Scores and labels of texts by a classifier."""
    from megatron_srp.annotation import GuardOptions, load_guard

    own: dict[str, Any] = {"vllm": {"max_num_seqs": 32, "dtype": "float32"}, "hf": {}}[engine]
    guard = load_guard(description, GuardOptions(engine=engine, engine_options=own))
    found = [(float(result.score), str(result.label)) for result in guard.results(texts)]
    guard.close()
    return found


def main() -> None:
    what, folder, out = sys.argv[1:]
    if what in ("verdicts", "classes"):
        judge = {"verdicts": verdicts, "classes": classes}[what]
        found: Any = judge(folder, "vllm", json.loads(Path(out).read_text()))
    else:
        from megatron_srp.generation.engines.vllm import VLLMModel

        model = VLLMModel(folder, ReflectionFormat(), "float32", **EAGER)
        found = {"answers": answers(model)}
        for every in (0, 8):
            found[str(every)] = drawn(model, GuardPolicy("retract", reflect_every=every), 24)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
