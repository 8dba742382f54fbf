"""Megatron's tokenizer with the end-of-document token of the run's shards. Needs neither torch nor Megatron."""

from typing import Any


class RunTokenizer:
    """Delegates to Megatron's tokenizer, whose `eod` is the eos in its files, for everything else.

    Megatron's datasets take `eod` from here, for --eod-mask-loss, and to see whether the pad token is another: a pad
    token that ends documents would be left out of the loss, and the model would not learn to stop.
    """

    def __init__(self, tokenizer: Any, eod: int) -> None:
        self._tokenizer, self.eod = tokenizer, eod

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_tokenizer":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def run_tokenizer(tokenizer: Any, data: dict[str, Any] | None) -> Any:
    """`tokenizer` for a run whose arguments record `data` (`lineage.describe_data`)."""
    end = (data or {}).get("end_of_document")
    return tokenizer if end is None or end["id"] == tokenizer.eod else RunTokenizer(tokenizer, end["id"])
