"""`--srp-log brief`: Megatron's line of a step, shortened."""

from megatron_srp.training.layout.flops import add_mfu
from megatron_srp.training.trainer.step_line import shorten_step

LINE = (
    " [2026-11-24 15:18:54.123456] iteration       20/  100000 | consumed samples:        20480 | elapsed time per "
    "iteration (ms): 2500.0 | throughput per GPU (TFLOP/s/GPU): 445.2 | learning rate: 5.000000E-04 | global batch "
    "size:  1024 | lm loss: 6.250359E+00 | learned tokens: 1.000000E+00 | loss scale: 1.0 | grad norm: 1.234 | params "
    "norm: 9.876 | number of skipped iterations:   {} | number of nan iterations:   0 |"
)


def test_a_step_on_a_gpu() -> None:
    line = shorten_step(add_mfu(LINE.format(0), 989.4e12), seq_length=2048)
    assert line == (
        "iteration       20/  100000 | lm loss: 6.250359E+00 | grad norm: 1.234 | 838,861 tokens/s | MFU: 45.0% | "
        "left: 2 days, 21:25:50"
    )
    assert len(line) < 160


def test_a_device_without_a_known_peak() -> None:
    assert "MFU" not in shorten_step(LINE.format(0), seq_length=2048)


def test_skipped_iterations_are_said() -> None:
    line = shorten_step(add_mfu(LINE.format(3), 989.4e12), seq_length=2048)
    assert line.endswith(" | skipped: 3") and len(line) < 160


def test_other_lines_stay() -> None:
    line = " validation loss at iteration 20 | lm loss value: 6.2E+00 | lm loss PPL: 5.1E+02 | "
    assert shorten_step(line, seq_length=2048) == line
