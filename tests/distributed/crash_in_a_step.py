"""Entry point for torchrun: train, and have every rank fail in its seventh step for a reason nobody foresaw."""

import itertools
from typing import Any


def main() -> None:
    """`crash_in_a_step [flags of a run]`."""
    from megatron_srp.training import pretrain
    from megatron_srp.training.cpu import backend as cpu_backend

    cpu_backend.install()
    from megatron_srp.training.trainer import run as trainer

    plain, calls = trainer.forward_step, itertools.count(1)

    def forward_step(*args: Any) -> Any:
        if next(calls) == 7:
            raise ValueError("nobody foresaw this")
        return plain(*args)

    vars(trainer)["forward_step"] = forward_step
    pretrain.main()


if __name__ == "__main__":
    main()
