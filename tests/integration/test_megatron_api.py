"""What we use of Megatron is still there, under the same names and with the same arguments.

A release of Megatron that changes something fails here first, and the failure names it.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import megatron_srp
from megatron_srp.errors import CommandParser
from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.flags.command_line import LOOKED_AT
from megatron_srp.training.flags.defaults import add_defaults
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.flags.srp_flags import add_srp_arguments
from megatron_srp.training.layout.flops import flops_per_token
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.layout.memory import estimate_memory, padded_vocab_size
from megatron_srp.training.plan import expand_flags

# Megatron's modules warn on import that Apex and Transformer Engine are missing.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

PACKAGE = Path(megatron_srp.__file__).parent
USERS_OF_MEGATRON = tuple(
    str(path.relative_to(PACKAGE))
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^\s*(import|from) megatron\.", path.read_text(), re.MULTILINE)
)

# What the syntax does not show: order of arguments by name, methods of objects, names set by setattr().
SIGNATURES = {
    "megatron.training.pretrain": ("cfg_container train_valid_test_dataset_provider model_type forward_step_func"),
    "megatron.training.arguments._print_args": "title args",
    "megatron.training.training.print_rank_last": "message",
    "megatron.training.checkpointing._async_delete_checkpoint_impl": (
        "save_path iteration_to_delete log_progress lower_priority cpu_priority io_priority"
    ),
    "megatron.training.datasets.data_samplers.build_pretraining_data_loader": "dataset consumed_samples",
    "megatron.core.rerun_state_machine.RerunStateMachine.validate_result": (
        "self result rejection_func message comparison_func tolerance fatal"
    ),
    "megatron.core.datasets.blended_megatron_dataset_builder.BlendedMegatronDatasetBuilder": (
        "cls sizes is_built_on_rank config"
    ),
    "megatron.core.transformer.torch_norm.WrappedTorchNorm.__new__": "cls config",
    "megatron.core.dist_checkpointing.strategies.async_utils.PersistentAsyncCaller._get_process": (
        "rank mp_mode cpu_priority io_priority"
    ),
    "megatron.core.dist_checkpointing.strategies.filesystem_async.FileSystemWriterAsync.preload_tensors": (
        "write_buckets non_blocking"
    ),
}
SET_BY_NAME = (
    "megatron.training.training.print_datetime",
    "megatron.training.training.print_rank_last",
    "megatron.training.training.report_memory",
    "megatron.training.training.report_theoretical_memory",
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
    return [ast.parse((PACKAGE / name).read_text()) for name in USERS_OF_MEGATRON]


def is_host(module: str) -> bool:
    """Megatron Bridge, which has a name in the same package, is not installed everywhere and has tests of its own."""
    return module.startswith("megatron.") and not module.startswith("megatron.bridge")


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name to dotted path, of everything that a file imports from Megatron."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_host(node.module or ""):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if is_host(a.name) and a.asname}
    return found


def path_of(node: ast.AST, names: dict[str, str]) -> str | None:
    """The dotted path in Megatron that an expression such as `mpu.get_rank` means, or None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
        owner = names[node.value.id]
        found = find(owner)
        return f"{owner}.{node.attr}" if inspect.ismodule(found) or inspect.isclass(found) else None
    return None


def attributes_of_megatron() -> set[str]:
    """Dotted paths of all that is read of, and set in, Megatron's modules and classes."""
    paths = (path_of(node, aliases(tree)) for tree in syntax_trees() for node in ast.walk(tree))
    return {path for path in paths if path}


def calls_of_megatron() -> list[tuple[str, ast.Call]]:
    """Path and call, of every call of something of Megatron's."""
    return [
        (path, node)
        for tree in syntax_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (path := path_of(node.func, aliases(tree)))
    ]


def check_call(path: str, called: Any, call: ast.Call) -> None:
    """Whether `called` takes the arguments of `call`."""
    signature = inspect.signature(called)
    keywords = {keyword.arg for keyword in call.keywords if keyword.arg}
    complete = len(keywords) == len(call.keywords) and not any(isinstance(a, ast.Starred) for a in call.args)
    try:
        bind = signature.bind if complete else signature.bind_partial
        bind(*call.args, **dict.fromkeys(keywords))
    except TypeError as error:
        raise AssertionError(f"{path} now takes {signature}: {error}") from None


