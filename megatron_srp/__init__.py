"""Safety Reflection Pretraining (arXiv 2606.19168) for NVIDIA Megatron-LM.

The names below are the public API. Each is imported when it is first asked for, so that `import megatron_srp`, and with
it every command's `--help`, takes neither numpy nor torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AnnotationStore": "annotation.store.store",
    "Guard": "annotation.base",
    "GuardOptions": "annotation.base",
    "GuardPolicy": "generation.guard.policy",
    "GuardResult": "annotation.base",
    "GuardedModel": "generation.engines.hf.model",
    "Policy": "data.policies.policy",
    "ReflectedIndexedDataset": "data.shards.view",
    "ReflectionFormat": "reflection",
    "ReflectionIndexedDatasetBuilder": "data.builder",
    "SafetyLabel": "schema",
    "Verdict": "schema",
    "load_guard": "annotation",
    "load_tokenizer": "tokenization",
    "register": "training.host.register",
    "segment_text": "segmentation",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
