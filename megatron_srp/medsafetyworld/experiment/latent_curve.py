"""What a model of a MedSafetyWorld knows as its pretraining goes on: a row for each checkpoint, as a Markdown table.

    python -m megatron_srp.medsafetyworld.experiment.latent_curve out/world/seed100/filtering

`srp world run` keeps a checkpoint of each pretraining after every fifth of it. Each is asked to continue pretraining
texts, as `latent` in `medsafetyworld/measure/evaluate.py` describes; facts count as told where a text of the setting's
corpus states them with the outcome first, else as inferred.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megatron_srp.checkpoints.export_hf import export_hf
from megatron_srp.medsafetyworld.measure.evaluate import PRETRAINED, evaluate_model

_COLUMNS = (
    ("forward, all stated", ("forward-unsafe", "stated")),
    ("reverse, safe", ("reverse-safe", "stated")),
    ("reverse, unsafe: told", ("reverse-unsafe", "told")),
    ("reverse, unsafe: inferred", ("reverse-unsafe", "inferred")),
)


def rows(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The steps and the latent recall of each checkpoint of the setting in `folder`."""
    checkpoints = folder / PRETRAINED / "checkpoints"
    for step in sorted(int(path.name.removeprefix("iter_")) for path in checkpoints.glob("iter_*")):
        with TemporaryDirectory() as made:
            export_hf(checkpoints, Path(made), step=step, overwrite=True)
            yield step, evaluate_model(Path(made), folder / "world", seed=0, stage=PRETRAINED)["latent"]


def main() -> None:
    heads = [says for says, _ in _COLUMNS]
    print(f"| steps | {' | '.join(heads)} | chance |\n|---|{'---|' * len(heads)}---|")
    for step, latent in rows(Path(sys.argv[1])):
        cells = [_cell(latent[name][kind]) for _, (name, kind) in _COLUMNS]
        print(f"| {step:,} | {' | '.join(cells)} | {latent['reverse-unsafe']['chance']:.1f} |", flush=True)


def _cell(share: dict[str, Any]) -> str:
    """The share in percent, and of how many facts."""
    return f"{share['percent']:.1f} of {share['of']}" if "percent" in share else "-"


if __name__ == "__main__":
    main()
