"""`tools/generate.py`: guarded answers to a file of prompts, or a conversation in the terminal."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import CommandParser, InputError, UsageError
from megatron_srp.generation.chat import converse
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, GuardPolicy, to_record
from megatron_srp.generation.records import read_records
from megatron_srp.reflection import ReflectionFormat, parse_stop_after

if TYPE_CHECKING:
    from megatron_srp.generation.engines.prompted_model import PromptedModel
    from megatron_srp.generation.engines.request import Request


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the model, the guard and sampling."""
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="folder that tools/export_hf.py wrote, or a name on the hub")
    add("--engine", choices=["hf", "vllm"], default="hf", help="transformers (default), or vLLM on this machine's GPUs")
    add("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    add("--dtype", metavar="NAME", help="bfloat16, float16 or float32 (default: bfloat16 on a GPU, float32 on CPU)")
    add("--reflection-tokens", choices=["text", "special"], default="text", help="as the shards were written")
    add("--on-unsafe", default="stop", metavar="POLICY", help="stop, refuse, retract or off (default: stop)")
    add("--stop-at", default="Unsafe,Controversial", metavar="VERDICTS", help="what counts as unsafe (default: both)")
    add("--refusal", default=DEFAULT_REFUSAL, metavar="TEXT", help="what --on-unsafe refuse shows")
    add("--reflect-every", type=int, default=0, metavar="TOKENS", help="force reflections so often (default: 0, never)")
    add("--reflect-prompt", action="store_true", help="force one on the prompt (--reflect-every does so as well)")
    add(
        "--unsafe-threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="a forced one stops from here (default: 0.5; tools/choose_threshold.py measures which is best)",
    )
    add("--max-new-tokens", type=int, default=256, metavar="N", help="tokens in an answer at most (default: 256)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 is the likeliest token (default)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw among the likeliest tokens with this probability")


def options_from_args(args: argparse.Namespace) -> Options:
    """The policy and sampling that the flags describe, with `--seed` where a command has it; raises UsageError."""
    stop_at = parse_stop_after(args.stop_at)
    policy = GuardPolicy(
        args.on_unsafe, stop_at, args.refusal, args.reflect_every, args.reflect_prompt, args.unsafe_threshold
    )
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {args.max_new_tokens}: give at least 1")
    return Options(policy, Sampling(args.temperature, args.top_p, getattr(args, "seed", 0)), args.max_new_tokens)


def load_from_args(args: argparse.Namespace) -> "PromptedModel":
    """The model that the flags describe; raises UsageError."""
    form = ReflectionFormat(special_tokens=args.reflection_tokens == "special")
    if args.engine == "vllm":
        if args.device:
            raise UsageError("--device is for --engine hf; vLLM takes CUDA_VISIBLE_DEVICES")
        from megatron_srp.generation.engines.vllm import VLLMModel

        return VLLMModel(args.model, form, args.dtype)
    from megatron_srp.generation.engines.hf.model import GuardedModel

    return GuardedModel(args.model, form, args.device, args.dtype)


def read_prompts(path: Path) -> Iterator[dict[str, Any]]:
    """Lines with `prompt` (a text to go on with) or `messages` (a conversation); raises InputError."""
    for where, record in read_records(path):
        if not (_is_prompt(record) or _is_conversation(record)):
            raise InputError(
                f'{where}: give {{"prompt": "text"}} or {{"messages": [{{"role": "user", "content": "text"}}]}}'
            )
        yield record


def _is_prompt(record: dict[str, Any]) -> bool:
    return isinstance(record.get("prompt"), str) and "messages" not in record


def _is_conversation(record: dict[str, Any]) -> bool:
    turns: Any = record.get("messages")
    texts = (turn.get(key) for turn in turns for key in ("role", "content")) if _are_dicts(turns) else [None]
    return "prompt" not in record and bool(turns) and all(isinstance(text, str) for text in texts)


def _are_dicts(turns: Any) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)


def answer_file(args: argparse.Namespace) -> None:
    """Answer all prompts of `--input`, a batch at a time; the output is whole or not there."""
    options, records = options_from_args(args), list(read_prompts(args.input))
    if args.batch_size < 1:
        raise UsageError(f"--batch-size {args.batch_size}: give at least 1")
    model = load_from_args(args)

    def request(record: dict[str, Any]) -> "Request":
        if "prompt" in record:
            if not args.prefill:
                model.refuse_unfinished(record["prompt"])
            return model.complete(record["prompt"], options, args.prefill)
        return model.chat(record["messages"], options, args.prefill)

    requests = [request(record) for record in records]  # all of them first: a mistake costs no answers
    partial = args.output.with_name(args.output.name + ".partial")
    reasons: dict[str, int] = {}
    with partial.open("w", encoding="utf-8") as file:
        for at in range(0, len(requests), args.batch_size):
            found = model.generator.generate(requests[at : at + args.batch_size])
            for record, generation in zip(records[at:], found, strict=False):
                file.write(json.dumps(record | to_record(generation), ensure_ascii=False) + "\n")
                reasons[generation.stop_reason] = reasons.get(generation.stop_reason, 0) + 1
    partial.replace(args.output)
    print(f"{len(requests)} answers in {args.output}: {', '.join(f'{n} {r}' for r, n in sorted(reasons.items()))}")


def main(argv: list[str]) -> None:
    parser = CommandParser(description="Generate with a guard that acts on reflections.")
    parser.add_argument("--input", type=Path, metavar="FILE", help="JSONL of prompts or messages (default: a chat)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSONL to write: each line with its answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="answers at a time (default: 16)")
    parser.add_argument("--prefill", default="", metavar="TEXT", help="what every answer begins with")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws")
    add_generation_arguments(parser)
    args = parser.parse_args(argv)
    if bool(args.input) != bool(args.output):
        raise UsageError("--input and --output go together; give both, or neither for a chat")
    if args.input:
        answer_file(args)
    else:
        options = options_from_args(args)
        converse(load_from_args(args), options, args.prefill)
