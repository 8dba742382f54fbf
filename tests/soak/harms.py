"""What happens to the nodes: `HARMS`, by name. Each strikes a running job and, before the next start, heals."""

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.job import Job, Life
from tests.soak.nodes import end

Strike = Callable[[Job, Life, random.Random], None]


def nothing(job: Job, life: Life, rng: random.Random) -> None:
    """Where there is nothing to heal."""


@dataclass(frozen=True)
class Harm:
    """One kind of harm.

    Attributes:
        strike: does it.
        heal: what an operator does before the next start, or what becomes known only then.
        survivors: how many nodes live to say why the run ends.
    """

    strike: Strike
    heal: Strike = nothing
    survivors: int = 2


def ranks(job: Job, node: int) -> list[int]:
    """Processes of a node that torchrun has started, without those that these have started."""
    own = [pid for pid in job.cluster.processes(node) if _starts_with(pid, "environ", b"RANK=", b"\0RANK=")]
    return [pid for pid in own if _parent(pid) not in own]


def _starts_with(pid: int, file: str, *wanted: bytes) -> bool:
    try:
        content = Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:  # it has ended
        return False
    return content.startswith(wanted[0]) or any(one in content for one in wanted[1:])


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill_rank(job: Job, life: Life, rng: random.Random) -> None:
    for pid in ranks(job, rng.randrange(2)):
        end(pid, signal.SIGKILL)


def kill_child(job: Job, life: Life, rng: random.Random) -> None:
    """One of a rank's own processes: the checkpoint worker, or one that reads data."""
    node = rng.randrange(2)
    parents = ranks(job, node)
    children = [pid for pid in job.cluster.processes(node) if _parent(pid) in parents]
    end(rng.choice(sorted(children)), signal.SIGKILL)


def kill_node(job: Job, life: Life, rng: random.Random) -> None:
    job.cluster.kill(rng.randrange(2))


def kill_all(job: Job, life: Life, rng: random.Random) -> None:
    for node in range(2):
        job.cluster.kill(node)


def terminate_one(job: Job, life: Life, rng: random.Random) -> None:
    life.launchers[rng.randrange(2)].send_signal(signal.SIGTERM)


def terminate_all(job: Job, life: Life, rng: random.Random) -> None:
    for launcher in life.launchers:
        launcher.send_signal(signal.SIGTERM)


def fill_disk(job: Job, life: Life, rng: random.Random) -> None:
    job.cluster.fill_disk()


def empty_disk(job: Job, life: Life, rng: random.Random) -> None:
    job.cluster.empty_disk()


def link_down(job: Job, life: Life, rng: random.Random) -> None:
    job.cluster.set_link(up=False)


def link_up(job: Job, life: Life, rng: random.Random) -> None:
    job.cluster.set_link(up=True)


def remove_cache(job: Job, life: Life, rng: random.Random) -> None:
    shutil.rmtree(job.out / "cache")


def damage_newest(job: Job, life: Life, rng: random.Random) -> None:
    """Change one byte in the middle of a data file, or cut the file there."""
    complete = job.complete_checkpoints()
    if len(complete) < 2:
        return  # it is the only one
    file = rng.choice(sorted(complete[-1].glob("*.distcp")))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 0xFF
    file.write_bytes(data if rng.random() < 0.5 else data[:middle])


HARMS = {
    "kill -9 of a rank": Harm(kill_rank),
    "kill -9 of a rank's worker": Harm(kill_child),
    "kill -9 of everything on one node": Harm(kill_node, survivors=1),
    "kill -9 of everything": Harm(kill_all, survivors=0),
    "SIGTERM to one node": Harm(terminate_one),
    "SIGTERM to both nodes": Harm(terminate_all),
    "full disk": Harm(fill_disk, empty_disk),
    "lost link": Harm(link_down, link_up),
    "vanished cache of sample indices": Harm(kill_all, remove_cache, survivors=0),
    "damaged newest checkpoint": Harm(kill_all, damage_newest, survivors=0),
}
