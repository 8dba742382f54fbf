"""Megatron Bridge's own trainer on the CPU backend: `PYTHON bridge_on_cpu.py train NUM_STEPS SAVE DATA_PATH...`.

Bridge imports Transformer Engine for its LoRA layers, whether they are used or not. They get empty classes here; its
models and its optimizer see that there is none.
"""

import builtins
import sys
from types import ModuleType
from typing import Any

NEEDS_ENGINE = "megatron.bridge.peft.lora_layers"
LENGTH = 128


class EmptyModule(ModuleType):
    """Modules and classes of any name, which do nothing."""

    def __getattr__(self, name: str) -> Any:
        import torch

        if name.startswith("__"):
            raise AttributeError(name)
        return EmptyModule(name) if name[0].islower() else type(name, (torch.nn.Module,), {})


def stand_in_for_the_engine() -> None:
    plain, engine = builtins.__import__, EmptyModule("transformer_engine")

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if name.partition(".")[0] != engine.__name__ or level:
            return plain(name, globals, locals, fromlist, level)
        if (globals or {}).get("__name__") != NEEDS_ENGINE:
            raise ModuleNotFoundError(name)
        return engine

    builtins.__import__ = import_


def prepare() -> None:
    """The CPU backend, as `srp run` brings it, and the parts of Bridge that need more."""
    from megatron_srp.training.cpu import backend, checkpoints

    backend.install()
    stand_in_for_the_engine()
    from megatron_srp.training.trainer import patches

    patches.skip_compilation()
    backend.patch_megatron()
    checkpoints.write_checkpoints_in_process()


def configuration(data_path: list[str], steps: int, save: str | None) -> Any:
    """The `debug` preset with layers that a CPU has."""
    from megatron.bridge.models.gpt_provider import local_layer_spec

    from megatron_srp.training.host.bridge_recipes import pretrain_config

    config = pretrain_config("debug", data_path, save=save)
    config.model.transformer_layer_spec, config.model.use_cpu_initialization = local_layer_spec, True
    for part in ("masked_softmax", "bias_dropout", "bias_activation", "cross_entropy_loss", "gradient_accumulation"):
        setattr(config.model, f"{part}_fusion", False)
    config.model.persist_layer_norm = config.model.apply_rope_fusion = False
    config.dist.distributed_backend = "gloo"
    config.train.train_iters, config.train.micro_batch_size, config.train.global_batch_size = steps, 2, 4
    config.scheduler.lr_decay_iters, config.scheduler.lr_wsd_decay_iters = 10, 1
    config.model.seq_length = config.dataset.seq_length = LENGTH
    config.dataset.num_workers = 0
    config.logger.log_interval, config.checkpoint.save_interval = 1, 2
    config.checkpoint.dist_ckpt_optim_fully_reshardable = True
    return config


def train(steps: int, save: str, data_path: list[str]) -> None:
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    pretrain(configuration(data_path, steps, save), forward_step)


def export(checkpoints: str, reference: str, out: str) -> None:
    """With AutoBridge, from the `run_config.yaml` in the newest of the checkpoints."""
    from megatron.bridge import AutoBridge

    AutoBridge.from_auto_config(checkpoints, reference).export_ckpt(checkpoints, out, show_progress=False)


def describe(data_path: str, *presets: str) -> None:
    """Print the sizes of recipes."""
    from megatron_srp.training.host.bridge_recipes import pretrain_config

    for preset in presets:
        config = pretrain_config(preset, [data_path], gpus=64)
        print("recipe", preset, config.model.num_layers, config.model.hidden_size, config.train.global_batch_size)


if __name__ == "__main__":
    prepare()
    command, *words = sys.argv[1:]
    if command == "train":
        train(int(words[0]), words[1], words[2:])
    elif command == "export":
        export(*words)
    else:
        describe(*words)
