"""Prompts to ids: golden ids of the official vocabulary, transformers on a small one, padding, truncation, files."""

import gzip
import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from helpers import DATA, END, START, WORDS, small_tokenizer, small_vocabulary
from tokenizers.pre_tokenizers import ByteLevel

from minisd import CheckpointError, CLIPTokenizer

PROMPTS = [
    "",
    "   ",
    "a photograph of an astronaut riding a horse",
    "A  Photograph\tof\n the CAFÉ, naïve!!!",
    "don't   we'll I'M they've he'd",
    "日本語 😀 it's 1234 x2",
    "a red ball, (a blue cat:1.3) & <b>bold</b> _under_ «quoted»",
    "horses horsee hors astronauts",
    "!",
    "wow! a cat!!! !",
    f"{START} a cat {END} a horse",
    "e\u0301 and é; ﬁne № Ⅷ ½",
    "İstanbul STRASSE ß",
    "\u200bzero\u00a0width\u3000space",
]


def ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    return tokenizer(prompt).input_ids[0].tolist()


# The official vocabulary


def official_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's own, from whichever package with OpenAI's file is installed; vocab.json follows from the merges."""
    for package in ("clip", "open_clip"):
        spec = importlib.util.find_spec(package)
        file = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if spec and spec.origin else None
        if file and file.exists():
            lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
            merges = [tuple(line.split()) for line in lines[1:48895]]
            letters = sorted(ByteLevel.alphabet())
            tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
            return {token: i for i, token in enumerate(tokens)}, merges
    pytest.skip("CLIP's vocabulary is not here: pip install --no-deps open_clip_torch (or clip-anytorch) brings it")


def needed_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What the golden prompts need of it: the merges of tokens that ever stand side by side in them, with their official ids."""
    known = json.loads((DATA / "merges.json").read_text(encoding="utf-8"))
    letters = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(letters + [letter + "</w>" for letter in letters])}
    vocab |= {pair.replace(" ", ""): i for pair, i in known.items()} | {START: 49406, END: 49407}
    return vocab, [tuple(pair.split()) for pair in known]


def test_the_official_vocabulary_has_what_is_needed_of_it():
    (vocab, merges), (some, few) = official_vocabulary(), needed_vocabulary()
    assert len(vocab) == 49408 and some.items() <= vocab.items() and few == [merge for merge in merges if merge in few]


@pytest.mark.parametrize("vocabulary", [needed_vocabulary, official_vocabulary])
@pytest.mark.parametrize(
    "case", json.loads((DATA / "tokens.json").read_text(encoding="utf-8")), ids=lambda case: repr(case["prompt"])
)
def test_golden_ids_of_the_official_vocabulary(case, vocabulary):
    vocab, merges = vocabulary()
    assert (vocab[START], vocab[END], vocab["!"]) == (49406, 49407, 0)
    for kind, pad in (("v1", END), ("v2", "!")):
        expected = case[kind] + [vocab[pad]] * (77 - len(case[kind]))
        assert ids(CLIPTokenizer(vocab, merges, pad), case["prompt"]) == expected


# A small vocabulary, and transformers on it


def test_a_prompt_stands_between_start_and_end():
    tokenizer = small_tokenizer("v1")
    vocab = tokenizer.vocab
    expected = [vocab[START], vocab["a</w>"], vocab["astronaut</w>"], vocab["riding</w>"], vocab[END]]
    assert ids(tokenizer, "A astronaut  RIDING") == expected + [vocab[END]] * 72


def test_every_word_of_the_small_vocabulary_is_a_token():
    tokenizer = small_tokenizer("v1")
    assert ids(tokenizer, " ".join(WORDS))[1 : 1 + len(WORDS)] == [tokenizer.vocab[word + "</w>"] for word in WORDS]


def transformers_tokenizer(folder: Path, kind: str):
    small_tokenizer(kind).save_pretrained(folder)
    return pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(folder)


