"""Megatron's compiled helpers for its datasets, where a source tree has not compiled them.

A source tree runs `make` at each start, which needs pybind11 and the headers of the same Python; the wheel has no
Makefile and brings them compiled. Where both are there, and their source is the same, the wheel's are used.
"""

import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import megatron.core.datasets

NAME = "megatron.core.datasets.helpers_cpp"
_SOURCE = "helpers.cpp"


def find_helpers() -> bool:
    """Make the compiled helpers importable if they are there; returns whether they are."""
    try:
        import_module(NAME)
    except ImportError:
        compiled = _of_the_wheel(Path(megatron.core.datasets.__path__[0]))
        if compiled is None:
            return False
        _load(compiled)
    return True


def _of_the_wheel(folder: Path) -> Path | None:
    """The installed wheel's helpers, if they were compiled from the source in `folder`."""
    try:
        installed = Path(str(distribution("megatron-core").locate_file("megatron/core/datasets")))
    except PackageNotFoundError:
        return None
    sources = [place / _SOURCE for place in (folder, installed)]
    if not all(source.is_file() for source in sources) or sources[0].read_bytes() != sources[1].read_bytes():
        return None
    candidates = [installed / f"helpers_cpp{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def _load(compiled: Path) -> None:
    spec = spec_from_file_location(NAME, compiled, loader=ExtensionFileLoader(NAME, str(compiled)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = megatron.core.datasets.helpers_cpp = module
