"""Megatron's own trainer through our entry point, on CPU over gloo."""

import re
import signal
from pathlib import Path

import pytest

from tests.distributed.checkpoints import largest_difference, load_tensors
from tests.distributed.jobs import NUM_STEPS, SAVE_INTERVAL, Corpus, Forkserver, Run, torchrun
from tests.helpers.commands import srp

LAYOUTS = {
    "TP2": (2, ["--tensor-model-parallel-size", "2"]),
    "TP1": (1, []),
    "TP2 with sequence parallelism": (2, ["--tensor-model-parallel-size", "2", "--sequence-parallel"]),
    "PP2": (2, ["--pipeline-model-parallel-size", "2"]),
    "DP2": (2, []),
}

PRINTED = re.compile(r"iteration +(\d+)/.* lm loss: (\S+) \|")
# In torchrun's report.
EXIT_CODE = re.compile(r"rank +: (\d+) .*\n +exitcode +: (-?\d+)")


def test_the_loss_falls(uninterrupted: Run) -> None:
    losses = uninterrupted.losses()
    assert sorted(losses) == list(range(1, NUM_STEPS + 1))
    assert losses[1] == pytest.approx(5.55, abs=0.1)  # ln(256): nothing is known yet
    assert losses[NUM_STEPS] < losses[1] - 1


COVERED = ("TP2 with sequence parallelism", "PP2", "DP2")  # in make test by test_same_trainer.py, and below


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=pytest.mark.exhaustive) if name in COVERED else name for name in LAYOUTS]
)
def test_resuming_equals_not_stopping(
    layout: str, uninterrupted: Run, corpus: Corpus, forkserver: Forkserver, tmp_path: Path
) -> None:
    world_size, flags = LAYOUTS[layout]
    resumed = Run(tmp_path)
    argv = [*corpus.flags, *flags, *uninterrupted.resume(SAVE_INTERVAL), *resumed.flags, "--log-interval", "1"]
    finished = forkserver.run(world_size, argv)
    assert finished.codes == [0] * world_size, finished.log
    printed = {int(step): float(loss) for step, loss in PRINTED.findall(finished.log)}
    assert printed == pytest.approx(resumed.losses(), abs=1e-5)
    warnings = [line for line in finished.log.splitlines() if "Warning: " in line]
    assert len(warnings) == len(set(warnings))  # none of each rank

    expected = {step: loss for step, loss in uninterrupted.losses().items() if step > SAVE_INTERVAL}
    assert resumed.losses() == pytest.approx(expected, abs=1e-6)
    ours = load_tensors(tmp_path / "checkpoints", NUM_STEPS)
    theirs = load_tensors(uninterrupted.folder / "checkpoints", NUM_STEPS)
    assert largest_difference(ours, theirs) < 1e-6


def test_a_mixture_of_experts_trains_spread_over_ranks(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    experts = ["--num-experts", "4", "--moe-router-topk", "2", "--expert-model-parallel-size", "2"]
    experts += ["--moe-router-load-balancing-type", "aux_loss", "--moe-aux-loss-coeff", "0.01"]
    run = Run(tmp_path)
    finished = forkserver.run(2, [*corpus.flags, *experts, "--moe-token-dispatcher-type", "allgather", *run.flags])
    assert finished.codes == [0, 0], finished.log
    losses = run.losses()
    assert losses[NUM_STEPS] < losses[1] - 1


def test_the_distributed_optimizer_resumes(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    flags = [*corpus.flags, "--use-distributed-optimizer"]
    whole, resumed = Run(tmp_path / "whole"), Run(tmp_path / "resumed")
    for argv in (whole.flags, [*whole.resume(SAVE_INTERVAL), *resumed.flags]):
        finished = forkserver.run(2, [*flags, *argv])
        assert finished.codes == [0, 0], finished.log
    ours, theirs = (load_tensors(run.folder / "checkpoints", NUM_STEPS) for run in (resumed, whole))
    assert largest_difference(ours, theirs) < 1e-6


# A user's mistakes: one line, exit code 2, no traceback, no hang


def stopped(codes: list[int]) -> bool:
    """Rank 0 ended with code 2; the other too, unless it was stopped before it found the mistake."""
    return codes[0] == 2 and codes[1] in (2, -signal.SIGTERM)


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error")]


def test_a_mistake_is_the_last_line_where_srp_starts_the_ranks(corpus: Corpus) -> None:
    done = srp("train", "--nproc-per-node", "2", *corpus.flags, "--overlap-param-gather")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: Megatron refuses these flags: --overlap-param-gather only")
    assert len(errors(done.stderr)) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--reset-position-ids"], "error: --reset-position-ids cannot be used here"),
        (["--data-path", "nowhere"], "error: nowhere.bin and nowhere.idx do not exist"),
    ],
)
def test_a_mistake_under_torchrun(corpus: Corpus, mistake: list[str], message: str) -> None:
    result = torchrun([*corpus.flags, *mistake])
    assert result.returncode == 1  # torchrun's own
    (line,) = errors(result.stderr)
    assert line.startswith(message)
    codes = {rank: int(code) for rank, code in EXIT_CODE.findall(result.stderr)}
    assert stopped([codes["0"], codes["1"]]), result.stderr
    assert "megatron_srp/" not in result.stderr  # torchrun shows its own traceback, but none of ours
    assert line in result.stderr.splitlines()[-2]  # and ends with the cause


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--sequence-paralel"], "error: unrecognized arguments: --sequence-paralel; did you mean"),
        (["--lr", "high"], "error: argument --lr: invalid float value: 'high'"),
        (["--overlap-param-gather"], "error: Megatron refuses these flags: --overlap-param-gather only supported with"),
    ],
)
def test_a_mistake_that_megatron_finds(
    corpus: Corpus, forkserver: Forkserver, mistake: list[str], message: str
) -> None:
    finished = forkserver.run(2, [*corpus.flags, *mistake])
    assert stopped(finished.codes), finished.log
    (line,) = errors(finished.log)
    assert line.startswith(message)
    assert "Traceback" not in finished.log


def test_another_tokenizer(corpus: Corpus, forkserver: Forkserver) -> None:
    finished = forkserver.run(2, [*corpus.flags, "--tokenizer-model", corpus.other_tokenizer])
    assert stopped(finished.codes), finished.log
    (line,) = errors(finished.log)
    assert "the token ids would mean other text" in line


def test_pad_equal_to_eos(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    """The stop signal is learned by default, and the flag that would mask it is refused."""
    argv = [*corpus.flags, "--tokenizer-model", corpus.tokenizer_with_pad_equal_to_eos]
    finished = forkserver.run(1, [*argv, "--train-iters", "1"])
    assert finished.codes == [0], finished.log
    finished = forkserver.run(2, [*argv, "--allow-ambiguous-pad-tokens"])
    assert stopped(finished.codes), finished.log
    (line,) = errors(finished.log)
    assert "left out of the loss" in line


def test_an_empty_split_does_not_hang(corpus: Corpus, forkserver: Forkserver) -> None:
    finished = forkserver.run(2, [*corpus.flags, "--split", "199,1,0.001", "--eval-iters", "1"])
    assert stopped(finished.codes), finished.log
    (line,) = errors(finished.log)
    assert "no document falls into its test split" in line
    assert "Traceback" not in finished.log
