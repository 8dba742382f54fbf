"""/metrics for Prometheus: what is asked, how long it takes, and what the guard does."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.worker import Cancelled, Job

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PROBABILITY = (0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.99, 1.0)


class Metrics:
    """Of one server, in a registry of their own.

    Args:
        counts: how many answers run and wait.
    """

    def __init__(self, counts: Callable[[], dict[str, int]]) -> None:
        self._registry = CollectorRegistry()

        def new(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"srp_{name}", text, labels, registry=self._registry, **more)

        for name in ("running", "waiting"):
            gauge = new(Gauge, name, f"Answers that are {name}.")
            gauge.set_function(lambda name=name: counts()[name])
        self._requests = new(Counter, "requests", "HTTP requests.", ("path", "status"))
        self._answers = new(Counter, "answers", "Answers by how they ended.", ("client", "ended"))
        self._verdicts = new(Counter, "verdicts", "Verdicts, written by the model or forced.", ("kind", "verdict"))
        self._probability = new(Histogram, "unsafe_probability", "P(unsafe) of forced verdicts.", buckets=_PROBABILITY)
        self._queue = new(Histogram, "queue_seconds", "Time from a request to its start.", buckets=_SECONDS)
        first = "Time from a request to the first text that its reader sees."
        self._first = new(Histogram, "time_to_first_token_seconds", first, buckets=_SECONDS)
        self._tokens = new(Counter, "tokens", "Tokens read and generated.", ("kind",))
        self._withheld = new(Counter, "withheld_tokens", "Generated tokens that the guard did not show.")
        self._unjudged = new(Counter, "unjudged_tokens", "Generated tokens that no verdict has judged.")

    def response(self) -> Response:
        """In Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def count_request(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def count_answer(self, client: str, job: Job, found: Generation | Exception) -> None:
        """Count an answer that has ended, or what made it fail."""
        if job.started is not None:
            self._queue.observe(job.started - job.submitted)
        if isinstance(found, Exception):
            self._answers.labels(client, "cancelled" if isinstance(found, Cancelled) else "error").inc()
            return
        self._answers.labels(client, found.stop_reason).inc()
        if job.first_text is not None:
            self._first.observe(job.first_text - job.submitted)
        self._tokens.labels("prompt").inc(len(job.request.prompt) + len(job.request.prefill))
        self._tokens.labels("generated").inc(found.num_tokens)
        self._withheld.inc(found.withheld_tokens)
        self._unjudged.inc(found.unjudged_tokens)
        self._count_verdicts(job, found)

    def _count_verdicts(self, job: Job, found: Generation) -> None:
        for label in found.reflections:
            self._verdicts.labels("written", label.verdict).inc()
        for forced in found.forced:
            self._verdicts.labels("forced", forced.label(job.request.policy).verdict).inc()
            self._probability.observe(forced.unsafe_of(job.request.policy))
