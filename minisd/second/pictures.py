"""Images drawn once and cached on disk, because drawing an image takes longer than training on it."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..processes import rank_and_world, wait_for_all
from .drawing import draw
from .picture_book import Scene

SIDE = 128
BYTES = SIDE * SIDE * 3


def rendered(file: Path, count: int, scene: Callable[[int], Scene]) -> np.ndarray:
    """Images 0 to `count` - 1 of `scene`, (count, 128, 128, 3) in 8 bits, read from `file`; missing ones are appended first."""
    if rank_and_world()[0] == 0:
        append_missing(file, count, scene)
    wait_for_all()
    return np.memmap(file, np.uint8, mode="r", shape=(count, SIDE, SIDE, 3))


def append_missing(file: Path, count: int, scene: Callable[[int], Scene]):
    """Draw the images that `file` lacks. An image that is incomplete after a kill is drawn again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = file.stat().st_size // BYTES if file.exists() else 0
    if known < count:
        with file.open("ab") as pictures:
            pictures.truncate(known * BYTES)
            for picture in tqdm(drawn(scene, range(known, count)), file.name, total=count, initial=known, mininterval=5):
                pictures.write(picture)


def drawn(scene: Callable[[int], Scene], numbers: Sequence[int]) -> Iterator[bytes]:
    """The images of these scenes, in order, drawn by one process per available core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        yield from pool.map(partial(pixels, scene), numbers, chunksize=32)


def pixels(scene: Callable[[int], Scene], i: int) -> bytes:
    return draw(scene(i), SIDE).tobytes()


def as_tensor(pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) in 8 bits → (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
