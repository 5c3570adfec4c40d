"""The table of contents of each network: every tensor's minisd name and shape, as its configuration has them.

Configurations are the JSON of a diffusers folder. With this a file is checked by its header, before any network exists.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .files import CheckpointError

Shapes = dict[str, tuple[int, ...]]

# What a CLIP's configuration means by saying nothing: transformers has left out, at times, what is as in its smallest CLIP.
TEXT_DEFAULTS = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 224, "patch_size": 32,
}  # fmt: skip


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    """A linear layer's weight is (out, in), a convolution's (out, in, k, k), a norm's (channels,)."""
    return {f"{name}.weight": weight} | ({f"{name}.bias": weight[:1]} if bias else {})


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def numbered(prefix: str, many: list[Shapes]) -> Shapes:
    return {name: shape for i, shapes in enumerate(many) for name, shape in under(f"{prefix}.{i}", shapes).items()}


def attention(dim: int, context: int | None = None, bias: bool = False) -> Shapes:
    q, out = layer("to_q", dim, dim, bias=bias), layer("to_out", dim, dim)
    return q | layer("to_k", dim, context or dim, bias=bias) | layer("to_v", dim, context or dim, bias=bias) | out


def resnet(before: int, width: int, temb: int | None = None) -> Shapes:
    first = layer("norm1", before) | layer("conv1", width, before, 3, 3)
    time = layer("time_emb_proj", width, temb) if temb else {}
    shortcut = layer("conv_shortcut", width, before, 1, 1) if before != width else {}
    return first | time | layer("norm2", width) | layer("conv2", width, width, 3, 3) | shortcut


def spatial_transformer(dim: int, context: int) -> Shapes:
    norms = layer("norm1", dim) | layer("norm2", dim) | layer("norm3", dim)
    attentions = under("attn1", attention(dim)) | under("attn2", attention(dim, context))
    ff = under("ff", layer("proj_in", 8 * dim, dim) | layer("proj_out", dim, 4 * dim))
    return layer("norm", dim) | layer("proj_in", dim, dim) | under("block", norms | attentions | ff) | layer("proj_out", dim, dim)


def unet(config: Mapping[str, Any]) -> Shapes:
    widths, layers, context = config["block_out_channels"], config.get("layers_per_block", 2), config["cross_attention_dim"]
    temb = 4 * widths[0]
    cross = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]

    def level(i: int, before: list[int]) -> Shapes:
        attentions = [spatial_transformer(widths[i], context)] * len(before) if cross[i] else []
        return numbered("resnets", [resnet(b, widths[i], temb) for b in before]) | numbered("attentions", attentions)

    def resample(name: str, i: int) -> Shapes:
        return layer(f"{name}.conv", widths[i], widths[i], 3, 3)

    last = len(widths) - 1
    downs, ups, skips, below = [], [], [widths[0]], widths[-1]
    for i, width in enumerate(widths):
        downs.append(level(i, [skips[-1]] + [width] * (layers - 1)) | (resample("downsample", i) if i < last else {}))
        skips += [width] * (layers + (i < last))
    for i in reversed(range(len(widths))):
        before = [x + skips.pop() for x in [below] + [widths[i]] * layers]
        ups.append(level(i, before) | (resample("upsample", i) if i > 0 else {}))
        below = widths[i]
    bottom = resnet(below := widths[-1], below, temb)
    mid = under("resnet_1", bottom) | under("attention", spatial_transformer(below, context)) | under("resnet_2", bottom)
    time = layer("linear_1", temb, widths[0]) | layer("linear_2", temb, temb)
    ends = layer("conv_in", widths[0], config.get("in_channels", 4), 3, 3) | layer("conv_norm_out", widths[0])
    ends |= layer("conv_out", config.get("out_channels", 4), widths[0], 3, 3)
    return (
        under("time_embedding", time) | ends | numbered("down_blocks", downs) | under("mid_block", mid) | numbered("up_blocks", ups)
    )