def test_parity_with_transformers(kind, tmp_path):
    theirs = transformers_tokenizer(tmp_path / "tokenizer", kind)
    expected = theirs(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert small_tokenizer(kind)(PROMPTS).input_ids.tolist() == expected.tolist()


def test_parity_of_what_truncation_keeps(kind, tmp_path):
    theirs = transformers_tokenizer(tmp_path / "tokenizer", kind)
    prompt = "a horse riding " * 40
    expected = theirs([prompt], padding="max_length", max_length=77, truncation=True).input_ids
    with pytest.warns(UserWarning, match="ignored: "):
        assert small_tokenizer(kind)(prompt).input_ids.tolist() == expected


# Padding


def test_v1_pads_with_the_end_and_v2_with_id_0():
    for kind, pad in (("v1", len(small_vocabulary()[0]) - 1), ("v2", 0)):
        row = ids(small_tokenizer(kind), "a cat")
        assert len(row) == 77 and set(row[4:]) == {pad}


def test_the_empty_prompt_is_start_and_end():
    tokenizer = small_tokenizer("v2")
    assert ids(tokenizer, "") == [tokenizer.start_id, tokenizer.end_id] + [0] * 75


def test_a_typed_exclamation_mark_is_padding_in_v2_and_a_word_in_v1():
    """In the official v2 tokenizers "!" is a special token, so "!!!" becomes three of it."""
    v1, v2 = small_tokenizer("v1"), small_tokenizer("v2")
    assert ids(v2, "!!!")[1:5] == [0, 0, 0, v2.end_id]
    assert ids(v1, "!")[1:3] == [v1.vocab["!</w>"], v1.end_id]


def test_several_prompts_are_as_many_rows():
    tokenizer = small_tokenizer("v1")
    batch = tokenizer(["a cat", "a horse riding"]).input_ids
    assert batch.shape == (2, 77) and batch.dtype == torch.int64
    assert [batch[0].tolist(), batch[1].tolist()] == [ids(tokenizer, "a cat"), ids(tokenizer, "a horse riding")]


@pytest.mark.parametrize("length", [8, 77])
def test_the_usual_call(length):
    """The keywords that programs for transformers pass."""
    tokenizer = small_tokenizer("v1")
    output = tokenizer(["a cat"], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    assert output.input_ids.shape == (1, length)
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize("other", [{"padding": True}, {"truncation": False}, {"return_tensors": "np"}])
def test_other_ways_to_call_are_refused(other):
    with pytest.raises(ValueError, match='only padding="max_length", truncation=True and return_tensors="pt"'):
        small_tokenizer("v1")("a cat", **other)


# Truncation


def test_75_tokens_fit_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = ids(small_tokenizer("v1"), "a " * 75)
    assert row[-1] == small_tokenizer("v1").end_id and row[-2] == small_tokenizer("v1").vocab["a</w>"]


def test_truncation_says_what_it_left_out():
    tokenizer = small_tokenizer("v1")
    with pytest.warns(UserWarning, match=r"the prompt has 78 tokens, but only 75 fit; ignored: 'a red ball'"):
        row = ids(tokenizer, "horse " * 75 + "a red ball")
    assert row == [tokenizer.start_id] + [tokenizer.vocab["horse</w>"]] * 75 + [tokenizer.end_id]


def test_a_very_long_rest_is_named_in_short():
    with pytest.warns(UserWarning, match="the prompt has 10000 tokens") as caught:
        ids(small_tokenizer("v1"), "horse " * 10000)
    assert len(str(caught[0].message)) < 300


# Files


def test_a_tokenizer_is_saved_and_loaded(kind, tmp_path):
    small_tokenizer(kind).save_pretrained(tmp_path / "tokenizer")
    loaded = CLIPTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    assert loaded(PROMPTS).input_ids.tolist() == small_tokenizer(kind)(PROMPTS).input_ids.tolist()
    written = {path.name for path in (tmp_path / "tokenizer").iterdir()}
    assert written == {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}


def test_what_transformers_saves_is_loaded(kind, tmp_path):
    """Its version 5 writes tokenizer.json, and neither vocab.json nor merges.txt."""
    transformers_tokenizer(tmp_path / "ours", kind).save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()
    loaded = CLIPTokenizer.from_pretrained(tmp_path / "theirs")
    assert loaded(PROMPTS).input_ids.tolist() == small_tokenizer(kind)(PROMPTS).input_ids.tolist()


@pytest.mark.parametrize(
    ("special_tokens_map", "tokenizer_config", "pad"),
    [
        ({"pad_token": "!"}, {"pad_token": END}, "!"),  # as in the official v2 folders, which disagree with themselves
        ({"pad_token": {"content": "!", "lstrip": False}}, {}, "!"),
        ({}, {"pad_token": "!"}, "!"),
        ({"pad_token": END}, {}, END),
        ({}, {}, END),
    ],
)
def test_which_file_says_how_to_pad(special_tokens_map, tokenizer_config, pad, tmp_path):
    small_tokenizer("v1").save_pretrained(folder := tmp_path / "tokenizer")
    (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert CLIPTokenizer.from_pretrained(folder).pad == pad


def test_a_version_line_in_the_merges_is_no_merge(tmp_path):
    small_tokenizer("v1").save_pretrained(tmp_path / "tokenizer")
    first, second, *_ = (tmp_path / "tokenizer" / "merges.txt").read_text().splitlines()
    assert first.startswith("#version")
    assert CLIPTokenizer.from_pretrained(tmp_path / "tokenizer").merges[0] == tuple(second.split())


@pytest.mark.parametrize("model", [None, [], {"type": "WordLevel", "vocab": {}}])
def test_a_tokenizer_of_another_kind_is_said_in_a_sentence(tmp_path, model):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no byte-pair encoding"):
        CLIPTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("line", ["cat</w>", "a red ball", "nobody knows"])
@pytest.mark.parametrize("file", ["merges.txt", "tokenizer.json"])
def test_damaged_merges_are_said_in_a_sentence(tmp_path, file, line):
    small_tokenizer("v1").save_pretrained(folder := tmp_path / "tokenizer")
    with (folder / "merges.txt").open("a") as opened:
        opened.write(line)
    if file == "tokenizer.json":
        model = {"vocab": json.loads((folder / "vocab.json").read_text()), "merges": [line]}
        (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
        (folder / "vocab.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        CLIPTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    sentence = f"in {folder}, {file} is damaged: '{line}' is not a pair of tokens of the vocabulary; get it again"
    assert str(caught.value) == sentence
