"""AutoDAN as an attack: the genetic search of `autodan_search` for each behavior."""

from collections.abc import Sequence
from typing import Any

from megatron_srp.attacks.autodan_search import AutoDANSearch, AutoDANSettings
from megatron_srp.attacks.likelihood import Continuation
from megatron_srp.attacks.search import Found, SearchAttack, settings_from
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.attacks.wording import find_synonyms, read_prototypes, rewriter
from megatron_srp.files import digest


class AutoDANAttack(SearchAttack[AutoDANSettings]):
    """The request within a prompt in natural language.

    `rewrite` and `synonyms` can be set to others, such as a language model's; `settings` should then say so.

    Args:
        objective: what to make likely.
        options: fields of `AutoDANSettings`.
    """

    name = "autodan"

    def __init__(self, objective: str = "plain", **options: Any) -> None:
        settings = settings_from(AutoDANSettings, self.name, options)
        super().__init__(settings, objective)
        self.synonyms = find_synonyms(settings.synonyms)
        self.rewrite = rewriter(self.synonyms)
        content = digest(read_prototypes(settings.prototypes))  # the same path may hold others tomorrow
        self.settings = {**self.settings, "prototypes": content}

    def search(self, box: WhiteBox, request: str, objective: Sequence[Continuation]) -> Found:
        settings = self._search_settings
        return AutoDANSearch(box, request, objective, settings, self.rewrite, self.synonyms).run(self.on_step)
