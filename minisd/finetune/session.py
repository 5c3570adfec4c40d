"""A whole fine-tuning run: data, checkpoint, latents, forecast, training loop, and the resulting file."""

import json
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..config import sides
from ..disk import check_writable, is_taken, replacing
from ..pipeline import StableDiffusionPipeline
from ..processes import rank_and_world, wait_for_all
from ..train.loop import Recipe, device, train
from .card import notes, write_card
from .control import Control
from .examples import Example, fingerprint_of, named, read_examples
from .forecast import forecast
from .latents import cached_latents, survey
from .learner import Learner, lent
from .low_rank import LowRank
from .new_word import NewWord
from .objective import Data, loss_with
from .prior import class_examples
from .recomputed import recompute_activations
from .settings import Settings
from .whole_network import WholeNetwork

LEARNERS: dict[str, type[Learner]] = {
    "lora": LowRank,
    "inversion": NewWord,
    "full": WholeNetwork,
    "dreambooth": WholeNetwork,
    "controlnet": Control,
}
EMA = 0.99  # averages about a hundred steps, since single steps on few images fluctuate


def recipe_of(settings: Settings) -> Recipe:
    """The hyperparameters from the flags, or else the method's defaults."""
    defaults = settings.defaults
    asked = {name: getattr(settings, name) for name in ("steps", "batch_size", "learning_rate")}
    numbers = {name: getattr(defaults, name) if value is None else value for name, value in asked.items()}
    warmup = min(100, max(1, numbers["steps"] // 10))
    recipe = Recipe(**numbers, warmup=warmup, weight_decay=defaults.weight_decay, ema=EMA, seed=settings.seed)
    return replace(recipe, accumulate=settings.accumulate)


def check(settings: Settings, recipe: Recipe) -> list[Example]:
    """The user's examples. Raises ValueError for everything that can be checked before a model is loaded."""
    settings.check()
    world = rank_and_world()[1]
    if recipe.batch_size % world:
        raise ValueError(f"{world} processes cannot share a batch of {recipe.batch_size} evenly; choose another --batch-size")
    examples = read_examples(settings.data, settings.captions, steered=settings.method == "controlnet")
    silent = [e.picture for e in examples if settings.method == "inversion" and not all(map(settings.says_word, e.captions))]
    if silent:
        raise ValueError(
            f"the captions of {named(silent)} images lack the new word {settings.word!r}; set another word with --token"
        )
    if not (settings.training / "settings.json").exists() and is_taken(settings.out):
        raise ValueError(f"{settings.out} exists and is not empty; choose a new folder with --out")
    check_writable(settings.out, "choose another folder with --out")
    return examples


def keep_to(settings: Settings, examples: list[Example]):
    """Record the settings of the training run in its folder. Raises ValueError if the folder holds a different run."""
    file, record = settings.training / "settings.json", {**settings.record(), "pictures": fingerprint_of(examples)}
    record = json.loads(json.dumps(record))
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else record
    if changed := [name for name in record if before.get(name) != record[name]]:
        was = f"{before.get(changed[0])!r:.60} before and is {record[changed[0]]!r:.60} now"
        raise ValueError(f"{settings.out} holds another training: {changed[0]} was {was}; choose a new folder with --out")
    if rank_and_world()[0] == 0:
        settings.training.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            partial.write_text(json.dumps(record, indent=1), encoding="utf-8")


def run(settings: Settings, say: Callable[[str], None] = print, save_every: float = 180.0):
    """Fine-tune with these settings, resuming where the last call stopped. The state is written every `save_every` seconds."""
    recipe = recipe_of(settings)
    own = check(settings, recipe)
    pipe = StableDiffusionPipeline.from_pretrained(settings.model, safety_checker=None).to(device())
    if type(pipe) is not StableDiffusionPipeline:
        raise ValueError(
            f"{settings.model} was distilled for few steps, which fine-tuning would undo; use the model from which it was distilled"
        )
    pipe.set_progress_bar_config(disable=True)
    size = size_for(pipe, settings)
    settings = replace(settings, size=size, batch_size=recipe.batch_size, learning_rate=recipe.learning_rate)
    learner = LEARNERS[settings.method](pipe, settings)
    learner.trained.to(device())
    said = survey(own, size)
    wait_for_all()  # until all processes have checked the folder, before one creates it
    keep_to(settings, own)
    say(said)

    of_class = class_examples(pipe, settings)
    examples = own + of_class
    latents = cached_latents(settings.training / "latents.pt", pipe.vae, [e.picture for e in examples], size)
    if settings.gradient_checkpointing:
        recompute_activations(nn.ModuleList([learner.pipe.unet, learner.trained]), recipe)

    loss_of = loss_with(learner.predict, Data(examples, latents, len(own)), pipe.scheduler, recipe, settings)
    expected = forecast([*pipe.networks, learner.trained], learner.trained, loss_of, recipe)
    learns = sum(p.numel() for p in learner.trained.parameters())
    say(f"{learns:,} trainable parameters on {device()}; {expected.sentence(recipe.steps, recipe.batch_size * recipe.accumulate)}")
    average = train(settings.training, learner.trained, recipe, loss_of, learner.show_with(own), save_every)
    if rank_and_world()[0] == 0:
        with lent(learner.trained, average):
            result = learner.write(settings.out, notes(settings, recipe, len(own)))
        write_card(settings.out / "README.md", result, settings, recipe, own)
        say(str(result))
    wait_for_all()


def size_for(pipe: StableDiffusionPipeline, settings: Settings) -> int:
    """Pixels per side: the flag, or the size at which the model was trained."""
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    size = settings.size or min(sides(pipe.unet.config.sample_size)) * factor
    if size % factor:
        raise ValueError(f"--size must be a multiple of {factor}, not {size}")
    return size
