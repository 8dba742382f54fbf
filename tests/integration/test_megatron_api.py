"""What we use of Megatron is still there, under the same names and with the same arguments.

A release of Megatron that changes something fails here first, and the failure names it.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.training import arguments, cpu_backend
from megatron_srp.training.flops import flops_per_token
from megatron_srp.training.layouts import Layout
from megatron_srp.training.memory import estimate_memory, padded_vocab_size
from megatron_srp.training.presets import PRESETS

# Megatron's modules warn on import that Apex and Transformer Engine are missing.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

TRAINING = Path(arguments.__file__).parent
USERS_OF_MEGATRON = (
    *("megatron_api.py", "datasets.py", "reflection_dataset.py", "cpu_backend.py"),
    "checkpoint_args.py",
)

# Names that are called with these arguments, by keyword or in this order.
SIGNATURES = {
    "megatron.training.pretrain": ("cfg_container train_valid_test_dataset_provider model_type forward_step_func"),
    "megatron.training.arguments.parse_and_validate_args": "extra_args_provider",
    "megatron.training.arguments._print_args": "title args",
    "megatron.training.arguments.parse_args": "extra_args_provider",
    "megatron.training.arguments.validate_args": "args",
    "megatron.training.training.print_rank_last": "message",
    "megatron.core.dist_checkpointing.serialization.load_common_state_dict": "checkpoint_dir",
    "megatron.training.argument_utils.gpt_config_from_args": "args",
    "megatron.training.argument_utils.pretrain_cfg_container_from_args": "args model_cfg",
    "megatron.training.utils.get_blend_and_blend_per_split": "args",
    "megatron.training.utils.is_first_or_last_pipeline_stage": "vp_stage",
    "megatron.core.datasets.blended_megatron_dataset_builder.BlendedMegatronDatasetBuilder": (
        "cls sizes is_built_on_rank config"
    ),
    "megatron.core.transformer.torch_norm.WrappedTorchNorm.__new__": "cls config",
}

# Names that we replace: a new name would be set without an error, and change nothing.
REPLACED = (
    "megatron.core.datasets.utils.compile_helpers",
    "megatron.core.dist_checkpointing.strategies.filesystem_async._results_queue",
    "megatron.core.optimizer.Adam",
    "megatron.core.optimizer.USING_PYTORCH_OPTIMIZER",
    "megatron.core.optimizer.distrib_optimizer.HAVE_APEX_OR_TE",
    "megatron.core.optimizer.distrib_optimizer.USING_TE_OPTIMIZER",
    "megatron.training.training.print_datetime",
    "megatron.training.training.print_rank_last",
    "megatron.training.training.report_memory",
    "megatron.training.training.report_theoretical_memory",
    "megatron.training.training.set_jit_fusion_options",
)


def find(path: str) -> Any:
    """The object at a dotted path, importing as much of it as is a module."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            assert hasattr(found, part), f"{path}: {part!r} is gone from {found}"
            found = getattr(found, part)
        return found
    raise AssertionError(f"{path}: no such module")


def syntax_trees() -> list[ast.AST]:
    return [ast.parse((TRAINING / name).read_text()) for name in USERS_OF_MEGATRON]


def imports_of_megatron() -> list[str]:
    paths = []
    for node in (node for tree in syntax_trees() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megatron."):
            paths += [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            paths += [alias.name for alias in node.names if alias.name.startswith("megatron.")]
    return sorted(set(paths))


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    add_arguments: Callable[..., argparse.ArgumentParser] = find("megatron.training.arguments.add_megatron_arguments")
    return arguments.add_srp_arguments(add_arguments(arguments.OneLineParser(allow_abbrev=False)))


@pytest.fixture(scope="module")
def defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    return vars(parser.parse_args([]))


def test_only_one_file_of_ours_runs_the_trainer() -> None:
    package = TRAINING.parent
    importers = {
        path.name
        for path in package.rglob("*.py")
        if "megatron.training" in path.read_text()
        and any(
            getattr(node, "module", None) and node.module.startswith("megatron.training")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        )
    }
    assert importers <= set(USERS_OF_MEGATRON)


@pytest.mark.parametrize("path", imports_of_megatron())
def test_imported_names_exist(path: str) -> None:
    find(path)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path: str) -> None:
    wanted = SIGNATURES[path].split()
    parameters = list(inspect.signature(find(path)).parameters)
    assert parameters[: len(wanted)] == wanted, f"{path} now takes {parameters}"


def test_batch_helper_takes_what_we_pass() -> None:
    (call,) = (
        node
        for tree in syntax_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "get_batch_on_this_tp_rank"
    )
    passed = {"batch", *(keyword.arg for keyword in call.keywords)}
    parameters = inspect.signature(find("megatron.core.utils.get_batch_on_this_tp_rank")).parameters
    required = {name for name, p in parameters.items() if p.default is inspect.Parameter.empty}
    assert required <= passed <= set(parameters), f"it now takes {list(parameters)}"


@pytest.mark.parametrize("path", REPLACED)
def test_replaced_names_exist(path: str) -> None:
    find(path)


def test_dataset_options_are_fields_and_arguments(defaults: dict[str, Any]) -> None:
    from megatron_srp.training.datasets import DATASET_OPTIONS

    config = find("megatron.core.datasets.gpt_dataset.GPTDatasetConfig")
    given = {*DATASET_OPTIONS, "blend", "blend_per_split", "tokenizer"}
    assert given <= set(inspect.signature(config).parameters)
    assert set(DATASET_OPTIONS.values()) <= set(defaults)


def test_arguments_read_exist(defaults: dict[str, Any]) -> None:
    read = {
        node.attr
        for tree in syntax_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            getattr(node.value, "id", "") == "args"
            or getattr(getattr(node.value, "func", None), "id", "") == "get_args"
        )
    }
    assert read
    assert read <= set(defaults)


