"""The text of web user interfaces: written, and read as they write it."""

import pytest

from minisd.infotext import read_infotext, write_infotext

A1111 = """a (red:1.3) ball, best quality
by a lake: calm
Negative prompt: blurry, "ugly"
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Lora hashes: "axe: 1a2b, other: 3c4d", TI: "line\\nbreak, \\"quoted\\"", Version: v1.9.4"""


def test_what_a1111_writes():
    prompt, negative, settings = read_infotext(A1111)
    assert prompt == "a (red:1.3) ball, best quality\nby a lake: calm"
    assert negative == 'blurry, "ugly"\nlow quality'
    assert settings == {
        "Steps": "20", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7.5", "Seed": "965400086",
        "Size": "512x768", "Model hash": "6ce0161689", "Model": "v1-5-pruned", "Lora hashes": "axe: 1a2b, other: 3c4d",
        "TI": 'line\nbreak, "quoted"', "Version": "v1.9.4",
    }  # fmt: skip


def test_lower_case_names_and_a_newline_at_the_end():
    """As in files that other programs have passed on."""
    text = "hands\nSteps: 20, Sampler: Euler a, CFG scale: 12, Seed: 1, Size: 512x512, Model hash: 7460a6fa, aesthetic_score: 6.7\n"
    assert read_infotext(text).settings["aesthetic_score"] == "6.7"


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("a cat", "a cat", ""),
        ("a cat\nNegative prompt: a dog", "a cat", "a dog"),
        ("Negative prompt: a dog", "", "a dog"),
        ("time: noon, place: here", "time: noon, place: here", ""),  # two settings are no line of settings
        ("", "", ""),
    ],
)
def test_prompts_without_settings(text, prompt, negative):
    assert read_infotext(text) == (prompt, negative, {})


def test_a_quote_that_is_no_json_stays_as_it_is():
    assert read_infotext('x\nSteps: 1, Seed: 2, Note: "a\\qb"').settings["Note"] == '"a\\qb"'


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("Steps: 20, CFG scale: 7,5, Seed: 1", "CFG scale", "7,5"),
        ("Steps: 20, Seed: 1, CFG scale: 7,5", "CFG scale", "7,5"),
        ("Steps: 20 or so, more, Seed: 1, RNG: NV,", "Steps", "20 or so, more"),
        ("Steps: 20, x.y (z): 4, Seed: 1", "x.y (z)", "4"),
    ],
)
def test_nothing_of_a_line_is_lost(line, name, value):
    """A comma that begins no setting belongs to the value."""
    settings = read_infotext(f"a cat\n{line}").settings
    assert settings[name] == value and settings["Seed"] == "1"


NASTY = [
    "tiny", "C:\\models\\a, b.safetensors", 'a "model"', "line\nbreak: x", "/models/x, Steps: 3, Seed: 9", '"', '"half', '\\"',
    '"whole"', "a\r\nb", " before", "after ", "\t", "", "a\u2028b", "a\x1cb", "猫, café", '{"a": 1}', "[1]", "null", "\\n",
]  # fmt: skip


@pytest.mark.parametrize("model", NASTY)
def test_what_minisd_writes_is_read_back(model):
    written = write_infotext(
        {
            "prompt": "a cat\nand a dog",
            "negative_prompt": "a bird",
            "model": model,
            "sampler": "pndm",
            "steps": 20,
            "seed": 3,
            "guidance_scale": 2.5,
            "width": 128,
            "height": 72,
            "strength": 0.6,
            "version": "1.2",
        }
    )
    prompt, negative, settings = read_infotext(written)
    assert (prompt, negative) == ("a cat\nand a dog", "a bird")
    assert settings == {
        "Steps": "20", "Sampler": "PLMS", "CFG scale": "2.5", "Seed": "3", "Size": "128x72", "Model": model,
        "Denoising strength": "0.6", "RNG": "CPU", "Version": "minisd 1.2",
    }  # fmt: skip
