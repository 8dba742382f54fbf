"""Imports point down only, and the heavy libraries stay where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "megatron_srp"
LAYERS = [
    ("errors", "schema", "durable", "_kernels"),
    ("segmentation", "reflection", "intervals", "ray_cluster"),
    ("corpus", "tokenization", "annotation"),
    ("data", "reports", "medsafetyworld", "generation"),
    ("sft",),
    ("training", "demo", "checkpoints"),
    # An attack knows the types, the suite knows the table of attacks.
    ("medsafetyworld/run", "attacks", "evaluation"),
]
# Where the heavy libraries may be imported: folders and files, as prefixes.
HEAVY = {
    "torch": (
        *("training/", "annotation/engines/hf_", "checkpoints/", "generation/hf", "benchmarks/"),
        *("attacks/", "evaluation/hf_", "medsafetyworld/run/start"),
    ),
    "megatron": ("training/", "checkpoints/", "benchmarks/"),
    "transformers": ("annotation/", "checkpoints/", "generation/hf", "benchmarks/", "attacks/", "evaluation/"),
    "vllm": ("annotation/engines/", "generation/"),
    "ray": ("annotation/engines/", "ray_cluster"),
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path):
    """All imported module names, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    relative = path.relative_to(PACKAGE)
    own = next((name for name in RANK if str(relative).startswith(f"{name}/") and "/" in name), relative.parts[0])
    own = own.removesuffix(".py")
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "megatron_srp" and rest.split(".")[0] in RANK:
            assert RANK[rest.split(".")[0]] <= RANK.get(own, 99), f"{path.name} imports {name} from above"
        if package in HEAVY:
            assert str(relative).startswith(HEAVY[package]), f"{path.name} imports {name}"


def test_only_one_file_knows_megatrons_trainer():
    users = {path.name for path in FILES for name in imports(path) if name.startswith("megatron.training")}
    assert users <= {"megatron_api.py", "cpu_backend.py"}