@pytest.mark.parametrize("flag", sorted(set(arguments._LOOKED_AT) - {"--help"}))
def test_flags_looked_at_early_are_megatrons(flag: str, parser: argparse.ArgumentParser) -> None:
    """`arguments.look_at` reads them as Megatron's own parser does."""
    ours = argparse.ArgumentParser()
    action = ours.add_argument(flag, **arguments._LOOKED_AT[flag])  # type: ignore[arg-type]
    theirs = parser._option_string_actions[flag]
    assert action.dest == theirs.dest
    assert (action.nargs == 0) == (theirs.nargs == 0)
    assert (action.nargs == "*") == (theirs.nargs == "*")
    assert action.type in (theirs.type, None) or theirs.type is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_megatrons_flags(name: str, parser: argparse.ArgumentParser) -> None:
    preset = PRESETS[name]
    argv = arguments.add_defaults(cpu_backend.default_flags(), arguments.expand_preset(["--srp-preset", name]))
    args = parser.parse_args(argv)  # an unknown flag or a wrong type raises UsageError
    assert (args.num_layers, args.hidden_size) == (preset.num_layers, preset.hidden_size)
    assert args.swiglu and args.normalization == "RMSNorm" and not args.add_bias_linear
    assert args.untie_embeddings_and_output_weights == (not preset.tied_embeddings)
    assert args.bf16 == preset.recipe.bf16


def test_help_works() -> None:
    from megatron_srp.training.megatron_api import prepare_parser

    add_arguments = find("megatron.training.arguments.add_megatron_arguments")
    text = prepare_parser(add_arguments(argparse.ArgumentParser(allow_abbrev=False))).format_help()
    assert "--srp-preset NAME" in text


@pytest.mark.parametrize("name", PRESETS)
def test_our_flops_are_megatrons(name: str, parser: argparse.ArgumentParser) -> None:
    preset = PRESETS[name]
    args = parser.parse_args(preset.to_flags())
    args.kv_channels = preset.hidden_size // preset.num_attention_heads
    args.padded_vocab_size = preset.vocab_size
    flops = find("megatron.training.training.num_floating_point_operations")(args, 1)
    assert flops_per_token(preset) == pytest.approx(flops / preset.recipe.seq_length, rel=1e-9)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (4, 4)])
def test_our_memory_of_states_is_megatrons(
    name: str, tensor: int, pipeline: int, parser: argparse.ArgumentParser
) -> None:
    preset = dataclasses.replace(PRESETS[name], recipe=dataclasses.replace(PRESETS[name].recipe, bf16=True))
    layout = Layout(gpus=64, tensor=tensor, pipeline=pipeline)
    args = parser.parse_args([*preset.to_flags(), *layout.to_flags(), "--use-distributed-optimizer"])
    args.kv_channels = preset.hidden_size // preset.num_attention_heads
    args.padded_vocab_size = padded_vocab_size(preset, layout)
    args.world_size, args.data_parallel_size = layout.gpus, layout.data
    args.expert_tensor_parallel_size = tensor
    theirs = find("megatron.training.theoretical_memory_usage.compute_weight_and_optimizer_memory")(args)
    ours = estimate_memory(preset, layout)
    assert ours.weights + ours.gradients + ours.optimizer == pytest.approx(theirs, rel=1e-6)
