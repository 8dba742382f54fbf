"""31 million documents are finished in less than a gigabyte of memory."""

import subprocess
import sys

import numpy as np
import pytest

DOCUMENTS, SEGMENTS = 31_000_000, 11
FINISH = """
import sys
from pathlib import Path
import numpy as np
from megatron_srp.data.reflection_table import Entry
from megatron_srp.data.shards.shard_writer import STREAMS, ShardWriter
from megatron_srp.schema import SafetyLabel, Verdict

folder = Path(sys.argv[1])
sizes = {stream: (folder / f"large.{stream}").stat().st_size for stream in STREAMS}
table = [Entry(SafetyLabel(verdict), False, (1, 2)).to_json() for verdict in Verdict]
state = {"sizes": sizes, "table": table, "counts": {}, "entries": [1] * len(table)}
ShardWriter(folder, "large", np.dtype(np.uint16), state).finish({}, reflected=True)
# Of this program: the resource usage of a child begins with what its parent held.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.exhaustive
def test_memory_of_a_large_index(tmp_path):
    streams = {
        "bin": (0, np.uint16, 1),
        "lengths": (DOCUMENTS, np.int32, 3000),
        "counts": (DOCUMENTS, np.int32, SEGMENTS),
        "cuts": (DOCUMENTS * SEGMENTS, np.int32, 1000),
        "entries": (DOCUMENTS * SEGMENTS, np.uint16, 3),
    }
    for stream, (count, dtype, most) in streams.items():
        with (tmp_path / f"large.{stream}").open("wb") as file:
            for begin in range(0, count, 1 << 22):
                items = np.arange(begin, min(begin + (1 << 22), count)) % most
                file.write((np.full_like(items, SEGMENTS) if stream == "counts" else items).astype(dtype).data)
    command = [sys.executable, "-c", FINISH, str(tmp_path)]
    peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert int(peak) << 10 < 1_000_000_000
    assert (tmp_path / "large.idx").stat().st_size == 34 + 12 * DOCUMENTS + 8 * (DOCUMENTS + 1)
