"""Starts of the job that are to succeed, and what it trains on."""

import random
from pathlib import Path

from megatron_srp.errors import SrpError
from tests.distributed.corpus import markov_documents, write_manifest, write_shard, write_tokenizer
from tests.soak.harms import terminate_all
from tests.soak.job import Job, Life
from tests.soak.judge import SECONDS_TO_END

SECONDS_TO_START, SECONDS_PER_STEP = 400.0, 10.0  # at most, on a busy machine


class NotStarted(SrpError):
    """A start of the job did no steps."""


def start(job: Job, name: str, steps: int) -> Life:
    """Start the job, and wait until it has done so many steps."""
    life = job.start(name)
    if not life.wait_for_steps(steps, SECONDS_TO_START + steps * SECONDS_PER_STEP):
        raise NotStarted(f"start {name} has not done {steps} steps; see {life.logs[0]} and {life.logs[1].name}")
    return life


def run_in_peace(job: Job, name: str, steps: int) -> Life:
    """Let a start do at least so many steps, save and end."""
    life = start(job, name, steps)
    terminate_all(job, life, random.Random())
    if life.wait_for_end(SECONDS_TO_END) is None:
        raise NotStarted(f"start {name} did not end; see {life.logs[0]}")
    return life


def make_data(folder: Path) -> Path:
    """Write a shard, its manifest and its tokenizer; returns the shard's prefix."""
    write_tokenizer(folder / "tokenizer")
    write_shard(folder / "corpus_text_document", markov_documents(200))
    write_manifest(folder / "corpus", folder / "tokenizer")
    return folder / "corpus_text_document"
