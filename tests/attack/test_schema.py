"""Requests made up from the server's description of itself, by schemathesis: those it allows, and those it does not."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, status_code_conformance

from megatron_srp.generation.server.openapi import openapi
from tests.attack.guarantee import check

pytestmark = pytest.mark.exhaustive
described = schemathesis.openapi.from_dict(openapi())
CHECKS = [not_a_server_error, status_code_conformance, negative_data_rejection]


@described.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_described_is_what_is_done(case, attacked):
    """No error of the server, no undescribed status, nothing taken that the description forbids."""
    url = str(attacked.served.http.base_url)
    found = case.call(base_url=url, headers={"Authorization": "Bearer sk-refuse"})
    case.validate_response(found, checks=CHECKS)
    kind = {"content-type": found.headers["content-type"][0]}
    if case.method == "POST":
        check("refuse", case.path, httpx.Response(found.status_code, content=found.content, headers=kind), "")