def vae(config: Mapping[str, Any]) -> Shapes:
    widths, layers, z = config["block_out_channels"], config.get("layers_per_block", 1), config.get("latent_channels", 4)

    def half(widths: list[int], layers: int, channels: int, out: int, blocks: str, resample: str) -> Shapes:
        levels = []
        for i, (before, width) in enumerate(pairwise([widths[0], *widths])):
            resnets = numbered("resnets", [resnet(b, width) for b in [before] + [width] * (layers - 1)])
            levels.append(resnets | (layer(f"{resample}.conv", width, width, 3, 3) if i < len(widths) - 1 else {}))
        deepest = widths[-1] if blocks == "down_blocks" else widths[0]
        bottom = under("resnet_1", resnet(deepest, deepest)) | under("resnet_2", resnet(deepest, deepest))
        bottom |= under("attention", layer("norm", deepest) | under("attn", attention(deepest, bias=True)))
        ends = (
            layer("conv_in", widths[0], channels, 3, 3)
            | layer("conv_norm_out", widths[-1])
            | layer("conv_out", out, widths[-1], 3, 3)
        )
        return ends | under("mid_block", bottom) | numbered(blocks, levels)

    encoder = half(widths, layers, config.get("in_channels", 3), 2 * z, "down_blocks", "downsample")
    decoder = half(widths[::-1], layers + 1, z, config.get("out_channels", 3), "up_blocks", "upsample")
    quant = layer("quant_conv", 2 * z, 2 * z, 1, 1) | layer("post_quant_conv", z, z, 1, 1)
    return under("encoder", encoder) | quant | under("decoder", decoder)


def transformer_blocks(config: Mapping[str, Any]) -> Shapes:
    dim, inner = config["hidden_size"], config["intermediate_size"]
    block = layer("norm1", dim) | under("attn", attention(dim, bias=True)) | layer("norm2", dim)
    return numbered("blocks", [block | layer("fc1", inner, dim) | layer("fc2", dim, inner)] * config["num_hidden_layers"])


def text_encoder(config: Mapping[str, Any]) -> Shapes:
    config = TEXT_DEFAULTS | config.get("text_config", config)
    dim = config["hidden_size"]
    embeddings = layer("token_embedding", config["vocab_size"], dim, bias=False)
    embeddings |= layer("position_embedding", config.get("max_position_embeddings", 77), dim, bias=False)
    return embeddings | transformer_blocks(config) | layer("final_norm", dim)


def safety_checker(config: Mapping[str, Any]) -> Shapes:
    vision, out = VISION_DEFAULTS | config["vision_config"], config["projection_dim"]
    dim, patch = vision["hidden_size"], vision["patch_size"]
    tower = {"class_embedding": (dim,)} | layer("patch_embedding", dim, 3, patch, patch, bias=False)
    tower |= layer("position_embedding", 1 + (vision["image_size"] // patch) ** 2, dim, bias=False)
    tower |= layer("pre_norm", dim) | transformer_blocks(vision) | layer("post_norm", dim)
    concepts = {"concept_embeds": (17, out), "concept_thresholds": (17,)}
    concepts |= {"special_care_embeds": (3, out), "special_care_thresholds": (3,)}
    return under("vision", tower) | layer("visual_projection", out, dim, bias=False) | concepts


NETWORKS = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "safety_checker": safety_checker}


def shapes_of(part: str, config: Mapping[str, Any]) -> Shapes:
    """The shapes of one part. Raises CheckpointError if its config.json does not say enough."""
    try:
        return NETWORKS[part](config)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the {part}'s config.json is incomplete or wrong: {type(error).__name__}: {error}") from error


def expected_shapes(configs: Mapping[str, Mapping[str, Any]]) -> Shapes:
    """The shapes of all parts by their names in a minisd checkpoint, "unet.conv_in.weight"; `configs` has a JSON for each part."""
    return {name: shape for part, config in configs.items() for name, shape in under(part, shapes_of(part, config)).items()}
