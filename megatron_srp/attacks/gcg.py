"""GCG as an attack: the search of `gcg_search` for each behavior."""

from collections.abc import Sequence
from typing import Any

from megatron_srp.attacks.gcg_search import GCGSearch, GCGSettings
from megatron_srp.attacks.likelihood import Continuation
from megatron_srp.attacks.search import Found, SearchAttack, settings_from
from megatron_srp.attacks.white_box import WhiteBox


class GCGAttack(SearchAttack[GCGSettings]):
    """The request and a suffix of tokens.

    Args:
        objective: what to make likely.
        options: fields of `GCGSettings`.
    """

    name = "gcg"

    def __init__(self, objective: str = "plain", **options: Any) -> None:
        super().__init__(settings_from(GCGSettings, self.name, options), objective)

    def search(self, box: WhiteBox, request: str, objective: Sequence[Continuation]) -> Found:
        return GCGSearch(box, request, objective, self._search_settings).run(self.on_step)
