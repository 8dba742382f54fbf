"""`srp run SCRIPT ARGS`: a Megatron script, unchanged, on data with reflections. Under torchrun: `-m megatron_srp.run`.

The script runs as `python SCRIPT ARGS` would run it, with its own folder first on the path (so a checkout's script
uses the checkout's megatron), after `register()` and the hooks of `trainer/script_parser.py`. Without a GPU the CPU
backend comes first. The imports are inside the functions: processes that Megatron starts import the main module again.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from megatron_srp.errors import InputError, SrpError, UsageError
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.training.host.versions import check_host
from megatron_srp.training.process.exits import exit_together, exit_with_traceback, print_note

USAGE = "srp run [--nproc-per-node N] SCRIPT [flags of the script and of this project]"


def main(argv: list[str] | None = None) -> None:
    """Run the script that `argv` names; a user's mistake is one line on rank 0, and all ranks end."""
    try:
        run_script(sys.argv[1:] if argv is None else argv)
    except SrpError as error:
        exit_together(error)
    except (Exception, KeyboardInterrupt):
        exit_with_traceback()


def run_script(argv: list[str]) -> None:
    """Prepare Megatron, and run the script.

    Args:
        argv: the script's path, and its arguments.
    """
    script = find_script(argv)
    sys.argv = list(argv)
    sys.path.insert(0, str(script.parent))
    with missing_packages_explained("srp run"):
        check_host()  # before the seconds that torch takes to import
        _prepare()
    runpy.run_path(str(script), run_name="__main__")


def find_script(argv: list[str]) -> Path:
    """The script that `argv` begins with; raises UsageError or InputError where there is none."""
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"srp run needs a script, before its flags: {USAGE}")
    script = Path(argv[0]).resolve()
    if not script.is_file():
        raise InputError(f"{argv[0]}: no such file; pass the path of a Python script that trains with Megatron")
    return script


def _prepare() -> None:
    from megatron_srp.training.cpu import backend as cpu_backend
    from megatron_srp.training.process import extensions
    from megatron_srp.training.process.surroundings import ignore_missing_cuda_extensions, set_environment

    set_environment()
    on_cpu = cpu_backend.install()
    if on_cpu:
        print_note("no GPU is visible: running on the CPU over gloo, which is for demos and tests")
        ignore_missing_cuda_extensions()
    else:
        extensions.hide_broken_engine()

    from megatron_srp.training.host.register import register

    register()
    if find_spec("megatron.training") is not None:
        _prepare_trainer(on_cpu)


def _prepare_trainer(on_cpu: bool) -> None:
    from megatron_srp.training.cpu import backend as cpu_backend
    from megatron_srp.training.process.checkpoint_worker import watch_checkpoint_worker
    from megatron_srp.training.process.write_errors import keep_reasons_of_failed_writes
    from megatron_srp.training.trainer import patches
    from megatron_srp.training.trainer.bridge_config import describe_checkpoints_to_bridge
    from megatron_srp.training.trainer.record_readings import record_readings
    from megatron_srp.training.trainer.script_parser import hook_arguments

    patches.skip_compilation()
    patches.explain_load_errors()
    watch_checkpoint_worker()
    keep_reasons_of_failed_writes()
    if on_cpu:
        cpu_backend.patch_megatron()
    record_readings()
    describe_checkpoints_to_bridge()
    hook_arguments(cpu_backend.default_flags() if on_cpu else [])
