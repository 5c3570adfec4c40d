"""The Hub, without the Hub: a folder laid out as its cache, and its library's own exceptions from stubs of what downloads."""

import importlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers import small_tokenizer
from huggingface_hub import errors
from originals import write_original
from safetensors.torch import load_file, save_file

from minisd import (
    AutoencoderKL,
    CheckpointError,
    CLIPTextModel,
    CLIPTokenizer,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from minisd.weights.find import ALIASES
from minisd.weights.load import VOCABULARY

# The HTTP library that this version of the Hub's library uses.
http = importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])

pytestmark = pytest.mark.filterwarnings("ignore:the weights of Stable Diffusion have the")
COMMIT = "0123456789abcdef" * 2 + "01234567"
V1, GONE, TEXT = "CompVis/stable-diffusion-v1-4", "runwayml/stable-diffusion-v1-5", "text_encoder/model.safetensors"


def put(cache: Path, repo: str, folder: Path, files: list[str] | None = None, revision: str = "main") -> Path:
    """The files of a folder, or some of them, as the Hub's library would have cached a repository."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(COMMIT)
    snapshot = place / "snapshots" / COMMIT
    for file in (
        files if files is not None else [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    ):
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file, snapshot / file)
    return snapshot


class Hub:
    """Stands in for what downloads: knows repositories, and remembers what it was asked for."""

    def __init__(self, repositories: dict[str, Path], cache: Path):
        self.repositories, self.cache, self.fetched, self.asked, self.forced = repositories, cache, [], [], False
        self.download = huggingface_hub.snapshot_download

    def list_repo_files(self, repo: str, revision: str | None = None, token=None) -> list[str]:
        self.asked.append((repo, revision, token))
        if repo not in self.repositories:
            raise failure(errors.RepositoryNotFoundError, 404)
        folder = self.repositories[repo]
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def snapshot_download(self, repo: str, allow_patterns: list[str], local_files_only: bool = False, **options) -> str:
        if local_files_only:
            return self.download(repo, allow_patterns=allow_patterns, local_files_only=True, **options)
        self.fetched += allow_patterns
        self.forced |= options["force_download"]
        return str(put(self.cache, repo, self.repositories[repo], allow_patterns))


def failure(kind: type[Exception], status: int) -> Exception:
    return kind("no", response=http.Response(status, request=http.Request("GET", "https://huggingface.co")))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(folders, cache, tmp_path, monkeypatch) -> Hub:
    """Online, with a repository that has everything there can be."""
    full = shutil.copytree(folders["v1"], tmp_path / "full")
    for file in list(full.rglob("*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(half, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
        shutil.copy(file, file.with_name(file.name.replace(".safetensors", ".non_ema.safetensors")))
        for name in ("pytorch_model.bin", "flax_model.msgpack", "model.onnx"):
            (file.parent / name).write_text("never fetched")
    (full / "README.md").write_text("never fetched")
    (full / "v1-5-pruned-emaonly.safetensors").write_text("never fetched")
    hub = Hub({V1: full, ALIASES[GONE]: full}, cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def weights(variant: str = "") -> list[str]:
    stems = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
    return [f"{stem}{variant}.safetensors" for stem in stems]


SMALL_FILES = [
    "defaults.json", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
    "vae/config.json",
]  # fmt: skip


# From the cache


def test_what_is_in_the_cache_is_taken_from_there(folders, kind, cache):
    """Offline, as all tests are."""
    put(cache, "someone/something", folders[kind])
    pipe = StableDiffusionPipeline.from_pretrained("someone/something")
    assert torch.equal(pipe.unet.conv_in.weight, StableDiffusionPipeline.from_pretrained(folders[kind]).unet.conv_in.weight)
    assert UNet2DConditionModel.from_pretrained("someone/something", subfolder="unet").config == pipe.unet.config
    assert CLIPTokenizer.from_pretrained("someone/something", subfolder="tokenizer").vocab == pipe.tokenizer.vocab
    sampler = type(pipe.scheduler).from_pretrained("someone/something", subfolder="scheduler")
    assert sampler.config == pipe.scheduler.config


def test_the_cache_is_asked_before_the_hub(folders, hub, cache):
    """It asks once whether there are files that a repository may lack, and nothing more."""
    hub.repositories[V1] = folders["v1"]
    put(cache, V1, folders["v1"])
    StableDiffusionPipeline.from_pretrained(V1)
    assert set(hub.asked) == {(V1, None, None)}
    hub.asked.clear()
    StableDiffusionPipeline.from_pretrained(V1)
    assert hub.asked == []


def test_another_cache(folders, tmp_path, cache):
    put(tmp_path / "mine", V1, folders["v1"])
    assert StableDiffusionPipeline.from_pretrained(V1, cache_dir=tmp_path / "mine", local_files_only=True)
    with pytest.raises(CheckpointError, match="it is not fully cached, and local_files_only=True disables downloading"):
        StableDiffusionPipeline.from_pretrained(V1, local_files_only=True)


def test_a_revision_in_the_cache(folders, cache):
    put(cache, V1, folders["v1"], revision="mine")
    assert StableDiffusionPipeline.from_pretrained(V1, revision="mine")
    assert StableDiffusionPipeline.from_pretrained(V1, revision=COMMIT)
    with pytest.raises(CheckpointError, match="and HF_HUB_OFFLINE disables downloading"):
        StableDiffusionPipeline.from_pretrained(V1)


def test_half_of_it_in_the_cache_is_not_enough(folders, cache):
    put(cache, V1, folders["v1"], SMALL_FILES + weights()[:2])
    with pytest.raises(CheckpointError, match="it is not fully cached"):
        StableDiffusionPipeline.from_pretrained(V1)
    assert UNet2DConditionModel.from_pretrained(V1, subfolder="unet")


def test_the_text_half_of_clip(cache, folders, tmp_path):
    """`openai/clip-vit-large-patch14` is one file with both halves; its numbers 0 to 76 and 0 to 256 are there, too."""
    (tmp_path / "clip").mkdir()
    tensors = load_file(folders["v1"] / TEXT)
    tensors |= {"vision_model.post_layernorm.weight": torch.ones(8), "visual_projection.weight": torch.ones(4, 8)}
    tensors |= {"text_projection.weight": torch.ones(4, 48), "logit_scale": torch.tensor(4.6)}
    tensors |= {
        "vision_model.embeddings.position_ids": torch.arange(257)[None],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    save_file(tensors, tmp_path / "clip" / "model.safetensors")
    (tmp_path / "clip" / "config.json").write_text(
        f'{{"text_config": {(folders["v1"] / "text_encoder" / "config.json").read_text()}}}'
    )
    put(cache, "openai/clip-vit-large-patch14", tmp_path / "clip")
    ours = CLIPTextModel.from_pretrained("openai/clip-vit-large-patch14")
    assert torch.equal(ours.token_embedding.weight, tensors["text_model.embeddings.token_embedding.weight"])


# From the Hub


def test_only_what_is_needed_is_fetched(hub):
    with pytest.warns(UserWarning, match="CreativeML OpenRAIL-M"):
        StableDiffusionPipeline.from_pretrained(V1, token="secret")
    assert sorted(set(hub.fetched)) == sorted(SMALL_FILES + weights())
    assert {token for _, _, token in hub.asked} == {"secret"}
    hub.asked.clear()
    StableDiffusionPipeline.from_pretrained(V1)  # and the second time nothing at all, and no word about licences
    assert hub.asked == []


def test_only_the_variant_is_fetched(hub, recwarn):
    pipe = StableDiffusionPipeline.from_pretrained(V1, variant="fp16", torch_dtype=torch.float16)
    assert sorted(set(hub.fetched)) == sorted(SMALL_FILES + weights(".fp16"))
    assert pipe.dtype == torch.float16


def test_a_variant_that_only_one_part_has(hub, recwarn):
    """Official repositories have `non_ema` of the UNet alone."""
    for part in ("vae", "text_encoder"):
        (file,) = (hub.repositories[V1] / part).glob("*.non_ema.*")
        file.unlink()
    StableDiffusionPipeline.from_pretrained(V1, variant="non_ema")
    assert sorted(file for file in set(hub.fetched) if file.endswith(".safetensors")) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_a_variant_that_nothing_has(hub, recwarn):
    with pytest.raises(CheckpointError, match=f'{V1} has no variant "bf16"; leave it out'):
        StableDiffusionPipeline.from_pretrained(V1, variant="bf16")
    assert not any(file.endswith(".safetensors") for file in hub.fetched)


def test_a_part_alone_is_fetched_alone(hub, recwarn):
    AutoencoderKL.from_pretrained(V1, subfolder="vae", variant="fp16")
    assert hub.fetched == ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"]
    hub.fetched.clear()
    CLIPTokenizer.from_pretrained(V1, subfolder="tokenizer")
    DDIMScheduler.from_pretrained(V1, subfolder="scheduler")
    assert sorted(hub.fetched) == [file for file in SMALL_FILES if file.startswith(("scheduler/", "tokenizer/"))]


def test_parts_that_are_given_are_not_fetched(hub, recwarn):
    vae = AutoencoderKL.from_pretrained(hub.repositories[V1], "vae")
    pipe = StableDiffusionPipeline.from_pretrained(V1, vae=vae, tokenizer=small_tokenizer("v1"), scheduler=DDIMScheduler())
    assert pipe.vae is vae and not any(file.startswith(("vae/", "tokenizer/", "scheduler/")) for file in hub.fetched)


def test_the_blog_posts_branch_is_the_variant(hub):
    with pytest.warns(UserWarning, match='revision="fp16" is read as variant="fp16"'):
        pipe = StableDiffusionPipeline.from_pretrained(V1, revision="fp16", torch_dtype=torch.float16)
    assert pipe.dtype == torch.float16 and {revision for _, revision, _ in hub.asked} == {None}
    assert sorted(set(hub.fetched)) == sorted(SMALL_FILES + weights(".fp16"))


def test_the_blog_posts_branch_where_there_is_no_such_variant(hub, folders, recwarn):
    """The repositories of 2-1 have none; and a folder of one's own need not have one."""
    hub.repositories[V1] = folders["v1"]
    for source in (V1, folders["v1"]):
        assert StableDiffusionPipeline.from_pretrained(source, revision="fp16", torch_dtype=torch.float16).dtype == torch.float16
    assert UNet2DConditionModel.from_pretrained(V1, subfolder="unet", revision="fp16").conv_in.weight.dtype == torch.float32


