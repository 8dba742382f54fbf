"""The training job on one GPU, measured: bf16 and each FP8 recipe, and what reflected data costs.

    python -m megatron_srp.benchmarks.gpu_check --out gpu-check          # `tools/gpu_check.sh` prepares a bare machine
    python -m megatron_srp.benchmarks.gpu_check --out rehearsal --device cpu --preset debug --steps 4

Each case is the real entry point in a process of its own with a time limit, so that one failure leaves the rest.
What is measured is read from Megatron's own log. Writes `gpu_check.json` and `gpu_check.md` after every case.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from megatron_srp.benchmarks.gpu_report import CaseResult, read_log, write_results
from megatron_srp.errors import CommandParser, UsageError, run_command
from megatron_srp.training.checks.devices import BLOCKWISE_NEEDS, LOCAL_LAYERS, Devices
from megatron_srp.training.flags.arguments import SrpArguments
from megatron_srp.training.flags.presets import PRESETS, find_preset

HAS_VIEW = any(field.name == "srp_sidecar" for field in dataclasses.fields(SrpArguments))
MIN_CASE_S = 45  # imports, CUDA's start and the first step
NO_TE = "Transformer Engine is not installed"


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of the trainer. `skip` says why it cannot run here."""

    name: str
    precision: str
    data: str  # plain, reflected, or view: the plain shard with reflections put in as it is read
    flags: tuple[str, ...] = ()
    skip: str = ""


def plan(devices: Devices, transformer_engine: bool) -> list[Case]:
    """The cases for this machine, the most important first."""
    base: tuple[str, ...] = () if transformer_engine or not devices.count else LOCAL_LAYERS + UNFUSED
    no_fp8 = "" if transformer_engine else NO_TE
    if not devices.has_fp8:
        no_fp8 = f"no FP8 on {devices.name or 'a CPU'}"
    cases = [Case("bf16", "bf16", "reflected", base)]
    no_blocks = no_fp8 or ("" if devices.has_blockwise_fp8 else f"needs {BLOCKWISE_NEEDS}")
    skips = {"fp8-tensorwise": no_fp8, "fp8-delayed": no_fp8, "fp8-blockwise": no_blocks}
    cases += [Case(name, name, "reflected", skip=skip) for name, skip in skips.items()]
    cases.append(Case("bf16, plain shards", "bf16", "plain", base))
    if HAS_VIEW:
        cases.append(Case("bf16, sidecar view", "bf16", "view", base))
    if transformer_engine and devices.count:
        cases.append(Case("bf16, without Transformer Engine", "bf16", "reflected", LOCAL_LAYERS + UNFUSED))
    return cases


# Megatron's own attention keeps every score: without this the 1.7B layers do not fit at a micro-batch of 4.
UNFUSED = ("--recompute-granularity", "selective", "--recompute-modules", "core_attn")


