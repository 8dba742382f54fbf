"""The benchmark of guarded generation runs, on little; its figures are for `make bench`."""

import re

from megatron_srp.benchmarks import SECTIONS, Options
from megatron_srp.benchmarks.generation import run


def test_all_ways_are_measured_side_by_side():
    assert SECTIONS["generation"] == "megatron_srp.benchmarks.generation:run"
    section = run(Options(quick=True))
    rows = re.findall(
        r"^\| 1 \| (.*?) \| ([\d.,]+) \| [\d.]+ \([\d.]+ to [\d.]+\) \| (\d+) \| (\d+) \|$", section.body, re.M
    )
    assert [name for name, *_ in rows] == ["plain", "guard", "forced every 64", "forced every 16"]
    assert all(float(speed.replace(",", "")) > 0 for _, speed, *_ in rows)
    # On the prompt and before the end, which here is where the last is due anyway.
    assert [int(forced) for *_, forced, _ in rows] == [0, 0, 2, 2]
    tokens = int(re.search(r"reads (\d+) tokens", section.body)[1])
    assert [int(read) for *_, read in rows] == [0, 0, *[2 * tokens] * 2] and tokens >= 3
    (gaps,) = re.findall(r"^\| ([\d.]+) \([^|]* \| ([\d.]+) \([^|]* \| ([\d.]+) \([^|]*\|$", section.body, re.M)
    assert all(float(figure) > 0 for figure in gaps)
