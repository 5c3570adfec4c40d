"""The settings of a sampler: checked in the constructor, and copied from another sampler by `from_config`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ..config import SchedulerConfig, UnsupportedConfig
from ..pretrained import Pretrained


class Configured(Pretrained):
    """`config` holds the settings. Raises UnsupportedConfig for values that the sampler does not implement."""

    config_class: ClassVar[type[SchedulerConfig]] = SchedulerConfig  # extended by samplers with more settings
    spacings: ClassVar[tuple[str, ...]]  # a subset of SPACINGS; the first is the default
    predictions: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction", "sample")
    choices: ClassVar[Mapping[str, tuple]] = {}  # the allowed values of other settings
    implemented: ClassVar[Mapping[str, Any]] = {}  # diffusers settings with a single implemented value

    def __init__(self, config: SchedulerConfig | None = None, **settings: Any):
        config = config or self.config_class()
        if settings or type(config) is not self.config_class:
            from ..weights.sampler_settings import scheduler_config

            config = scheduler_config(type(self), config, settings)
        self.config: Any = config
        self.spacing = config.timestep_spacing or self.spacings[0]
        choices = {"timestep_spacing": (None, *self.spacings), "prediction_type": self.predictions, **self.choices}
        for name, values in choices.items():
            if (value := getattr(config, name)) not in values:
                known = tuple(value for value in values if value is not None)
                raise UnsupportedConfig(f"{type(self).__name__}: {name} {value!r} is not one of {known}")

    @classmethod
    def from_config(cls, config: SchedulerConfig | Mapping[str, Any], **settings: Any) -> Self:
        """A sampler with another's settings: `LMSDiscreteScheduler.from_config(pipe.scheduler.config)`.

        As in diffusers, settings that this sampler lacks are dropped, and settings left at the other sampler's default take this
        sampler's default. Keys that a file omits get diffusers' default.
        """
        from ..weights.sampler_settings import scheduler_config

        return cls(scheduler_config(cls, config, settings))