def command(case: Case, options: argparse.Namespace, data: dict[str, Path]) -> list[str]:
    """The entry point with all flags of a case."""
    preset = find_preset(options.preset)
    layers = min(options.layers or preset.num_layers, preset.num_layers)
    flags = ["--srp-preset", options.preset, "--srp-precision", case.precision, "--srp-log", "full"]
    flags += ["--num-layers", str(layers), "--micro-batch-size", str(options.micro_batch)]
    flags += ["--global-batch-size", str(options.micro_batch * options.accumulate)]
    flags += ["--train-iters", str(options.steps), "--lr-warmup-iters", str(max(1, options.steps // 5))]
    prefix = data["plain" if case.data == "view" else case.data]
    flags += ["--data-path", str(prefix), "--split", "1,0,0", "--eval-iters", "0"]
    if case.data == "view":
        flags += ["--srp-sidecar", f"{data['view']}.srp"]
    # The corpus is small and so is its vocabulary; the logits have the preset's size all the same.
    flags += ["--make-vocab-size-divisible-by", str(preset.vocab_size)] if options.device == "cuda" else []
    flags += ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    flags += ["--log-interval", "1", "--log-throughput", "--no-one-logger"]
    return [sys.executable, "-m", "megatron_srp.training.pretrain", *flags, *case.flags]


def prepare(out: Path, documents: int) -> dict[str, Path]:
    """A corpus, its shard with reflections, and the same without; returns their prefixes by kind."""
    from megatron_srp.cli.preprocess import main as preprocess
    from megatron_srp.data.shards.strip import strip_reflections
    from megatron_srp.toy_corpus.corpus import train_tokenizer, write_corpus

    out.mkdir(parents=True, exist_ok=True)
    write_corpus(out / "corpus.jsonl", documents)
    train_tokenizer(out / "tokenizer")
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(out / "tokenizer")]
    reflected = out / "reflected"
    flags = ["--input", str(out / "corpus.jsonl"), *tokenizer, "--guard", "heuristic", "--append-eod", "--overwrite"]
    preprocess([*flags, "--output-prefix", str(reflected)])
    strip_reflections(reflected, out / "plain", overwrite=True)
    if HAS_VIEW:
        shard = ["--input-shards", str(out / "plain_text_document"), "--guard", "heuristic", "--overwrite"]
        preprocess([*shard, "--output-prefix", str(out / "view")])
    return prefixes(out)


def prefixes(out: Path) -> dict[str, Path]:
    """Where `prepare` puts the shards (and the view's sidecar), by kind."""
    shards = ("reflected", "plain", "view_plain")
    return {shard.partition("_")[0]: out / f"{shard}_text_document" for shard in shards}


def run_case(case: Case, options: argparse.Namespace, data: dict[str, Path], limit_s: float) -> CaseResult:
    """Run one case to its end or its limit."""
    if case.skip:
        return CaseResult(case.name, case.precision, case.data, "skipped", case.skip)
    if limit_s < MIN_CASE_S and options.device == "cuda":
        return CaseResult(case.name, case.precision, case.data, "skipped", "no time left")
    log = options.out / (case.name.replace(", ", "-").replace(" ", "-") + ".log")
    env = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {})
    with log.open("w") as file:
        process = subprocess.Popen(
            command(case, options, data), stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = None
    return read_log(case.name, case.precision, case.data, log.read_text(errors="replace"), code, options.steps)


def run(options: argparse.Namespace) -> list[CaseResult]:
    """Run all cases within the budget, writing what is known after each."""
    deadline = time.monotonic() + 60 * options.minutes
    devices, transformer_engine = look_at_machine(options.device)
    cases = plan(devices, transformer_engine)
    if options.dry_run:
        print_plan(cases, options)
        return []
    options.transformer_engine = transformer_engine
    data = prepare(options.out / "data", options.documents)
    results: list[CaseResult] = []
    for i, case in enumerate(cases):
        left = sum(not later.skip for later in cases[i:]) or 1
        limit_s = min(deadline - time.monotonic(), 2 * (deadline - time.monotonic()) / left)
        print(f"{case.name} ...", flush=True)
        results.append(run_case(case, options, data, limit_s))
        print(f"{case.name}: {results[-1].summary()}", flush=True)
        write_results(options.out, results, options, devices)
    return results


def look_at_machine(device: str) -> tuple[Devices, bool]:
    """Its GPUs, and whether Transformer Engine imports; none of it for a rehearsal on the CPU."""
    from megatron_srp.training.checks.devices import find_devices
    from megatron_srp.training.checks.environment import can_import

    if device == "cpu":
        return Devices(0), False
    devices = find_devices()
    if not devices.count:
        raise UsageError("no GPU is visible; rehearse with --device cpu --preset debug --steps 4")
    return devices, can_import("transformer_engine.pytorch")


def print_plan(cases: list[Case], options: argparse.Namespace) -> None:
    """What would be run, a command each."""
    data = prefixes(options.out / "data")
    for case in cases:
        print(f"# {case.name}" + (f": skipped, {case.skip}" if case.skip else ""))
        print(" ".join(command(case, options, data)) + "\n")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(description=__doc__.split("\n")[0], prog="gpu_check.sh")
    parser.add_argument("--out", type=Path, default=Path("out/gpu-check"), help="folder for logs and results")
    parser.add_argument("--minutes", type=float, default=9.0, help="budget of the whole check")
    parser.add_argument("--preset", choices=list(PRESETS), default="1p7b", help="whose layers are measured")
    parser.add_argument("--layers", type=int, help="fewer layers than the preset has")
    parser.add_argument("--steps", type=int, default=50, help="training steps of each case")
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in a step")
    parser.add_argument("--documents", type=int, default=4000, help="of the corpus that is trained on")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal, no figures")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of all cases and stop")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = parse(argv)
    options.out = options.out.resolve()
    results = run(options)
    if results:
        print((options.out / "gpu_check.md").read_text())
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
