"""What a fine-tuning is asked to do, and what each method does when nothing is said."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..request import real


@dataclass(frozen=True)
class Usual:
    """A method's own numbers. `dropout` is the share of captions that are left out, so that guidance keeps working."""

    steps: int
    batch_size: int
    learning_rate: float
    dropout: float = 0.0
    weight_decay: float = 0.01


USUAL = {
    "lora": Usual(1000, 4, 1e-4),
    "inversion": Usual(2000, 4, 2e-3, weight_decay=0.0),
    "full": Usual(5000, 4, 1e-5, dropout=0.1),
    "dreambooth": Usual(800, 2, 5e-6),
    "controlnet": Usual(20_000, 4, 1e-5, dropout=0.5),  # Zhang et al. 2023, §3.3, leaves out half of the captions
}
TINY = {  # the same for the built-in model: narrow networks learn at higher rates
    "lora": Usual(1000, 8, 1e-3),
    "inversion": Usual(1000, 8, 1e-2, weight_decay=0.0),
    "full": Usual(1000, 8, 1e-4, dropout=0.1),
    "dreambooth": Usual(600, 8, 1e-4),
    "controlnet": Usual(4000, 8, 3e-4, dropout=0.1),
}
CHANGEABLE = ("data", "out", "steps", "prompt", "gradient_checkpointing")  # while a training goes on
AT_LEAST = {"steps": 1, "batch_size": 1, "accumulate": 1, "rank": 1, "vectors": 1, "class_images": 1, "size": 8, "seed": 0}


@dataclass(frozen=True)
class Settings:
    """The flags of the command line. None stands for the method's own number, or the model's own size."""

    data: Path
    out: Path
    model: str = "tiny"
    method: str = "lora"
    caption: tuple[str, ...] = ()  # of the pictures that have none of their own
    size: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    rank: int = 4
    train_text_encoder: bool = False
    token: str | None = None
    init_word: str | None = None
    vectors: int = 1
    class_prompt: str | None = None
    class_images: int = 100
    prior_weight: float = 1.0
    min_snr: float | None = None
    offset_noise: float = 0.0
    accumulate: int = 1
    gradient_checkpointing: bool = False
    prompt: tuple[str, ...] = ()
    seed: int = 0

    @property
    def usual(self) -> Usual:
        return (TINY if self.model == "tiny" else USUAL)[self.method]

    @property
    def training(self) -> Path:
        """Where the state, the log and the sheet are."""
        return self.out / "training"

    @property
    def word(self) -> str:
        """The word that textual inversion learns: by default the name of the new folder."""
        return self.token or self.out.name.lower()

    @property
    def captions(self) -> tuple[str, ...]:
        """Of pictures that have none. Textual inversion has its own, since all that they must do is to hold the word."""
        templates = ("a photo of a {}", "a picture of a {}", "a drawing of a {}", "a painting of a {}")
        usual = tuple(template.format(self.word) for template in templates) if self.method == "inversion" else ()
        return self.caption or usual

    def says_word(self, caption: str) -> bool:
        return self.word.lower() in caption.lower()

    def check(self):
        """Raise ValueError for what no training could do."""
        for name, least in AT_LEAST.items():
            if (number := getattr(self, name)) is not None and number < least:
                raise ValueError(f"--{flag(name)} must be {least} or more, not {number}")
        for name, low in {"learning_rate": 1e-12, "min_snr": 1e-3, "offset_noise": 0.0, "prior_weight": 0.0}.items():
            if (number := getattr(self, name)) is not None:
                real(f"--{flag(name)}", number, low)
        if self.method == "dreambooth" and not self.class_prompt:
            raise ValueError('say by --class-prompt what the new thing is one of, for example --class-prompt "a cat"')
        if self.method == "inversion" and not self.init_word:
            raise ValueError("say by --init-word what the new thing is like, for example --init-word cat: learning starts there")
        of_some = {"init_word": ("inversion",), "token": ("inversion",), "class_prompt": ("lora", "full", "dreambooth")}
        of_some |= {"train_text_encoder": ("lora", "full", "dreambooth")}
        for name, methods in of_some.items():
            if getattr(self, name) and self.method not in methods:
                raise ValueError(f"--{flag(name)} has no meaning for the method {self.method}; leave it out")

    def record(self) -> dict[str, Any]:
        """The settings that must not change while a training goes on, for JSON."""
        return {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}


def flag(name: str) -> str:
    return name.replace("_", "-")
