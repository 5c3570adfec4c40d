"""The task of a UNet, determined by its number of input channels, and the error for a UNet of another task."""

from .config import UnsupportedConfig


class OtherTask(UnsupportedConfig):
    """A checkpoint is for another pipeline, as the `in_channels` of its UNet show."""

    def __init__(self, message: str, in_channels: int):
        super().__init__(message)
        self.in_channels = in_channels


# By input channels: the task, the pipeline of the published checkpoints, and the flags of the command line
TASKS = {
    4: ("text to image", "StableDiffusionPipeline", "leave out --image-guidance-scale"),
    8: ("editing by instruction", "StableDiffusionInstructPix2PixPipeline", "give --image without --mask"),
    9: ("inpainting", "StableDiffusionInpaintPipeline", "give --image and --mask"),
}


def refuse_other_tasks(in_channels: int, wanted: tuple[int, ...], what: str):
    """Raise OtherTask, naming the right pipeline, unless a UNet's input channels are among those `wanted`."""
    if in_channels in wanted:
        return
    if in_channels not in TASKS:
        raise UnsupportedConfig(f"{what} has {in_channels} input channels; minisd supports {', '.join(map(str, TASKS))}")
    task, pipeline, flags = TASKS[in_channels]
    use = f"load it with {pipeline}; on the command line, {flags}"
    raise OtherTask(f"{what} is for {task}, with {in_channels} input channels instead of {wanted[0]}; {use}", in_channels)
