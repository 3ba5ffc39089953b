"""What does it cost? Parameters and FLOPs, as PyTorch itself counts them.

Formulas are checked against these counts; these counts are never computed from formulas.

Names: `count_parameters`, `count_flops`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# PyTorch's counter knows the fused attention of GPUs, but not that of the CPU, which would count as free.
_FUSED_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad_out, query, key, value, *_, **__: sdpa_backward_flop_count(grad_out, query, key, value)
    ),
}


def count_parameters(module: nn.Module) -> int:
    """Count the learned numbers of a module; a tensor that is used twice counts once.

    Source: `torch.nn.Module.parameters`, which lists a shared tensor once.
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(function: Callable[..., object], *inputs: Tensor) -> int:
    """Count the floating-point operations of the matrix products in one call, two for each multiply-add.

    Element-wise work (activations, biases, softmax) is left out, as is usual for this measure: it moves memory rather
    than arithmetic units. Fused attention counts as its two matrix products (its backward pass as five, since it makes
    the scores again), whatever its mask says.

    Raises: ValueError if the call made no matrix product at all, since zero would then mean "not counted".
    Source: `torch.utils.flop_counter.FlopCounterMode`, with the fused attention of the CPU, which it leaves out.
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        function(*inputs)
    total = counter.get_total_flops()
    if total == 0:
        raise ValueError(
            "FLOPs are counted in matrix products, and this call made 0 of them; pass a function that multiplies "
            "matrices, and inputs with at least one token"
        )
    return total
