"""Weight gradients added to those of earlier micro-batches by the matrix product itself, with nothing but PyTorch.

Megatron takes this from an extension of NVIDIA's Apex, which no package registry has; without, it keeps a gradient
in bf16 and adds it to the sum in a step of its own. Here are the extension's functions, under its name:

    failure = install(device)       # before anything of Megatron is imported

Shapes: t tokens, i inputs and o outputs of the layer.
"""

import sys
from importlib.util import find_spec

import torch

NAME = "fused_weight_gradient_mlp_cuda"  # of Apex's extension


def wgrad_gemm_accum_fp32(inputs: torch.Tensor, grad_output: torch.Tensor, main_grad: torch.Tensor) -> None:
    """Add `grad_output.T @ inputs` to `main_grad`, summed and rounded in fp32.

    Args:
        inputs: [t, i], of the layer.
        grad_output: [t, o], of the same type.
        main_grad: fp32[o, i], changed in place.
    """
    if inputs.dtype == main_grad.dtype:
        main_grad.addmm_(grad_output.t(), inputs)
    else:  # since PyTorch 2.8, on a GPU
        torch.addmm(main_grad, grad_output.t(), inputs, out_dtype=torch.float32, out=main_grad)


def wgrad_gemm_accum_fp16(inputs: torch.Tensor, grad_output: torch.Tensor, main_grad: torch.Tensor) -> None:
    """The same where the gradients' sums are kept in the type of the weights, fp16 or bf16."""
    main_grad.addmm_(grad_output.t(), inputs)


def install(device: torch.device | str) -> str | None:
    """Give Megatron these functions, unless Apex has them; returns why not, None if gradients can be fused."""
    if find_spec(NAME) is not None:
        return None
    failure = failure_on(device)
    if failure is None:
        sys.modules[NAME] = sys.modules[__name__]
    return failure


def failure_on(device: torch.device | str) -> str | None:
    """What this PyTorch cannot do on that device, in one line, found by trying it; None if it can."""
    try:
        ones = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
        total = torch.ones(16, 16, device=device)
        wgrad_gemm_accum_fp32(ones, ones, total)
        return None if bool((total == 17).all()) else "the sum is wrong"
    except (RuntimeError, TypeError, AssertionError) as error:  # of many kinds, by version and device
        return str(error).strip().partition("\n")[0][:120]
