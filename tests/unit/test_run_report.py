"""The report of a run draws the loss and the right verdicts that Megatron's trainer logged."""

from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from megatron_srp.errors import InputError
from megatron_srp.reports.run_report import write_report
from megatron_srp.reports.scalars import means, read_scalars, right_verdicts

MANIFEST = {
    "counts": {"documents": 3, "empty_documents": 0, "segments": 6, "plain_tokens": 60, "tokens": 90}
    | {"verdicts": {"Safe": 4, "Unsafe": 2}, "categories": {}},
    "settings": {"guard": "heuristic", "max_words": 20},
}


def log(folder: Path, curves: dict[str, dict[int, float]]) -> dict[str, list[tuple[int, float]]]:
    writer = EventFileWriter(str(folder))
    for tag, curve in curves.items():
        for step, value in curve.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=step, summary=summary))
    writer.close()
    return read_scalars(folder)


def test_learned_verdicts(tmp_path: Path) -> None:
    logged = log(
        tmp_path,
        {
            "lm loss": {1: 2.0, 2: 1.0},
            "right verdicts: Unsafe": {2: 0.0, 4: 0.5, 12: 1.0},
            "right verdicts: Safe": {1: 1.0},
        },
    )
    curves = right_verdicts(logged)
    assert list(curves) == ["Safe", "Unsafe"]
    assert means(curves["Unsafe"], 10) == [(10, 0.25), (20, 1.0)]
    page = write_report(tmp_path / "report.html", MANIFEST, scalars=logged).read_text()
    assert "Loss 2.000 at step 1, 1.000 at step 2." in page
    assert "Verdicts that the model learned" in page
    page = write_report(tmp_path / "report.html", MANIFEST, scalars={"lm loss": logged["lm loss"]}).read_text()
    assert "Verdicts that the model learned" not in page


def test_a_folder_without_a_loss(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no TensorBoard files with 'lm loss'"):
        log(tmp_path, {"grad norm": {1: 1.0}})
