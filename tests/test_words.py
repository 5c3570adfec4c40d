"""Prompts that are more than text: weights, chunks, fewer CLIP layers, states made elsewhere; and guidance_rescale."""

import pytest
import torch
from helpers import PROMPTS, Watched, distance, draw, randn, small_pipeline

from minisd import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from minisd.pipeline import rescale
from minisd.words.chunks import weighted_tokens
from minisd.words.embed import embed
from minisd.words.emphasis import sections


@pytest.fixture
def pipe(kind) -> StableDiffusionPipeline:
    return small_pipeline(kind)


# Weights

PIECES = {  # as AUTOMATIC1111's web interface reads them
    "a red ball": [("a red ball", 1.0)],
    "": [],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "((very)) [less] [[still less]]": [("very", 1.21), (" ", 1.0), ("less", 1 / 1.1), (" ", 1.0), ("still less", 1 / 1.21)],
    "(a cat:1.3) and (a dog :  .5 )": [("a cat", 1.3), (" and ", 1.0), ("a dog ", 0.5)],
    "(never closed": [("never closed", 1.1)],
    "never opened)": [("never opened)", 1.0)],
    r"\(literal\] \\ (b\)c:2)": [(r"(literal] \ ", 1.0), ("b)c", 2.0)],
    "(one)(word)": [("oneword", 1.1)],
    "ratio 3:4, (a:b:2), [c:2)": [("ratio 3:4, ", 1.0), ("a:b", 2.0), (", ", 1.0), ("c:2)", 1 / 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
        ("sky", 1.4641), (".", 1.1),
    ],
    "(a [b) c] d": [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1), (" d", 1.0)],
    "(x:1.2.3) (y:-1)": [("x:1.2.3", 1.1), (" ", 1.0), ("y", -1.0)],
}  # fmt: skip


@pytest.mark.parametrize("prompt", PIECES)
def test_brackets_are_weights(prompt):
    (pieces,) = sections(prompt)
    assert [text for text, _ in pieces] == [text for text, _ in PIECES[prompt]]
    assert [weight for _, weight in pieces] == pytest.approx([weight for _, weight in PIECES[prompt]])


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a [red:blue:0.5] ball [cat : 10]", "[red:blue:0.5], [cat : 10]"),
        ("a [red|blue] ball AND a cat :1.2", "[red|blue], AND"),
        ("a cat, <lora:axe:0.7> (red [blue|red]:1.2)", "<lora:axe:0.7>, [blue|red]"),
        ("a [[red]] ball and sand [ratio 3:4 here] \\[a|b] [(c:1.2)] <3", None),
    ],
)
def test_syntax_of_web_interfaces_that_is_not_read_is_named(prompt, named, recwarn):
    pipe = small_pipeline("v1")
    embed(pipe, "a cat", prompt, prompt_weighting=True)
    said = [str(warning.message) for warning in recwarn]
    assert said == ([f"{named} in a prompt is not implemented and is read as plain text"] if named else [])
    embed(pipe, "a cat", prompt)
    assert len(recwarn) == len(said)


def test_break_ends_a_section():
    assert sections("a cat BREAK (a dog BREAK hat), BREAKFAST") == [
        [("a cat", 1.0)],
        [("a dog", 1.1)],
        [("hat", 1.1), (", BREAKFAST", 1.0)],
    ]


def test_weights_multiply_the_states_and_keep_their_mean(pipe):
    states = embed(pipe, "a (red:1.5) [cat]", None, prompt_weighting=True)[0]
    plain = pipe.encode_prompt(["a red cat"])
    weights = torch.ones(1, 77, 1)
    weights[0, 2], weights[0, 3] = 1.5, 1 / 1.1
    expected = plain * weights * (plain.mean() / (plain * weights).mean())
    torch.testing.assert_close(states, expected)
    assert distance(states, plain) > 1e-2