def test_ids_that_are_gone_have_others(hub):
    with pytest.warns(UserWarning, match=f"{GONE} is gone from the Hub; {ALIASES[GONE]} has the same weights and is used instead"):
        StableDiffusionPipeline.from_pretrained(GONE)
    assert {repo for repo, _, _ in hub.asked} == {ALIASES[GONE]}


def test_who_has_them_from_before_keeps_them(hub, folders, cache, recwarn):
    put(cache, GONE, folders["v1"])
    StableDiffusionPipeline.from_pretrained(GONE)
    assert hub.fetched == [] and not recwarn.list


def test_every_id_of_the_blog_posts_time_has_an_answer():
    assert {GONE, *(f"stabilityai/stable-diffusion-2{kind}" for kind in ("", "-base", "-1", "-1-base"))} == ALIASES.keys()


def test_what_cannot_be_drawn_is_not_fetched(hub, tmp_path):
    xl = shutil.copytree(hub.repositories[V1], tmp_path / "xl")
    index = (xl / "model_index.json").read_text()
    (xl / "model_index.json").write_text(index.replace("StableDiffusionPipeline", "StableDiffusionXLPipeline"))
    hub.repositories["stabilityai/xl"] = xl
    with pytest.raises(
        ValueError, match="stabilityai/xl is a StableDiffusionXLPipeline; minisd implements StableDiffusionPipeline"
    ):
        StableDiffusionPipeline.from_pretrained("stabilityai/xl")
    assert hub.fetched == ["model_index.json"]