def imports_of_megatron() -> list[str]:
    paths = []
    for node in (node for tree in syntax_trees() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and is_host(node.module or ""):
            paths += [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            paths += [alias.name for alias in node.names if is_host(alias.name)]
    return sorted(set(paths))


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    add_arguments: Callable[..., argparse.ArgumentParser] = find("megatron.training.arguments.add_megatron_arguments")
    return add_srp_arguments(add_arguments(CommandParser()))


@pytest.fixture(scope="module")
def defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    return vars(parser.parse_args([]))


def test_only_two_folders_of_ours_know_the_trainer() -> None:
    users = {
        name
        for name, tree in zip(USERS_OF_MEGATRON, syntax_trees(), strict=True)
        if any(path.startswith("megatron.training") for path in aliases(tree).values())
    }
    assert {str(Path(name).parent) for name in users} == {"training/cpu", "training/trainer"}


@pytest.mark.parametrize("path", imports_of_megatron())
def test_imported_names_exist(path: str) -> None:
    find(path)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path: str) -> None:
    wanted = SIGNATURES[path].split()
    parameters = list(inspect.signature(find(path)).parameters)
    assert parameters[: len(wanted)] == wanted, f"{path} now takes {parameters}"


def test_names_used_and_replaced_exist() -> None:
    paths = sorted(attributes_of_megatron() | set(SET_BY_NAME))
    assert len(paths) > 30
    strategies = "megatron.core.dist_checkpointing.strategies"
    assert f"{strategies}.async_utils.PersistentAsyncCaller._persistent_process" in paths
    assert f"{strategies}.filesystem_async._results_queue" in paths
    assert not failures(find, [(path,) for path in paths])


def test_calls_fit() -> None:
    calls = [(path, find(path), call) for path, call in calls_of_megatron()]
    assert len(calls) > 20
    assert not failures(check_call, calls)


def failures(check: Callable[..., object], cases: list[tuple[Any, ...]]) -> list[str]:
    """The messages of all checks that fail."""
    found = []
    for case in cases:
        try:
            check(*case)
        except AssertionError as error:
            found.append(str(error))
    return found


def test_a_change_is_named() -> None:
    (call,) = (node for node in ast.walk(ast.parse("f(1, b=2)")) if isinstance(node, ast.Call))
    check_call("megatron.f", lambda a, b, c=3: None, call)
    for changed in (lambda a: None, lambda a, b, new: None, lambda a, c: None):
        with pytest.raises(AssertionError, match=r"megatron\.f now takes"):
            check_call("megatron.f", changed, call)
    with pytest.raises(AssertionError, match="'pretrained' is gone"):
        find("megatron.training.training.pretrained")


def test_dataset_options_are_fields_and_arguments(defaults: dict[str, Any]) -> None:
    from megatron_srp.training.datasets.providers import DATASET_OPTIONS

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
    # These come after parsing: from Megatron's trainer, and from ours.
    assert read <= {*defaults, "iteration", "curr_iteration", "consumed_train_samples", "srp_data"}


@pytest.mark.parametrize("flag", sorted(set(LOOKED_AT) - {"--help"}))
def test_flags_looked_at_early_are_megatrons(flag: str, parser: argparse.ArgumentParser) -> None:
    """`command_line.look_at` reads them as Megatron's own parser does."""
    ours = argparse.ArgumentParser()
    action = ours.add_argument(flag, **LOOKED_AT[flag])  # type: ignore[arg-type]
    theirs = parser._option_string_actions[flag]
    assert action.dest == theirs.dest
    assert (action.nargs == 0) == (theirs.nargs == 0)
    assert (action.nargs == "*") == (theirs.nargs == "*")
    assert action.type in (theirs.type, None) or theirs.type is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_megatrons_flags(name: str, parser: argparse.ArgumentParser) -> None:
    preset = PRESETS[name]
    argv = add_defaults(cpu_backend.default_flags(), expand_flags(["--srp-preset", name]))
    args = parser.parse_args(argv)  # an unknown flag or a wrong type raises UsageError
    assert (args.num_layers, args.hidden_size) == (preset.num_layers, preset.hidden_size)
    assert args.swiglu and args.normalization == "RMSNorm" and not args.add_bias_linear
    assert args.untie_embeddings_and_output_weights == (not preset.tied_embeddings)
    assert args.bf16 == preset.recipe.bf16


def test_help_works() -> None:
    from megatron_srp.training.trainer.megatron_parser import prepare_parser

    add_arguments = find("megatron.training.arguments.add_megatron_arguments")
    text = prepare_parser(add_arguments(argparse.ArgumentParser(allow_abbrev=False))).format_help()
    assert "--srp-preset NAME" in text


@pytest.mark.parametrize("name", PRESETS)
def test_our_flops_are_megatrons(name: str, parser: argparse.ArgumentParser) -> None:
    preset = PRESETS[name]
    args = parser.parse_args(preset.to_flags())
    args.kv_channels = preset.head_size
    args.padded_vocab_size = preset.vocab_size
    flops = find("megatron.training.training.num_floating_point_operations")(args, 1)
    assert flops_per_token(preset) == pytest.approx(flops / preset.recipe.seq_length, rel=1e-9)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (4, 4)])
def test_our_memory_of_states_is_megatrons(
    name: str, tensor: int, pipeline: int, parser: argparse.ArgumentParser
) -> None:
    preset = dataclasses.replace(PRESETS[name], recipe=dataclasses.replace(PRESETS[name].recipe, bf16=True))
    layout = Layout(gpus=64, tensor=tensor, pipeline=pipeline, expert=4 if preset.experts else 1)
    args = parser.parse_args([*preset.to_flags(), *layout.to_flags(), "--use-distributed-optimizer"])
    args.kv_channels = preset.head_size
    args.padded_vocab_size = padded_vocab_size(preset, layout)
    args.world_size, args.data_parallel_size = layout.gpus, layout.data
    args.expert_tensor_parallel_size = args.expert_tensor_parallel_size or tensor
    theirs = find("megatron.training.theoretical_memory_usage.compute_weight_and_optimizer_memory")(args)
    ours = estimate_memory(preset, layout)
    # Megatron leaves out the norms of queries and keys.
    close = 1e-5 if preset.qk_norm else 1e-6
    assert ours.weights + ours.gradients + ours.optimizer == pytest.approx(theirs, rel=close)
