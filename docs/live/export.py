"""The package's networks as ONNX: text encoder, UNet, VAE encoder and decoder, with the sizes left open.

Weights are stored as the package stores them, in float16, and become float32 on loading; all arithmetic is float32. The UNet has
one input more than in Python, a factor for each word's attention (all 1 changes nothing), and one output more for each level: where
the words are read (see `minisd.attention_maps`).
"""

import io
import tempfile

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from weights import low_rank, move_out, planes

from minisd.attention_maps import attention_maps, cross_attentions
from minisd.cuda_noise import CudaNoise

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
    """The files of the page, and facts about them.

    The files are the graph and the weights of each network, and the factors of the UNet's LoRA. The facts say where these factors
    belong, and what the UNet predicts with and without them.

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
        "text_encoder": export(TextEncoder(pipe), {"ids": ids}, ["context"]),
        "unet": export(UNet(pipe), {"x": x, "t": t, "context": context, "word_scale": ones}, ["eps", *attention]),
        "encoder": export(Encoder(pipe), {"image": image}, ["mean", "std"]),
        "decoder": export(Decoder(pipe), {"latents": x}, ["image"]),
    }
    weights = {name: move_out(graph) for name, graph in graphs.items()}
    expected = {"plain": prediction(pipe)}
    pipe.load_lora_weights("tiny")
    expected["fast"] = prediction(pipe)
    lora, factors = low_rank(pipe.unet, graphs["unet"], weights["unet"])
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files |= {f"{name}_weights": planes(numbers) for name, numbers in weights.items()}
    return files | {"lora": planes(factors)}, {"lora": lora, "expected": expected, "empty": pipe.tokenizer.encode("")}


def prediction(pipe) -> list[float]:
    """ε for the noise of seed 0 at t = 500, without words; program/networks.js only uses a GPU that computes the same."""
    side = pipe.unet.config.sample_size
    noise = CudaNoise(0).randn((1, pipe.unet.config.in_channels, side, side))
    context = pipe.text_encoder(torch.tensor([pipe.tokenizer.encode("")])).last_hidden_state
    eps = pipe.unet(noise, torch.tensor([500.0]), encoder_hidden_states=context).sample
    return [round(value, 5) for value in eps.flatten().tolist()]


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
    return simplified(file.getvalue())


def simplified(graph: bytes) -> onnx.ModelProto:
    """Fold constants and remove nodes that change nothing, here, because in the browser it takes seconds."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/graph.onnx"
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
