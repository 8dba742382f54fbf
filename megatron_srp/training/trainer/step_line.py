"""`--srp-log brief`: one short line per step.

iteration       20/     100 | lm loss: 6.250359E+00 | grad norm: 1.234 | 81,920 tokens/s | MFU: 45.1% | left: 0:12:30
"""

import datetime
import re

_STEP = re.compile(r"iteration +(\d+)/ *(\d+) \|")
_TIME = re.compile(r"elapsed time per iteration \(ms\): ([\d.]+) \|")
_BATCH = re.compile(r"global batch size: +(\d+) \|")
_KEPT = re.compile(r"((?:\w+[ _]loss|grad norm): \S+) \|")  # also of multi-token prediction, and of experts
_MFU = re.compile(r"MFU \(of bf16 peak\): (\S+) \|")
# Iterations without an update; worth a place only if there were any.
_PROBLEMS = re.compile(r"number of (skipped|nan) iterations: +([1-9]\d*) \|")


def shorten_step(line: str, seq_length: int) -> str:
    """Megatron's line of a step in less than 160 characters; any other line as it is.

    Time and tokens a second are means since the line before, so the first line of a run, whose step includes compiling
    and the start of the communication, estimates too long a rest.

    Args:
        line: what Megatron prints after a step.
        seq_length: tokens per sequence of the global batch.
    """
    step, time, batch = _STEP.search(line), _TIME.search(line), _BATCH.search(line)
    if not (step and time and batch):
        return line
    seconds = float(time[1]) / 1000
    fields = _KEPT.findall(line)
    if seconds:
        fields.append(f"{int(batch[1]) * seq_length / seconds:,.0f} tokens/s")
    fields += [f"MFU: {share}" for share in _MFU.findall(line)]
    left = (int(step[2]) - int(step[1])) * seconds
    fields.append(f"left: {datetime.timedelta(seconds=round(left))}")
    fields += [f"{kind}: {count}" for kind, count in _PROBLEMS.findall(line)]
    return f"{step[0]} {' | '.join(fields)}"
