"""The settings of a fine-tuning run, and the default hyperparameters of each method."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..request import real


@dataclass(frozen=True)
class Defaults:
    """Hyperparameters of a method. `dropout` is the fraction of captions that are dropped, so that guidance keeps working."""

    steps: int
    batch_size: int
    learning_rate: float
    dropout: float = 0.0
    weight_decay: float = 0.01
    layers: str = "attention"  # with a LoRA: "attention" or "all"


DEFAULTS = {
    "lora": Defaults(1000, 4, 1e-4),
    "inversion": Defaults(2000, 4, 2e-3, weight_decay=0.0),
    "full": Defaults(5000, 4, 1e-5, dropout=0.1),
    "dreambooth": Defaults(800, 2, 5e-6),
    "controlnet": Defaults(20_000, 4, 1e-5, dropout=0.5),  # Zhang et al. 2023, §3.3, drops half of the captions
}
TINY = {  # for the built-in model: narrow networks need higher learning rates
    "lora": Defaults(500, 8, 2e-3, layers="all"),
    "inversion": Defaults(1000, 8, 1e-2, weight_decay=0.0),
    "full": Defaults(1000, 8, 1e-4, dropout=0.1),
    "dreambooth": Defaults(600, 8, 1e-4),
    "controlnet": Defaults(3000, 16, 1e-3, dropout=0.1),
}
CHANGEABLE = ("data", "out", "steps", "prompt", "gradient_checkpointing")  # when a training run is resumed
AT_LEAST = {"steps": 1, "batch_size": 1, "accumulate": 1, "rank": 1, "vectors": 1, "class_images": 1, "size": 8, "seed": 0}


@dataclass(frozen=True)
class Settings:
    """The flags of the command line. None means the default of the method or the model."""

    data: Path
    out: Path
    model: str = "tiny"
    method: str = "lora"
    caption: tuple[str, ...] = ()  # for images that have none
    size: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    rank: int = 4
    layers: str | None = None
    train_text_encoder: bool = False
    token: str | None = None
    init_word: str | None = None
    vectors: int = 1
    class_prompt: tuple[str, ...] = ()
    class_images: int = 100
    prior_weight: float = 1.0
    min_snr: float | None = None
    offset_noise: float = 0.0
    accumulate: int = 1
    gradient_checkpointing: bool = False
    prompt: tuple[str, ...] = ()
    seed: int = 0

    @property
    def defaults(self) -> Defaults:
        return (TINY if self.model == "tiny" else DEFAULTS)[self.method]

    @property
    def training(self) -> Path:
        """The folder of the state, the log and the sample sheet."""
        return self.out / "training"

    @property
    def word(self) -> str:
        """The word that textual inversion learns (default: the name of the output folder)."""
        return self.token or self.out.name.lower()

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions of images that have none. Textual inversion has defaults, since any sentence with the new word will do."""
        templates = ("a photo of a {}", "a picture of a {}", "a drawing of a {}", "a painting of a {}")
        default = tuple(template.format(self.word) for template in templates) if self.method == "inversion" else ()
        return self.caption or default

    def says_word(self, caption: str) -> bool:
        return self.word.lower() in caption.lower()

    def check(self):
        """Raise ValueError if settings are invalid or contradictory."""
        for name, least in AT_LEAST.items():
            if (number := getattr(self, name)) is not None and number < least:
                raise ValueError(f"--{flag(name)} must be {least} or more, not {number}")
        for name, low in {"learning_rate": 1e-12, "min_snr": 1e-3, "offset_noise": 0.0, "prior_weight": 0.0}.items():
            if (number := getattr(self, name)) is not None:
                real(f"--{flag(name)}", number, low)
        if self.method == "dreambooth" and not self.class_prompt:
            raise ValueError('dreambooth needs the class of the new thing, for example --class-prompt "a cat"')
        if self.method == "inversion" and not self.init_word:
            raise ValueError("inversion needs a similar word to start from, for example --init-word cat")
        of_some = {"init_word": ("inversion",), "token": ("inversion",), "class_prompt": ("lora", "full", "dreambooth")}
        of_some |= {"train_text_encoder": ("lora", "full", "dreambooth")}
        for name, methods in of_some.items():
            if getattr(self, name) and self.method not in methods:
                raise ValueError(f"--{flag(name)} does not apply to the method {self.method}; leave it out")

    def record(self) -> dict[str, Any]:
        """The settings that must not change when a training run is resumed, for JSON."""
        return {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}


def flag(name: str) -> str:
    return name.replace("_", "-")
