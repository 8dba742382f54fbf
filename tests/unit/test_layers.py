"""Imports point down only, no files import each other in a circle, and heavy libraries stay where they belong."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "megatron_srp"
# From the ground up. A file belongs to the longest name that it begins with, and may import its own layer and those
# below it.
LAYERS = [
    ("errors", "schema"),
    ("files", "missing_packages"),
    ("remote",),
    (
        "whole_folder",
        "terminal",
        "machine",
        "unicode_classes",
        "segmentation",
        "reflection",
        "model_description",
        "verdict_tree",
        "statistics",
        "ray_cluster",
        "ordered_map",
    ),
    ("corpus", "tokenization"),
    ("annotation",),
    ("data",),
    ("toy_corpus", "medsafetyworld/world", "generation"),
    ("sft",),
    ("training",),
    ("checkpoints",),
    ("reports",),
    ("attacks", "evaluation"),
    ("medsafetyworld/measure", "medsafetyworld/experiment"),
    ("benchmarks", "smoke"),
    ("cli", "__main__", "run"),
]
# Where the heavy libraries may be imported: folders and files, as prefixes.
HEAVY = {
    "torch": (
        *("training/", "annotation/engines/hf_", "checkpoints/", "generation/engines/hf/", "benchmarks/"),
        *("attacks/", "evaluation/hf_", "medsafetyworld/experiment/start"),
    ),
    "megatron": ("training/", "checkpoints/", "benchmarks/"),
    "transformers": (
        "model_description",
        "annotation/",
        "checkpoints/",
        "generation/engines/",
        "benchmarks/",
        "attacks/",
        "evaluation/",
    ),
    "vllm": ("annotation/engines/", "generation/", "benchmarks/"),
    "ray": ("annotation/engines/", "ray_cluster"),
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


KERNELS = ("annotation.fronts._front", "corpus._text", "data._tokens")
MODULES = {module_of(path) for path in FILES} | {f"megatron_srp.{name}" for name in KERNELS}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """All imported modules, those inside functions too; of `from a import b`, `a.b` where that is one of ours."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module for name in names]
    return tuple(found)


def rank_of(module: str) -> int | None:
    """The layer of one of our modules; None for the package itself, which imports nothing."""
    path = module.removeprefix("megatron_srp").removeprefix(".").replace(".", "/")
    owners = [name for name in RANK if path == name or path.startswith(f"{name}/")]
    return RANK[max(owners, key=len)] if owners else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = rank_of(module_of(path))
    for name in imports(path):
        package = name.partition(".")[0]
        if package == "megatron_srp":
            rank = rank_of(name)
            assert own is None or rank is None or rank <= own, f"{path.name} imports {name} from above"
        if package in HEAVY:
            assert str(path.relative_to(PACKAGE)).startswith(HEAVY[package]), f"{path.name} imports {name}"


def test_every_file_has_a_layer():
    assert [path for path in FILES if rank_of(module_of(path)) is None] == [
        *(PACKAGE / "__init__.py", PACKAGE / "medsafetyworld" / "__init__.py"),
    ]


def test_no_files_import_each_other_in_a_circle():
    ours = {module_of(path): [name for name in imports(path) if name in MODULES] for path in FILES}
    left = set(ours)
    while done := {module for module in left if not left.intersection(ours[module]) - {module}}:
        left -= done
    assert not left, f"each of these files leads back to itself: {sorted(left)}"


def test_only_one_folder_knows_megatrons_trainer():
    users = {path for path in FILES for name in imports(path) if name.startswith("megatron.training")}
    trainer, backend = PACKAGE / "training" / "trainer", PACKAGE / "training" / "cpu"
    users = {path for path in users if path.parent != PACKAGE / "benchmarks"}  # which measure Megatron's own tools
    assert users and all(path.parent in (trainer, backend) for path in users)
