"""torchrun's agent, the process on each node that starts the ranks, such that all nodes end for one known cause."""

import signal
import time
from datetime import timedelta
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.agent.server.api import RunResult, Worker, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.launcher import api as launcher

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.training.process.exits import AnotherRankEnded, print_note
from megatron_srp.training.process.failures import find_cause, shell_code
from megatron_srp.training.process.meeting import Meeting, open_store
from megatron_srp.training.process.nodes import SECONDS_TO_BE_LOST, SECONDS_TO_LEAVE, Ending, NodeWatch, remind
from megatron_srp.training.process.progress import HangDetector, ProgressFolder
from megatron_srp.training.process.same_nodes import check_same

SECONDS_FOR_THE_CAUSE = SECONDS_TO_BE_LOST + 2
SECONDS_FOR_OTHER_NODES = 300.0  # torchrun's own
SECONDS_BETWEEN_REMINDERS = 30.0
SECONDS_BETWEEN_LOOKS = 5.0


class EndedElsewhere(OutputError):
    """The cause of the run's end is on another node."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.cause)
        self.exit_code = ending.code


class WatchingAgent(LocalElasticAgent):
    """An agent that watches the other nodes of a run of several; on one node it is torchrun's."""

    _watch: NodeWatch | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._meeting = Meeting()
        self._folder = ProgressFolder()
        self._hangs = HangDetector()
        self._looked = time.monotonic()

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        met = remind(self._meeting.describe, SECONDS_BETWEEN_REMINDERS)
        try:
            open_store(worker_group.spec.rdzv_handler)
            super()._rendezvous(worker_group)
        except (DistNetworkError, DistStoreError) as error:
            raise UsageError(_explain_meeting(error)) from error
        finally:
            met.set()
        node, nodes = worker_group.group_rank, worker_group.group_world_size
        assert self._store is not None and node is not None and nodes is not None
        if nodes > 1 and self._watch is None:
            self._watch = NodeWatch(self._store.clone(), node, nodes, progress=self._folder.read)
            self._watch.start()
            self._check_same(self._watch)

    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        if group_world_size > 1:
            self._meeting.meet(store, group_rank, group_world_size, _patience(spec.rdzv_handler))
        return super()._assign_worker_ranks(store, group_rank, group_world_size, spec)

    def _check_same(self, watch: NodeWatch) -> None:
        try:
            check_same(self._store, watch.node)
        except UsageError as error:
            watch.report(str(error), error.exit_code)
            raise

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if self._watch is not None:
            if result.is_failed():
                self._report(self._watch, result)
            self._follow(self._watch)
        if not result.is_failed():
            self._look_for_hangs()
        return result

    def _look_for_hangs(self) -> None:
        """Node 0 does it for all."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS or (self._watch and self._watch.node):
            return
        self._looked = time.monotonic()
        found = self._hangs.look(self._watch.progress() if self._watch else self._folder.read())
        if found is None:
            return
        said, ends = found
        if not ends:
            print_note(said)
            return
        if self._watch:
            self._watch.report(said, 1)
        self._shutdown(signal.SIGKILL)
        raise OutputError(said)

    def _report(self, watch: NodeWatch, result: RunResult) -> None:
        """Give the other nodes the cause; a rank that has only lost another one waits for that one's."""
        failed = find_cause(result.failures.items())
        end = time.monotonic() + SECONDS_FOR_THE_CAUSE
        while AnotherRankEnded.MESSAGE in failed.message and time.monotonic() < end:
            if watch.ending():
                return
            time.sleep(0.1)
        watch.report(
            f"rank {failed.rank} on {watch.host} (node {watch.node}): {failed.message}", shell_code(failed.exit_code)
        )

    def _follow(self, watch: NodeWatch) -> None:
        """End as another node has; the ranks of this one may be waiting for it in a collective."""
        ending = watch.ending()
        if ending is None or ending == watch.own:
            return
        if not ending.gentle:
            self._shutdown(signal.SIGKILL)
        raise EndedElsewhere(ending)

    def _exit_barrier(self) -> None:
        """torchrun would wait for the other nodes for 300 s, whether they live or not."""
        if self._watch is None:
            return super()._exit_barrier()
        self._watch.wait_for_others(SECONDS_FOR_OTHER_NODES)
        return self._follow(self._watch)

    def _invoke_run(self, role: str = "default") -> RunResult:
        try:
            return super()._invoke_run(role)
        except SignalException as error:
            if self._watch is not None:  # before the ranks save, which takes its time
                name = f"{error.sigval.name} on {self._watch.host} (node {self._watch.node})"
                self._watch.report(f"the run was ended by {name}", 128 + error.sigval, gentle=True)
            raise

    def run(self, role: str = "default") -> RunResult:
        try:
            return super().run(role)
        finally:
            if self._watch is not None:
                self._watch.leave(SECONDS_TO_LEAVE)
            self._folder.remove()


def watch_other_nodes() -> None:
    """From now on torchrun in this process uses this agent."""
    vars(launcher)["LocalElasticAgent"] = WatchingAgent


def _patience(handler: Any) -> float:
    """Seconds that a rendezvous waits for all nodes; one of torchrun's other kinds has waited already."""
    timeout = getattr(handler, "timeout", None)
    return timeout.total_seconds() if isinstance(timeout, timedelta) else SECONDS_FOR_OTHER_NODES


def _explain_meeting(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return (
        f"the nodes cannot meet: {reason}; start the same command on each, with its own --node-rank, and the same "
        "--nnodes, --master-addr (an address of node 0 that all nodes reach) and --master-port"
    )