def test_without_brackets_nothing_changes(pipe):
    """Also at the end of two prompts of different lengths in one batch."""
    states, negative = embed(pipe, PROMPTS, ["a red ball", ""], prompt_weighting=True)
    torch.testing.assert_close(states, pipe.encode_prompt(PROMPTS))
    torch.testing.assert_close(negative, pipe.encode_prompt(["a red ball", ""]))
    assert torch.equal(draw(pipe, "a (red) ball"), draw(pipe, "a (red) ball", prompt_weighting=False))


# Chunks


def chunks(pipe: StableDiffusionPipeline, prompt: str) -> list[str]:
    """The texts of the chunks, with start, end and padding checked."""
    tokenizer, ids = pipe.tokenizer, [token for token, _ in weighted_tokens(pipe.tokenizer, prompt)]
    assert len(ids) % 77 == 0
    texts = []
    for row in (ids[i : i + 77] for i in range(0, len(ids), 77)):
        end = row.index(tokenizer.end_id)
        assert row[0] == tokenizer.start_id and set(row[end + 1 :]) <= {tokenizer.pad_id}
        texts.append(tokenizer.bpe.decode(row[1:end]).replace("</w>", " ").strip())
    return texts


CHUNKS = {
    "": [""],
    "a " * 75: ["a " * 75],
    "a " * 76: ["a " * 75, "a"],
    "a " * 160: ["a " * 75, "a " * 75, "a " * 10],
    "a " * 60 + ", " + "cat " * 20: ["a " * 60 + ",", "cat " * 20],  # moved: the comma is among the last 20
    "a " * 55 + ", " + "cat " * 20: ["a " * 55 + ",", "cat " * 20],
    "a " * 54 + ", " + "cat " * 21: ["a " * 54 + ", " + "cat " * 20, "cat"],  # not among them
    "a " * 75 + ", cat": ["a " * 75, ", cat"],
    "a " * 60 + ", " + "a " * 14 + ", cat": ["a " * 60 + ", " + "a " * 14, ", cat"],  # full where a comma follows
    "a cat BREAK a horse": ["a cat", "a horse"],
    "BREAK a horse": ["", "a horse"],
    "a cat BREAK": ["a cat"],
    "BREAK": [""],
}


@pytest.mark.parametrize("prompt", CHUNKS, ids=range(len(CHUNKS)))
def test_long_prompts_are_read_in_chunks(pipe, prompt):
    assert [text.split() for text in chunks(pipe, prompt)] == [text.split() for text in CHUNKS[prompt]]


def test_each_chunk_is_read_on_its_own_and_the_shorter_prompt_is_filled_up(pipe):
    states, negative = embed(pipe, ["a cat BREAK a red ball", "a horse"], ["", "blue"], prompt_weighting=True)
    assert states.shape == negative.shape == (2, 154, 48)
    for row, (one, two) in zip([*states, *negative], [("a cat", "a red ball"), ("a horse", ""), ("", ""), ("blue", "")]):
        torch.testing.assert_close(row, torch.cat([*pipe.encode_prompt([one, two])]))


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_a_long_prompt_draws_and_its_end_counts(pipe, scale):
    watched, long = Watched(pipe), "a photograph of " * 30
    one, two = (draw(pipe, long + end, guidance_scale=scale, prompt_weighting=True) for end in ("a horse", "a cat"))
    assert watched.context.shape[1] == 154 and distance(one, two) > 1e-3


# CLIP's last layers


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_clip_skip_is_the_state_of_an_earlier_layer_with_the_final_norm(pipe, skip):
    kept, text = [], pipe.text_encoder
    hook = text.blocks[len(text.blocks) - 1 - skip].register_forward_hook(lambda module, given, out: kept.append(out))
    pipe.encode_prompt(PROMPTS)
    hook.remove()
    assert torch.equal(embed(pipe, PROMPTS, None, clip_skip=skip)[0], text.final_norm(kept[0]))
    assert len(text.blocks) == 3


def test_the_negative_prompt_keeps_all_layers_but_in_web_interfaces(pipe):
    """diffusers' convention, and AUTOMATIC1111's."""
    plain, skipped = pipe.encode_prompt([""]), embed(pipe, "", None, clip_skip=1)[0]
    assert torch.equal(embed(pipe, "a cat", None, clip_skip=1)[1], plain)
    assert torch.equal(embed(pipe, "a cat", None, clip_skip=1, prompt_weighting=True)[1], skipped)


