"""What /metrics and the audit log say of answers, and what they do not."""

import json

import pytest

from megatron_srp.errors import OutputError
from megatron_srp.generation.engines.request import Request
from megatron_srp.generation.guard.policy import ForcedReflection, Generation, GuardPolicy
from megatron_srp.generation.server.audit import AuditLog
from megatron_srp.generation.server.exchange import Exchange, RequestIds
from megatron_srp.generation.server.metrics import Metrics
from megatron_srp.generation.server.worker import Busy, Job
from megatron_srp.schema import SafetyLabel, Verdict

FOUND = Generation(
    *("secret answer", (SafetyLabel(Verdict.SAFE), SafetyLabel(Verdict.UNSAFE, ("Violent",))), "unsafe", 9),
    *((ForcedReflection(0, 0.7, 0.1, 0.2), ForcedReflection(4, 0.1, 0.0, 0.9)), (), 0, 3),
)


def job() -> Job:
    asked = Request([1, 2, 3], policy=GuardPolicy("retract"))
    return Job(asked, print, print, 99.0, submitted=1.0, started=1.3, first_text=4.0)


def test_metrics():
    metrics = Metrics(lambda: {"running": 2, "waiting": 5})
    metrics.count_request("/v1/models", 200)
    metrics.count_answer("research", job(), FOUND)
    metrics.count_answer("research", job(), Busy("late"))
    lines = bytes(metrics.response().body).decode().splitlines()
    assert {
        "srp_running 2.0",
        "srp_waiting 5.0",
        'srp_requests_total{path="/v1/models",status="200"} 1.0',
        'srp_answers_total{client="research",ended="unsafe"} 1.0',
        'srp_answers_total{client="research",ended="error"} 1.0',
        'srp_verdicts_total{kind="written",verdict="Unsafe"} 1.0',
        'srp_verdicts_total{kind="forced",verdict="Safe"} 1.0',
        'srp_unsafe_probability_bucket{le="0.3"} 0.0',
        'srp_unsafe_probability_bucket{le="0.4"} 1.0',
        'srp_unsafe_probability_bucket{le="0.9"} 2.0',
        'srp_queue_seconds_bucket{le="0.2"} 0.0',
        'srp_queue_seconds_bucket{le="0.5"} 2.0',
        "srp_time_to_first_token_seconds_sum 3.0",
        'srp_tokens_total{kind="generated"} 9.0',
        "srp_withheld_tokens_total 3.0",
        "srp_unjudged_tokens_total 0.0",
    } <= set(lines)


def test_the_audit_log(tmp_path):
    path, exchange = tmp_path / "audit.jsonl", Exchange("id-1", "research", "/v1/chat/completions")
    AuditLog(path).write(exchange, job(), FOUND)
    AuditLog(path, lambda tokens: f"decoded {list(tokens)}").write(exchange, job(), FOUND)
    AuditLog(path).write(exchange, job(), Busy("secret"))
    bare, full, failed = map(json.loads, path.read_text().splitlines())
    assert (bare["request_id"], bare["client"], bare["path"]) == ("id-1", "research", "/v1/chat/completions")
    assert bare["policy"]["on_unsafe"] == "retract" and bare["stop_reason"] == "unsafe" and bare["prompt_tokens"] == 3
    assert bare["reflections"][1] == {"verdict": "Unsafe", "categories": ["Violent"]} and len(bare["forced"]) == 2
    assert "secret" not in json.dumps(bare) + json.dumps(failed) and failed["error"] == "Busy"
    assert (full["prompt"], full["text"]) == ("decoded [1, 2, 3]", "secret answer")
    with pytest.raises(OutputError, match="--audit-log"):
        AuditLog(tmp_path / "none" / "audit.jsonl")


def test_a_log_that_is_moved_away_is_begun_again(tmp_path):
    log, exchange = AuditLog(tmp_path / "audit.jsonl"), Exchange("a", "b", "c")
    log.write(exchange, job(), FOUND)
    (tmp_path / "audit.jsonl").rename(tmp_path / "old.jsonl")
    log.write(exchange, job(), FOUND)
    for name in ("audit.jsonl", "old.jsonl"):
        assert len((tmp_path / name).read_text().splitlines()) == 1


@pytest.mark.parametrize(("given", "kept"), [("trace-1:a.b", True), ("a\nb", False), ("x" * 200, False), ("", False)])
def test_request_ids(given, kept):
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request as HTTPRequest
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    async def hello(http: HTTPRequest) -> PlainTextResponse:
        return PlainTextResponse(Exchange.of(http, "me").request_id)

    counted: list[tuple[str, int]] = []
    middleware = [Middleware(RequestIds, lambda *found: counted.append(found))]
    client = TestClient(Starlette(routes=[Route("/hello/{name}", hello)], middleware=middleware))
    found = client.get("/hello/x", headers={"X-Request-Id": given.encode()} if given else {})
    assert found.text == found.headers["x-request-id"] and (found.text == given) is kept and len(found.text) <= 128
    client.get("/no")
    assert counted == [("/hello/{name}", 200), ("other", 404)]
