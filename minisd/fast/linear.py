"""Linear layers in half precision on a CPU: packed weights, and the UNet's feed-forward layer in fewer passes over memory."""

from torch import Tensor, nn

from ..unet import FeedForward
from .copies import WithCopy, computes_plainly
from .packed import can_pack, linear, linear_times, pack_linear


class FastLinear(WithCopy, nn.Linear):
    """A linear layer with packed weights in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        if not applies_to(self, x):
            return super().forward(x)
        return linear(x, self.copy_of(self.weight, lambda weight: pack_linear(weight, x)), self.bias)


class FastFeedForward(WithCopy, FeedForward):
    """GEGLU as two products: the gate's output goes through GELU, and the value's is multiplied by it, before they reach memory."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.proj_in
        changed = type(layer) is not FastLinear or layer._forward_hooks or layer._forward_pre_hooks  # by a LoRA, for example
        if changed or not applies_to(layer, x):
            return super().forward(x)
        packed_value, packed_gate = self.copy_of(layer.weight, lambda w: [pack_linear(half, x) for half in w.chunk(2)])
        value_bias, gate_bias = layer.bias.chunk(2)
        gate = linear(x, packed_gate, gate_bias, "gelu")
        return self.proj_out(linear_times(x, gate, packed_value, value_bias))


def applies_to(layer: nn.Linear, x: Tensor) -> bool:
    return can_pack(x.dtype) and computes_plainly(x, layer.weight) and not layer.weight.is_inference()
