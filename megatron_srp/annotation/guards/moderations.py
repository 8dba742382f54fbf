"""The `/v1/moderations` of any endpoint as a guard: `--guard moderations`, for OpenAI's and whatever speaks its form.

A text is Unsafe where the endpoint flags it, with the categories that it names; with `--guard-threshold`, from that
score of any category on. The form: https://platform.openai.com/docs/api-reference/moderations.
"""

import asyncio
from collections.abc import Sequence
from itertools import batched
from math import nan
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, labels_of
from megatron_srp.annotation.engines.http_client import EndpointClient, RequestFailed
from megatron_srp.annotation.engines.http_retry import Limits, require_whole
from megatron_srp.annotation.extensions import check_options
from megatron_srp.annotation.guards.chat_guard import check_threshold
from megatron_srp.errors import UsageError
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.schema import SafetyLabel, Verdict

_OPTIONS = {"model", "threshold", "engine_options"}
_VERDICTS = {str(verdict).lower() for verdict in Verdict}  # `srp serve` names these as categories


class ModerationsGuard(Guard):
    """Judges by an endpoint.

    Args:
        model: the name that is sent; None for the endpoint's default.
        threshold: of a category's score; by default the endpoint decides.
        base_url: of the endpoint, including `/v1`.
        texts_per_request: in a request. One text at a time where the endpoint refuses them together.
        concurrency, timeout_s, tries, patience_s: see `Limits`.

    Raises:
        UsageError: for something that is not an address.
    """

    name, revision = "moderations", "1"

    def __init__(
        self,
        model: str | None = None,
        threshold: float | None = None,
        base_url: str = "https://api.openai.com/v1",
        texts_per_request: int = 16,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        tries: int = 6,
        patience_s: float = 600.0,
    ) -> None:
        check_threshold(threshold)
        require_whole("texts_per_request", texts_per_request)
        self.model, self.threshold, self._at_once = model, threshold, texts_per_request
        self._client = EndpointClient(base_url, Limits(concurrency, timeout_s, tries, patience_s))
        self.incidents = self._client.incidents

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"model": self.model, "url": self._client.url, "threshold": self.threshold}

    def close(self) -> None:
        self._client.close()

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return [self._result(one) for one in self._ask(texts)]

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([nan if isinstance(one, str) else _highest(one) for one in self._ask(texts)], np.float32)

    def _result(self, found: dict[str, Any] | str) -> GuardResult:
        if isinstance(found, str):
            return GuardResult(failure=found)
        scores, limit, highest = found["category_scores"], self.threshold, _highest(found)
        flagged = found["flagged"] if limit is None else highest >= limit
        if not flagged:
            return GuardResult(score=1 - highest)
        names = [name for name, given in found["categories"].items() if given]
        if limit is not None:
            names = [name for name, score in scores.items() if score >= limit]
        names = [name for name in names if name not in _VERDICTS]
        return GuardResult(SafetyLabel(Verdict.UNSAFE, tuple(names)), highest)

    def _ask(self, texts: Sequence[str]) -> list[dict[str, Any] | str]:
        """The endpoint's result for each text, or why there is none."""
        return self._client.run(self._gather(texts))

    async def _gather(self, texts: Sequence[str]) -> list[dict[str, Any] | str]:
        found: list[dict[str, Any] | str] = [""] * len(texts)
        try:
            async with asyncio.TaskGroup() as group:  # the first GuardError cancels the rest
                for rows in batched(range(len(texts)), self._at_once):
                    group.create_task(self._fill(found, texts, rows))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def _fill(self, found: list[dict[str, Any] | str], texts: Sequence[str], rows: Sequence[int]) -> None:
        body = {"input": [texts[row] for row in rows]} | ({"model": self.model} if self.model else {})
        try:
            answer = await self._client.request("POST", "moderations", body, lambda a: _read(a, len(rows)))
        except RequestFailed as error:
            if len(rows) == 1:
                found[rows[0]] = f"the endpoint gave no verdict: {error}"
                return
            for row in rows:  # one of them may be what the endpoint refuses
                await self._fill(found, texts, [row])
            return
        for row, result in zip(rows, answer, strict=True):
            found[row] = result


def load_moderations(options: GuardOptions) -> ModerationsGuard:
    """The guard with these options; raises UsageError for one that it does not have."""
    if not _OPTIONS.issuperset(options.changed()):
        raise UsageError(
            "--guard moderations accepts --guard-model, --guard-threshold and --guard-option, and not "
            f"{', '.join(flag for flag in options.changed_flags() if flag[8:] not in _OPTIONS | {'option'})}"
        )
    given = "--guard moderations"
    check_options(ModerationsGuard, options.engine_options, given, skip=2)
    with missing_packages_explained(given):
        return ModerationsGuard(options.model, options.threshold, **options.engine_options)


def _read(answer: Any, count: int) -> list[dict[str, Any]]:
    """The results; raises ValueError, KeyError or TypeError for another form."""
    results = answer["results"]
    if len(results) != count:
        raise ValueError(f"{len(results)} results for {count} texts")
    for one in results:
        if not isinstance(one["flagged"], bool) or not isinstance(one["categories"], dict):
            raise ValueError("a result without flagged and categories")
        SafetyLabel(Verdict.UNSAFE, tuple(one["categories"]))
        one["category_scores"] = {name: float(score) for name, score in (one.get("category_scores") or {}).items()}
    return results


def _highest(found: dict[str, Any]) -> float:
    """The highest score of any category; NaN without scores."""
    return max(found["category_scores"].values(), default=nan)
