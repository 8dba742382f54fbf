"""What vLLM loads at its start, in each of its processes (entry point `vllm.general_plugins`)."""

import os
from importlib.metadata import version

from megatron_srp.errors import SrpError
from megatron_srp.generation.vllm.settings import VARIABLE, read_settings

SUPPORTED = "0.32"
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def register() -> None:
    """Register the reasoning parser `srp`.

    Ends the process with one line where SRP_GUARD is set and something does not fit; without it, nothing is refused.
    """
    if VARIABLE not in os.environ:
        return
    try:
        read_settings()
    except SrpError as error:
        raise SystemExit(f"megatron-srp: {error}") from None
    import vllm

    if ".".join(vllm.__version__.split(".")[:2]) != SUPPORTED:
        raise SystemExit(
            f"megatron-srp {version('megatron-srp')}: {VARIABLE} needs vLLM {SUPPORTED}, and this is "
            f"{vllm.__version__}; pip install 'vllm=={SUPPORTED}.*', or use srp serve"
        )
    if os.environ.setdefault(_RUNNER, "0") != "0":  # by default vLLM chooses the other one on a GPU
        raise SystemExit(f"megatron-srp: the guard runs in vLLM's V1 model runner; leave {_RUNNER} out, or set it to 0")
    from vllm.reasoning import ReasoningParserManager

    module = "megatron_srp.generation.vllm.reasoning_parser"
    ReasoningParserManager.register_lazy_module("srp", module, "ReflectionParser")


def check_engine(config: object) -> None:
    """Raise SystemExit with one line for an engine's configuration (vLLM's VllmConfig) that the guard does not fit."""
    if getattr(config, "speculative_config", None):
        raise SystemExit(
            "megatron-srp: vLLM leaves the guard out of speculative decoding; leave --speculative-config out"
        )
    if getattr(getattr(config, "scheduler_config", None), "async_scheduling", False):
        raise SystemExit("megatron-srp: the guard reads each token before the next is drawn; add --no-async-scheduling")
