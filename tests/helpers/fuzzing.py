"""A process that reads damaged files, so that a crash or a hang of it is a failed test and not the end of the tests."""

import json
import select
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600.0


def read_corpus(path: str) -> list[tuple[int, str]]:
    """Rows and texts of a JSONL or Parquet file, bad rows left out."""
    from megatron_srp.corpus.readers import read_batches

    rows = []
    for batch in read_batches([Path(path)], ["text"], skip_errors=True, most=50):
        texts = batch.texts["text"]
        assert len(texts) == len(batch.rows)
        rows += [(int(row), texts[i]) for i, row in enumerate(batch.rows)]
    assert [row for row, _ in rows] == sorted({row for row, _ in rows})
    return rows


def read_shard(prefix: str) -> list[list[int]]:
    from megatron_srp.data.shards.indexed_shard import IndexedShard

    return [tokens.tolist() for tokens in IndexedShard(prefix)]


def verify(prefix: str) -> list[str]:
    from megatron_srp.data.verify.shards import verify_shards

    findings = verify_shards(prefix).findings
    assert len(findings.lines()) < 100
    return findings.lines()


def strip(prefix: str) -> str:
    from megatron_srp.data.shards.strip import strip_reflections

    output = Path(prefix).with_name("stripped")
    strip_reflections(prefix, output, overwrite=True)
    return str(output)


def read_sidecar(path: str) -> str:
    from megatron_srp.data.shards.sidecar import ReflectionSidecar

    sidecar = ReflectionSidecar.load(path)
    assert len(sidecar.cuts) == len(sidecar.entries)
    sidecar.table.arrays()
    return sidecar.fingerprint  # reads all of it


def read_part(path: str) -> int:
    from megatron_srp.annotation.store.store import read_part

    part = read_part(Path(path))
    assert len(part.rows) == len(part.hashes) == len(part.offsets) - 1
    assert len(part.ends) == len(part.codes) == len(part.scores) == part.offsets[-1]
    assert not len(part.codes) or 0 <= part.codes.min() <= part.codes.max() < len(part.labels)
    assert (part.offsets[1:] >= part.offsets[:-1]).all() and (part.rows[1:] > part.rows[:-1]).all()
    return len(part.rows)


def read_store(folder: str) -> Any:
    from megatron_srp.annotation.store.store import AnnotationStore

    return AnnotationStore(folder).settings


def read_manifest(path: str) -> Any:
    from megatron_srp.data.shards.manifest import read_manifest

    return read_manifest(Path(path))


READERS = {
    f.__name__: f for f in (read_corpus, read_shard, verify, strip, read_sidecar, read_part, read_store, read_manifest)
}


def serve() -> None:
    from megatron_srp.errors import SrpError

    for line in sys.stdin:
        reader, argument = json.loads(line)
        try:
            answer = {"result": READERS[reader](argument)}
        except SrpError as error:
            answer = {"error": str(error)}
        except BaseException:
            answer = {"trace": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


class Fuzzed:
    """Runs readers in a process of its own."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, "-m", "tests.helpers.fuzzing"], cwd=ROOT, text=True, **pipes)

    def __call__(self, reader: str, argument: object) -> dict[str, Any]:
        """`{"result": ...}` of the reader, or `{"error": line}`; raises AssertionError for anything else."""
        self._server.stdin.write(json.dumps([reader, str(argument)]) + "\n")
        self._server.stdin.flush()
        ready, _, _ = select.select([self._server.stdout], [], [], TIMEOUT_S)
        line = self._server.stdout.readline() if ready else ""
        if not line:
            self._server.kill()
            code = self._server.wait()
            self._start()
            raise AssertionError(f"{reader} {'crashed' if ready else 'hangs'} (exit code {code}) on {argument}")
        answer = json.loads(line)
        assert "trace" not in answer, answer["trace"]
        if "error" in answer:
            assert "\n" not in answer["error"], answer
        return answer

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=TIMEOUT_S)


def fuzzed() -> Iterator[Fuzzed]:
    """Body of a fixture."""
    process = Fuzzed()
    yield process
    process.close()


if __name__ == "__main__":
    serve()
