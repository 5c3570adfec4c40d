"""The base of samplers that follow a list of noise levels σ = √((1−ᾱ)/ᾱ), the noise relative to the image; ᾱ = 1/(σ² + 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config import SchedulerConfig, UnsupportedConfig
from ..schedule import to_x0_and_epsilon
from .base import Scheduler
from .given_list import falling
from .noise_levels import exponential, karras, sigmas_at, timesteps_at, training_sigmas
from .spacing import SPACINGS


@dataclass(frozen=True)
class SigmaConfig(SchedulerConfig):
    """By default, σ is taken at the spaced timesteps, but it can follow one of these two curves between the same endpoints."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False


CURVES = {"use_karras_sigmas": karras, "use_exponential_sigmas": exponential}


def alpha_at(sigma: float) -> float:
    """ᾱ at a noise level."""
    return 1 / (sigma**2 + 1)


class SigmaScheduler(Scheduler):
    """`sigmas` has the noise level at each of `timesteps`, then the level at which the trajectory ends."""

    config_class: ClassVar[type[SchedulerConfig]] = SigmaConfig
    spacings = ("linspace", "leading", "trailing")
    implemented = {"use_beta_sigmas": False}

    def __init__(self, config: SchedulerConfig | None = None, **settings: Any):
        super().__init__(config, **settings)
        if self.config.rescale_betas_zero_snr:
            self.alphas_cumprod[-1] = 2**-24  # σ = 4096 instead of infinity
        self.training_sigmas = training_sigmas(self.alphas_cumprod)
        self.sigmas: list[float] = self.training_sigmas[::-1].tolist()
        self.curve = next((curve for setting, curve in CURVES.items() if getattr(self.config, setting, False)), None)
        if all(getattr(self.config, setting, False) for setting in CURVES):
            raise UnsupportedConfig(f"{' and '.join(CURVES)} exclude each other; set only one of them")

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
    ):
        """Start a trajectory of n steps, or through a falling list of `timesteps`, or through a falling list of `sigmas`.

        The last of `sigmas` is where the trajectory ends. Raises ValueError unless exactly one of the three is given.
        """
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ValueError("give exactly one of num_inference_steps, timesteps and sigmas")
        if sigmas is not None:
            levels = falling(sigmas, "sigmas", float("inf"), least=2)
            times = timesteps_at(levels[:-1], self.training_sigmas).float()
        elif timesteps is not None:
            given = falling(timesteps, "timesteps", self.config.num_train_timesteps - 1)
            times = torch.tensor(given, dtype=torch.float32, device="cpu")
            levels = [*sigmas_at(times, self.training_sigmas), self.last_sigma()]
        else:
            times, levels = self.spaced(num_inference_steps or 0)
        self.sigmas = torch.tensor(levels, dtype=torch.float32, device="cpu").tolist()  # rounded to float32, as in diffusers
        self.begin(times, device, len(times))

    def spaced(self, n: int) -> tuple[Tensor, list[float]]:
        """n timesteps and n + 1 noise levels: σ at the spaced timesteps, or a curve of σ with its own timesteps."""
        times = self.spaced_timesteps(n)
        levels = sigmas_at(times, self.training_sigmas)
        if self.curve:
            levels = self.curve(*self.ends(levels), n)
            times = self.seen(timesteps_at(levels, self.training_sigmas))
        return times, [*levels, self.last_sigma()]

    def ends(self, levels: list[float]) -> tuple[float, float]:
        """The smallest and the largest σ of a curve, given σ at the spaced timesteps."""
        return levels[-1], levels[0]

    def last_sigma(self) -> float:
        """The σ at the end of a trajectory: 0, or σ at t = 0 if `final_sigmas_type` is "sigma_min"."""
        return float(self.training_sigmas[0]) if getattr(self.config, "final_sigmas_type", "zero") == "sigma_min" else 0.0

    def seen(self, times: Tensor) -> Tensor:
        """The timesteps of a curve, which are fractional, as passed to the UNet."""
        return times.float()


class VarianceExplodingScheduler(SigmaScheduler):
    """Latents are x0 + σ ε. The UNet sees them divided by √(σ² + 1), the scale it was trained on."""

    @property
    def init_noise_sigma(self) -> float:
        sigma = self.sigmas[0]
        return (sigma**2 + 1) ** 0.5 if self.spacing == "leading" else sigma

    def spaced_timesteps(self, n: int) -> Tensor:
        """n falling timesteps; "linspace" gives fractional ones."""
        return SPACINGS[self.spacing](n, self.config).float()

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """x / √(σ² + 1), which has the variance that the UNet was trained on."""
        return sample / (self.sigmas[self.upcoming(timestep)] ** 2 + 1) ** 0.5

    def predict(self, model_output: Tensor, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The predictions of x0 and ε, given latents x = x0 + σ ε."""
        alpha = alpha_at(sigma)
        return to_x0_and_epsilon(model_output.float(), x * alpha**0.5, alpha, self.config.prediction_type)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x0 + σ ε at the given timesteps of the trajectory, one per image."""
        sigmas = torch.tensor([self.sigmas[self.upcoming(t)] for t in timesteps], dtype=noise.dtype, device=noise.device)
        return original_samples + sigmas.view(-1, 1, 1, 1) * noise
