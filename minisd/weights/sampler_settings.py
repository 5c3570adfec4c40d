"""The JSON of samplers ↔ their configurations. A missing key means diffusers' default, not Stable Diffusion's value."""

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..config import SchedulerConfig
from .vetting import Settings, checked, named, refuse_unknown, refuse_unless

if TYPE_CHECKING:
    from ..schedulers.configured import Configured

# Accepted without effect: latents are never clipped, and PNDM checks `skip_prk_steps` itself.
KNOWN = {
    "skip_prk_steps", "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "tensor_format",
}  # fmt: skip
# Defaults of diffusers' samplers that differ from Stable Diffusion's values.
GAPS: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0}
GAPS_OF: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"set_alpha_to_one": True},
    "PNDMScheduler": {"skip_prk_steps": False},
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "LCMScheduler": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": True},
}


def scheduler_config(
    sampler: "type[Configured]", source: SchedulerConfig | Settings, changes: Settings | None = None
) -> SchedulerConfig:
    """Convert another sampler's configuration, or diffusers' settings with a `_class_name`, for `sampler`; apply `changes`.

    Settings that this sampler lacks are dropped, as are values of `solver_type` and `variance_type` that it does not have.
    Raises UnsupportedConfig.
    """
    name = sampler.__name__
    if isinstance(source, SchedulerConfig):
        own, settings = type(source) is sampler.config_class, changed(source)
    else:
        own, settings = source.get("_class_name", name) == name, dict(source)
    if not own:
        settings = translated(sampler, settings)
    if not isinstance(source, SchedulerConfig):
        gaps = GAPS | GAPS_OF.get(name, {})
        settings = {gap: value for gap, value in gaps.items() if own or gap != "skip_prk_steps"} | settings
    settings |= changes or {}
    with named(name):
        refuse_unless(settings, sampler.implemented)
        refuse_unknown(settings, {*KNOWN, *sampler.implemented, *names_of(sampler)})
        return sampler.config_class(**checked(sampler.config_class, settings))


def changed(config: SchedulerConfig) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    return {field.name: value for field in fields(config) if (value := getattr(config, field.name)) != field.default}


def names_of(sampler: "type[Configured]") -> set[str]:
    return {field.name for field in fields(sampler.config_class)}


def translated(sampler: "type[Configured]", settings: Settings) -> dict[str, Any]:
    """The settings of another sampler that apply to this one."""
    kept = {name: value for name, value in settings.items() if name in {*names_of(sampler), *sampler.implemented}}
    for name in ("solver_type", "variance_type"):
        if kept.get(name) not in sampler.choices.get(name, ()):
            kept.pop(name, None)
    return kept


def scheduler_json(config: SchedulerConfig) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(config).items() if value is not None}
    return {"trained_betas": None, "skip_prk_steps": True, "clip_sample": False, **plain}
