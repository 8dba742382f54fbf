"""Which transformers models can be asked for a forced reflection: those whose cache can be rewound.

A forced reflection is read after the text and then removed from the cache. Keys and values of each token
can be removed; the state of a recurrent layer (Mamba, linear attention) is changed for good. A layer with
a sliding or chunked window attends, up to the window's length, like one without: such a model gets texts of
at most that length, since beyond it the cache has dropped what a rewind would need.
"""

import inspect
from typing import Any

from megatron_srp.errors import UsageError


def rewindable_length(model: Any) -> int:
    """Maximum tokens of a prompt with its answer such that any token can be removed from the model's cache.

    Raises:
        UsageError: when something in its cache cannot be removed at any length.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    config, names = model.config, set(inspect.signature(model.forward).parameters)
    known = {"cache", "past_key_values"} & names and "position_ids" in names
    layers = DynamicCache(config=config).layers if known else []
    others = {type(layer).__name__ for layer in layers} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    if not layers or others:
        found = ", ".join(sorted(others)) or "no keys, values and positions of single tokens"
        raise UsageError(
            f"a model of type {config.model_type!r} keeps a state that cannot be rewound ({found}), which guarded "
            "generation needs; use one with attention in every layer"
        )
    windows = [int(layer.sliding_window) for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min([int(config.get_text_config(decoder=True).max_position_embeddings), *windows])
