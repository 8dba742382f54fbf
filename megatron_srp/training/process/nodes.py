"""What the launchers of a run's nodes know of each other: which of them live, and why the run ended.

torchrun looks after the ranks of its own node only. Of another node that ends, the ranks learn from a broken
connection at best, without the cause, and at worst after the time-out of a collective. The launchers exchange a sign of
life every second, and the first cause of an end, over the store in which torchrun's nodes meet.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from megatron_srp.training.process.exits import print_note
from megatron_srp.training.process.patience import Silence
from megatron_srp.training.process.progress import Progress, combine

SECONDS_TO_BE_LOST = 20.0
SECONDS_TO_LEAVE = 10.0
_EVERY_S = 1.0


@dataclass(frozen=True)
class Ending:
    """Why a run ends.

    Attributes:
        cause: one line that names the rank, or the node, and its host.
        code: the exit code of every node.
        gentle: whether the ranks save a last checkpoint, since a signal, not an error, ended the run.
    """

    cause: str
    code: int
    gentle: bool


class NodeWatch:
    """One node's part in it. All calls of the store are in one thread: one may take as long as TCP's own time-out.

    Args:
        store: torch's, which all nodes share. Node 0 is its server.
        node: this node's number.
        nodes: how many there are.
        lost_after: seconds without a sign of life after which a node is lost.
        progress: returns that of this node's ranks; node 0 collects it.
    """

    def __init__(
        self,
        store: Any,
        node: int,
        nodes: int,
        lost_after: float = SECONDS_TO_BE_LOST,
        progress: Callable[[], Progress | None] = lambda: None,
    ) -> None:
        self.store, self.node, self.nodes, self.lost_after = store, node, nodes, lost_after
        self.host = socket.gethostname()
        self._progress = progress
        self._progress_there: dict[int, Progress | None] = dict.fromkeys(range(1, nodes))
        self.own: Ending | None = None  # what this node has reported
        self._known: Ending | None = None
        self._store_silence = Silence(_EVERY_S)
        self._beats = {other: (b"", Silence(2 * _EVERY_S)) for other in range(nodes)}
        self._gone: set[int] = set()
        self._leaving = threading.Event()
        self._left = threading.Event()  # the others know that this node leaves
        self._done = threading.Event()  # nothing is left to exchange, or nobody to exchange it with
        self._thread = threading.Thread(target=self._run, name="node-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ending(self) -> Ending | None:
        """Why the run ends, if it does."""
        if self._known is None and self._store_silence.seconds() > self.lost_after:
            self._lose_store(self._silent())
        return self._known

    def progress(self) -> Progress | None:
        """Of the ranks of all nodes; on node 0 only."""
        return combine([self._progress(), *self._progress_there.values()])

    def report(self, cause: str, code: int, gentle: bool = False) -> None:
        """Give all nodes the cause of this node's end; the first cause of a run stays. Waits until it is known."""
        self.own = Ending(cause, code, gentle)
        while self.ending() is None:
            time.sleep(_EVERY_S / 10)

    def wait_for_others(self, seconds: float) -> None:
        """After the ranks of this node have finished: until those of the others have, or the run has another end."""
        self._leaving.set()
        end = time.monotonic() + seconds
        while not self._done.wait(_EVERY_S / 10) and self.ending() is None and time.monotonic() < end:
            pass

    def leave(self, seconds: float) -> None:
        """Before the end of this process. Node 0 takes the store with it, so the others must know the cause first."""
        self._leaving.set()
        (self._left if self.node else self._done).wait(seconds)
        self._done.set()
        self._thread.join(2 * _EVERY_S)  # a thread that returns from the store in Python's own exit aborts it

    def _lose_store(self, sign: str) -> None:
        self._known = self._known or self.own or self._lost("node 0", sign)
        self._left.set()
        self._done.set()

    def _run(self) -> None:
        beat = 0
        while not self._done.wait(_EVERY_S / (10 if self.own or self._leaving.is_set() else 1)):
            beat += 1
            try:
                self._exchange(beat)
            except RuntimeError:  # of the store: node 0 has ended
                self._lose_store("closed its connection")
            self._store_silence.end()

    def _exchange(self, beat: int) -> None:
        store = self.store
        if beat == 1:
            store.set(f"srp/host/{self.node}", self.host)
        progress = self._progress()
        store.set(f"srp/beat/{self.node}", json.dumps([beat, progress and asdict(progress)]))
        if self._known is None:
            self._learn()
        if self._leaving.is_set():
            store.set(f"srp/left/{self.node}", "")
            self._left.set()
            if self._all("left"):
                self._end_exchange()

    def _end_exchange(self) -> None:
        """Node 0 stays until the others know that all have left: without its store they would take it for lost."""
        if self.node:
            self.store.set(f"srp/done/{self.node}", "")
        if self.node or self._known or self._all("done", first=1):
            self._done.set()

    def _all(self, state: str, first: int = 0) -> bool:
        nodes = set(range(first, self.nodes)) - self._gone
        return all(self.store.check([f"srp/{state}/{node}"]) for node in nodes)

    def _learn(self) -> None:
        if self.own is not None:
            self._publish(self.own)
        elif self.store.check(["srp/ending"]):
            self._known = _read(self.store.get("srp/ending"))
        elif self.node == 0:
            self._find_lost()

    def _publish(self, ending: Ending) -> None:
        self._known = _read(self.store.compare_set("srp/ending", "", json.dumps(asdict(ending))))

    def _find_lost(self) -> None:
        for other in range(1, self.nodes):
            key = f"srp/beat/{other}"
            beat = self.store.get(key) if self.store.check([key]) else b""
            last, silence = self._beats[other]
            if beat != last:
                self._beats[other] = (beat, silence)
                silence.end()
                progress = json.loads(beat)[1]
                self._progress_there[other] = progress and Progress(**progress)
            elif silence.seconds() > self.lost_after and not self.store.check([f"srp/left/{other}"]):
                self._gone.add(other)
                host = f"srp/host/{other}"
                name = f" ({self.store.get(host).decode()})" if self.store.check([host]) else ""
                self._publish(self._lost(f"node {other}{name}", self._silent()))
                return

    def _silent(self) -> str:
        return f"gave no sign of life for {self.lost_after:.0f} s"

    def _lost(self, other: str, sign: str) -> Ending:
        return Ending(
            f"{other} {sign}: it has ended without a word, or "
            f"{self.host} (node {self.node}) has lost the link to it; rerun the command to resume",
            code=1,
            gentle=False,
        )


def _read(content: bytes) -> Ending:
    return Ending(**json.loads(content))


def remind(describe: Callable[[], str], every_s: float) -> threading.Event:
    """Print a note every `every_s` seconds, from now until the event that this returns is set."""
    done = threading.Event()

    def run() -> None:
        waited = 0.0
        while not done.wait(every_s):
            waited += every_s
            print_note(f"{describe()} ({waited:.0f} s)")

    threading.Thread(target=run, name="reminder", daemon=True).start()
    return done
