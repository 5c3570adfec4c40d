"""Products in half precision with weights that are packed once, in the blocks that oneDNN's kernels read.

PyTorch's layers pack the weights at every call. oneDNN, the library behind them, can also apply an activation or a product to its
output before writing it to memory. PyTorch's own compiler uses the same functions for frozen models.
"""

import torch
from torch import Tensor, nn

from .half import HALF


def can_pack(dtype: torch.dtype) -> bool:
    """Whether to pack weights of this dtype: half precision for which this CPU has instructions, outside compiled blocks."""
    ops, cpu = torch.ops.mkldnn, torch.cpu
    if dtype not in HALF or torch.compiler.is_compiling() or not torch.backends.mkldnn.is_available():
        return False
    if torch._C._len_torch_function_stack() > 0:  # as in `half.InFloat32`
        return False
    if dtype == torch.bfloat16:
        return ops._is_mkldnn_bf16_supported() and (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return ops._is_mkldnn_fp16_supported()


def pack_convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The weights of a convolution, packed for inputs of the size of x."""
    pack, weight = torch._C._nn.mkldnn_reorder_conv2d_weight, conv.weight.detach().to_mkldnn()
    return pack(weight, conv.padding, conv.stride, conv.dilation, conv.groups, [*x.shape])  # type: ignore[call-arg, arg-type]


def convolution(conv: nn.Conv2d, x: Tensor, packed: Tensor) -> Tensor:
    """The convolution of x, (B, C, h, w) with channels last in memory."""
    window = conv.padding, conv.stride, conv.dilation
    return torch.ops.mkldnn._convolution_pointwise(x, packed, conv.bias, *window, conv.groups, "none", [], "")


def pack_linear(weight: Tensor, x: Tensor) -> Tensor:
    """Weights (O, C), packed for inputs x (…, C)."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), x.numel() // x.shape[-1])


def linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """x (…, C) → (…, O), by PyTorch's linear layer followed by an activation: "none" or, exactly, "gelu"."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "none" if activation == "gelu" else "")


def linear_times(x: Tensor, other: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The output of a linear layer, multiplied by `other` (…, O) element by element."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, bias, "mul")