def test_clip_skip_changes_the_picture(pipe):
    assert distance(draw(pipe), draw(pipe, clip_skip=1)) > 1e-3
    assert torch.equal(draw(pipe), draw(pipe, clip_skip=0))


# States made elsewhere


def test_states_replace_prompts(pipe):
    text = draw(pipe, PROMPTS, negative_prompt=["a horse", ""], num_images_per_prompt=2)
    states = {"prompt_embeds": pipe.encode_prompt(PROMPTS), "negative_prompt_embeds": pipe.encode_prompt(["a horse", ""])}
    assert torch.equal(draw(pipe, None, **states, num_images_per_prompt=2), text)
    assert torch.equal(
        draw(pipe, None, prompt_embeds=states["prompt_embeds"], negative_prompt=["a horse", ""], num_images_per_prompt=2), text
    )
    assert torch.equal(draw(pipe, PROMPTS, negative_prompt_embeds=states["negative_prompt_embeds"], num_images_per_prompt=2), text)


def test_words_work_from_a_picture_too():
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(small_pipeline("v1"))
    picture, generator = randn(1, 3, 64, 64).clamp(-1, 1) / 2 + 0.5, torch.Generator
    one, two = (
        pipe(prompt, picture, num_inference_steps=4, output_type="latent", generator=generator().manual_seed(0), **more).images
        for prompt, more in (("a cat", {}), (None, {"prompt_embeds": pipe.encode_prompt(["a cat"])}))
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"prompt": None}, TypeError, "prompt must be a string"),
        ({"prompt": "a cat", "clip_skip": 3}, ValueError, "clip_skip must be from 0 to 2 for this text encoder of 3 layers"),
        ({"prompt": "a cat", "clip_skip": -1}, ValueError, "clip_skip must be from 0 to 2"),
        ({"prompt": "a cat", "clip_skip": 0.5}, TypeError, "clip_skip must be a whole number"),
        ({"prompt": "a cat", "prompt_embeds": randn(1, 77, 48)}, ValueError, "either prompt or prompt_embeds"),
        ({"prompt_embeds": randn(1, 77, 40)}, ValueError, r"prompt_embeds must be .* \(prompts, tokens, 48\), not \(1, 77"),
        ({"prompt_embeds": randn(1, 77, 48).to("meta")}, ValueError, r"not \(1, 77, 48\) on meta"),
        ({"prompt_embeds": [1]}, ValueError, r"prompt_embeds must be a tensor .* not \[1\]"),
        ({"prompt": "a", "negative_prompt_embeds": randn(2, 77, 48)}, ValueError, "must have the same shape"),
        ({"prompt_embeds": randn(1, 80, 48)}, ValueError, "must have the same shape"),
        ({"prompt": "a cat", "prompt_weights": True}, TypeError, "unknown argument prompt_weights; did you mean prompt_weighting"),
        ({"prompt": "a cat", "guidence_scale": 3}, TypeError, "unknown argument guidence_scale; did you mean guidance_scale"),
        ({"prompt": "a cat", "guidance_rescale": 1.5}, ValueError, "guidance_rescale must be from 0 to 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, error, sentence):
    pipe = small_pipeline("v1")
    with pytest.raises(error, match=sentence):
        pipe(**arguments, num_inference_steps=2)


# Contrast


def test_rescaled_guidance_has_the_contrast_of_the_conditional():
    eps, cond = 3 * randn(2, 4, 8, 8, seed=1) + 1, randn(2, 4, 8, 8, seed=2)
    torch.testing.assert_close(rescale(eps, cond, 1.0).std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    torch.testing.assert_close(rescale(eps, cond, 0.0), eps)
    torch.testing.assert_close(rescale(eps, cond, 0.25), 0.25 * rescale(eps, cond, 1.0) + 0.75 * eps)
