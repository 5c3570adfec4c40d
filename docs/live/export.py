"""The package's networks as ONNX: text encoder, UNet, VAE encoder and decoder, with the sizes left open.

Weights are stored as the package stores them, in float16, and become float32 on loading; all arithmetic is float32. The UNet has
one input more than in Python, a factor for each word's attention (all 1 changes nothing), and one output more for each level: where
the words are read (see `minisd.attention_maps`).
"""

import io

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from weights import low_rank, move_out

from minisd.attention_maps import attention_maps, cross_attentions

OPSET = 18


class TextEncoder(nn.Module):
    def __init__(self, pipe):
        super().__init__()
        self.network = pipe.text_encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.network(ids).last_hidden_state


class UNet(nn.Module):
    """ε, and for each level the attention (2B, T, 77) of its positions to the words."""

    def __init__(self, pipe):
        super().__init__()
        self.network = pipe.unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor, word_scale: Tensor) -> tuple[Tensor, ...]:
        with attention_maps(self.network, word_scale) as maps:
            eps = self.network(x, t, encoder_hidden_states=context).sample
            return (eps, *(maps.rows(0, level) for level in maps.levels))


class Encoder(nn.Module):
    """An image in -1 to 1 to mean and standard deviation of its latents, both scaled."""

    def __init__(self, pipe):
        super().__init__()
        self.network, self.scaling_factor = pipe.vae, pipe.vae.config.scaling_factor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.network.encode(image).latent_dist
        return self.scaling_factor * latents.mean, self.scaling_factor * latents.std


class Decoder(nn.Module):
    """Latents, still scaled, to an image in about -1 to 1."""

    def __init__(self, pipe):
        super().__init__()
        self.network, self.scaling_factor = pipe.vae, pipe.vae.config.scaling_factor

    def forward(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents / self.scaling_factor).sample


def networks(pipe) -> tuple[dict[str, bytes], dict]:
    """The files of the page: four graphs, the UNet's weights and its LoRA. And where the LoRA belongs.

    Examples have a batch of 1, because the UNet expands t to the length of the batch, which tracing takes for a constant: an
    expansion to 1 broadcasts to every batch, as long as all its images are at the same time.
    """
    side, words = pipe.unet.config.sample_size, pipe.tokenizer.model_max_length
    x = torch.randn(1, pipe.unet.config.in_channels, side, side)
    context = torch.randn(1, words, pipe.unet.config.cross_attention_dim)
    image = torch.randn(1, 3, *[side * 2 ** (len(pipe.vae.config.block_out_channels) - 1)] * 2)
    ids, t, ones = torch.zeros(1, words, dtype=torch.long), torch.tensor([500.0]), torch.ones(1, words)
    attention = [f"attention_{level}" for level in sorted({level for level, _ in cross_attentions(pipe.unet)})]
    graphs = {
        "text_encoder": in_half(export(TextEncoder(pipe), {"ids": ids}, ["context"])),
        "unet": export(UNet(pipe), {"x": x, "t": t, "context": context, "word_scale": ones}, ["eps", *attention]),
        "encoder": in_half(export(Encoder(pipe), {"image": image}, ["mean", "std"])),
        "decoder": in_half(export(Decoder(pipe), {"latents": x}, ["image"])),
    }
    weights = move_out(graphs["unet"])
    pipe.load_lora_weights("tiny")
    lora, factors = low_rank(pipe.unet, weights, graphs["unet"])
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    return files | {"weights": weights.tobytes(), "lora": factors.tobytes()}, lora


def export(network: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """Trace a network with example inputs; the batch and the size of latents stay open."""
    file = io.BytesIO()
    torch.onnx.export(
        network.eval(),
        tuple(inputs.values()),
        file,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_axes={name: {0: "B"} | ({2: "h", 3: "w"} if x.ndim == 4 else {}) for name, x in inputs.items() if name != "t"},
        opset_version=OPSET,
        dynamo=False,  # the tracer: smaller graphs, and minutes faster than torch.export
    )
    return onnx.load_from_string(file.getvalue())


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every weight that float16 holds exactly by its float16 form and a cast, which the runtime folds on loading."""
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or (array := numpy_helper.to_array(weight)).size < 64:
            continue
        half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32), array):
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(half, name + ".half"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model