def test_a_repository_with_pickles_alone(hub):
    for file in hub.repositories[V1].rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"there are only pickles, which can run code; convert them safely"):
        StableDiffusionPipeline.from_pretrained(V1)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights(hub, recwarn, variant):
    folder, dot = hub.repositories[V1] / "unet", f".{variant}" if variant else ""
    whole = folder / f"diffusion_pytorch_model{dot}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    shards = [f"diffusion_pytorch_model{dot}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, shard in enumerate(shards):
        save_file({name: tensors[name] for name in names[i::3]}, folder / shard)
    manifest = f"diffusion_pytorch_model.safetensors.index{dot}.json"
    places = {name: shards[i] for i in range(3) for name in names[i::3]}
    (folder / manifest).write_text(json.dumps({"weight_map": places}))
    unet = UNet2DConditionModel.from_pretrained(V1, subfolder="unet", variant=variant)
    assert torch.equal(unet.conv_in.weight, tensors["conv_in.weight"])
    assert sorted(set(hub.fetched)) == sorted(f"unet/{file}" for file in ("config.json", manifest, *shards))
    (folder / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{shards[1]} is missing")):
        UNet2DConditionModel.from_pretrained(hub.repositories[V1], subfolder="unet", variant=variant)


@pytest.fixture
def without_words(hub, tmp_path, small_presets) -> Path:
    """A single file that has no vocabulary; the Hub has one."""
    hub.repositories[VOCABULARY] = tmp_path / "clip"
    small_tokenizer("v1").save_pretrained(tmp_path / "clip")
    return write_original(tmp_path / "v1.safetensors", "v1")


@pytest.mark.parametrize("load", [StableDiffusionPipeline.from_pretrained, StableDiffusionPipeline.from_single_file])
def test_the_vocabulary_of_a_single_file_is_looked_up_as_is_asked(hub, without_words, tmp_path, load):
    with pytest.raises(CheckpointError, match=r"has no vocabulary; .* local_files_only=True disables downloading"):
        load(without_words, local_files_only=True)
    assert hub.asked == hub.fetched == []
    load(without_words, token="secret")
    assert hub.asked == [(VOCABULARY, None, "secret")] and {"vocab.json", "merges.txt"} <= set(hub.fetched)
    load(without_words, local_files_only=True)  # now the cache has it
    with pytest.raises(CheckpointError, match="has no vocabulary"):
        load(without_words, cache_dir=tmp_path / "another", local_files_only=True)


# What can go wrong


GATED = "it is gated; accept its licence at https://huggingface.co/some/one and log in"
REFUSALS = {
    "unknown": (lambda: failure(errors.RepositoryNotFoundError, 404), "there is no such id, or it is private; check the name"),
    "gated": (lambda: failure(errors.GatedRepoError, 403), GATED),
    "no such revision": (lambda: failure(errors.RevisionNotFoundError, 404), "it has no revision 'mine'; leave it out"),
    "a wrong token": (lambda: failure(errors.HfHubHTTPError, 401), "the Hub answered 401; the token is not valid"),
    "the Hub is down": (lambda: failure(errors.HfHubHTTPError, 503), "the Hub answered 503; try again later"),
    "no network": (
        lambda: http.ConnectError("no"),
        "no connection (ConnectError); connect to the internet, or pass a local folder or file",
    ),
    "too slow": (lambda: http.ReadTimeout("slow"), "no connection (ReadTimeout)"),
    "offline": (lambda: errors.OfflineModeIsEnabled("no"), "no connection (OfflineModeIsEnabled)"),
    "lost on the way": (lambda: errors.LocalEntryNotFoundError("no"), "no connection (LocalEntryNotFoundError)"),
    "a full disk": (lambda: OSError(28, "No space left"), "the disk of the cache is full; free some space, or choose another"),
}


@pytest.mark.parametrize(("error", "sentence"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("stage", ["list_repo_files", "snapshot_download"])
def test_refusals_are_said_in_a_sentence(hub, monkeypatch, recwarn, error, sentence, stage):
    hub.repositories["some/one"] = hub.repositories[V1]
    real = hub.snapshot_download

    def fail(*arguments, **options):
        if options.get("local_files_only"):
            return real(*arguments, **options)
        raise error()

    monkeypatch.setattr(f"huggingface_hub.{stage}", fail)
    for load in (
        StableDiffusionPipeline.from_pretrained,
        partial(AutoencoderKL.from_pretrained, subfolder="vae"),
        partial(CLIPTokenizer.from_pretrained, subfolder="tokenizer"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(sentence)) as caught:
            load("some/one", revision="mine")
        assert str(caught.value).startswith('"some/one" is neither a local folder nor available from the Hub: ')
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["a b/c d", "some/one--two", "../secret", "/nowhere", "some/", "/one"])
def test_what_is_no_id(source, cache):
    with pytest.raises(CheckpointError):
        StableDiffusionPipeline.from_pretrained(source)


# What the cache does not know


def test_a_file_that_may_be_absent_is_asked_for_once(hub, folders, cache, tmp_path):
    """Version 2 pads with id 0 because of special_tokens_map.json alone; a cache without it pads with the end token."""
    hub.repositories[V1] = shutil.copytree(folders["v2"], tmp_path / "v2")
    (hub.repositories[V1] / "tokenizer" / "tokenizer_config.json").write_text("{}")
    put(cache, V1, hub.repositories[V1], ["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"])
    with pytest.warns(
        UserWarning,
        match=f"tokenizer/special_tokens_map.json of {V1} is not cached; if it exists, it changes how prompts are padded",
    ):
        CLIPTokenizer.from_pretrained(V1, subfolder="tokenizer", local_files_only=True)
    assert CLIPTokenizer.from_pretrained(V1, subfolder="tokenizer").pad == "!"
    hub.asked.clear()
    assert CLIPTokenizer.from_pretrained(V1, subfolder="tokenizer").pad == "!" and hub.asked == []


def test_a_manifest_that_may_be_absent_is_asked_for_too(hub, cache):
    folder = hub.repositories[V1] / "unet"
    shutil.copy(folder / "diffusion_pytorch_model.safetensors", folder / "new.safetensors")
    tensors = load_file(folder / "new.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "new.safetensors")
    put(cache, V1, hub.repositories[V1], ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
    manifest = {"weight_map": dict.fromkeys(tensors, "new.safetensors")}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(manifest))
    assert torch.equal(UNet2DConditionModel.from_pretrained(V1, subfolder="unet").conv_in.bias, 2 * tensors["conv_in.bias"])


def test_what_is_cached_serves_when_the_hub_cannot_be_asked(hub, folders, cache, monkeypatch):
    put(cache, V1, folders["v1"])

    def fail(*arguments, **options):
        raise http.ConnectError("no")

    monkeypatch.setattr("huggingface_hub.list_repo_files", fail)
    assert StableDiffusionPipeline.from_pretrained(V1)


def test_a_partial_cache_names_what_is_missing(folders, cache):
    put(cache, V1, folders["v1"], SMALL_FILES + weights()[:2])
    with pytest.raises(CheckpointError, match=r"it is not fully cached \(.*vae/diffusion_pytorch_model.safetensors is missing\)"):
        StableDiffusionPipeline.from_pretrained(V1)


def test_a_damaged_file_in_the_cache_can_be_fetched_again(hub, cache, recwarn):
    StableDiffusionPipeline.from_pretrained(V1)
    (blob,) = cache.rglob("unet/diffusion_pytorch_model.safetensors")
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"instead of .*; get it again with force_download=True"):
        StableDiffusionPipeline.from_pretrained(V1)
    hub.fetched.clear()
    StableDiffusionPipeline.from_pretrained(V1, force_download=True)
    assert sorted(set(hub.fetched)) == sorted(SMALL_FILES + weights()) and hub.forced
    assert UNet2DConditionModel.from_pretrained(V1, subfolder="unet", revision="main", force_download=True)


def test_a_subfolder_of_a_subfolder(hub, folders, tmp_path):
    shutil.copytree(folders["v1"], tmp_path / "deep" / "sd" / "v1")
    hub.repositories["some/one"] = tmp_path / "deep"
    assert UNet2DConditionModel.from_pretrained("some/one", subfolder="sd/v1/unet")
    assert set(hub.fetched) == {f"sd/v1/unet/{file}" for file in ("config.json", "diffusion_pytorch_model.safetensors")}
    hub.asked.clear()
    assert UNet2DConditionModel.from_pretrained("some/one", subfolder="sd/v1/unet") and hub.asked == []


# Addresses


@pytest.mark.parametrize("form", ["blob/main/{}", "resolve/main/{}", "resolve/main/{}?download=true"])
def test_an_address_of_a_file_on_the_hub(hub, without_words, form):
    hub.repositories["some/one"] = without_words.parent / "files"
    (hub.repositories["some/one"] / "in").mkdir(parents=True)
    shutil.copy(without_words, hub.repositories["some/one"] / "in" / "a b.safetensors")
    address = "https://huggingface.co/some/one/" + form.format("in/a%20b.safetensors")
    assert StableDiffusionPipeline.from_single_file(address)
    assert AutoencoderKL.from_single_file(address)
    assert ("some/one", "main", None) in hub.asked and hub.fetched.count("in/a b.safetensors") == 1


@pytest.mark.parametrize("address", ["https://example.com/x.safetensors", "https://huggingface.co/some/one"])
def test_addresses_of_something_else(address):
    with pytest.raises(
        CheckpointError, match=f"{re.escape(address)} is not the URL of a file on the Hub; download the file and give its path"
    ):
        StableDiffusionPipeline.from_single_file(address)
