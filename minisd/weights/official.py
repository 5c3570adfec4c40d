"""The official files, by size and by the first 16 digits of their sha256, from the Git LFS pointers of their repositories."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple


class OfficialFile(NamedTuple):
    """An official file. Size 0: not published. `prediction_type` is set only if files of this kind may predict either ε or v."""

    name: str
    size: int
    sha256: str
    prediction_type: str | None = None


EPSILON, V = "epsilon", "v_prediction"
OFFICIAL = [
    OfficialFile("sd-v1-4.ckpt", 0, "fe4efff1e174c627"),
    OfficialFile("sd-v1-4-full-ema.ckpt", 0, "14749efc0ae8ef03"),
    OfficialFile("v1-5-pruned-emaonly.safetensors", 4_265_146_304, "6ce0161689b3853a"),
    OfficialFile("v1-5-pruned-emaonly.ckpt", 4_265_380_512, "cc6cb27103417325"),
    OfficialFile("v1-5-pruned.safetensors", 7_703_324_286, "1a189f0be69d6106"),
    OfficialFile("v1-5-pruned.ckpt", 7_703_807_346, "e1441589a6f3c5a5"),
    OfficialFile("sd-v1-5-inpainting.ckpt", 4_265_437_280, "c6bbc15e3224e697"),
    OfficialFile("768-v-ema.ckpt", 5_214_864_007, "bfcaf0755797b0c3", V),
    OfficialFile("512-base-ema.ckpt", 5_214_864_007, "d635794c1fedfdfa", EPSILON),
    OfficialFile("512-inpainting-ema.safetensors", 5_214_662_094, "b29e2ed9a8fe58e7", EPSILON),
    OfficialFile("v2-1_768-ema-pruned.safetensors", 5_214_604_494, "dcd690123cfc6438", V),
    OfficialFile("v2-1_768-ema-pruned.ckpt", 5_214_865_159, "ad2a33c361c1f593", V),
    OfficialFile("v2-1_512-ema-pruned.safetensors", 5_214_604_494, "df955bdf6b682338", EPSILON),
    OfficialFile("v2-1_512-ema-pruned.ckpt", 5_214_865_159, "88ecb78256145567", EPSILON),
    OfficialFile("v2-1_768-nonema-pruned.safetensors", 5_214_604_312, "ff144a49841cf383", V),
    OfficialFile("v2-1_512-nonema-pruned.safetensors", 5_214_604_312, "fc4f9fe7528b2ee3", EPSILON),
    OfficialFile("the UNet of v1-4", 3_438_167_534, "145a07e0f05ec5bb"),
    OfficialFile("the UNet of v1-4 in float16", 1_719_125_304, "a35404d03ec8f977"),
    OfficialFile("the UNet of v1-4 without averaging (non_ema)", 3_438_167_536, "ac3d1bff03f9e9a6"),
    OfficialFile("the UNet of v1-5", 3_438_167_540, "19da7aaa4b880e59"),
    OfficialFile("the UNet of v1-5 in float16", 1_719_125_304, "c83908253f9a64d0"),
    OfficialFile("the UNet of v1-5 without averaging (non_ema)", 3_438_167_536, "cd1b6db09a81cb1d"),
    OfficialFile("the UNet of 2-1", 3_463_726_498, "1238522277c48923"),
    OfficialFile("the UNet of 2-1-base", 3_463_726_498, "6dfae3e5f7d459b5"),
    OfficialFile("the VAE of v1", 334_643_276, "a2b5134f4dbc140d"),
    OfficialFile("the VAE of v1 in float16", 167_335_342, "4fbcf0ebe55a0984"),
    OfficialFile("the VAE of v2", 334_643_276, "a1d993488569e928"),
    OfficialFile("the VAE of v2 in float16", 167_335_342, "3e4c08995484ee61"),
    OfficialFile("the text encoder of v1-4", 492_265_879, "7b3a12df205cb3c7"),
    OfficialFile("the text encoder of v1-5", 492_265_874, "d008943c017f0092"),
    OfficialFile("the text encoder of v1 in float16", 246_144_864, "77795e2023adcf39"),
    OfficialFile("the text encoder of v2", 1_361_597_018, "cce6febb0b6d876e"),
    OfficialFile("the text encoder of v2 in float16", 680_821_096, "681c555376658c81"),
    OfficialFile("the safety checker of v1", 1_215_981_830, "9d6a233ff6fd5ccb"),
    OfficialFile("the safety checker of v1 in float16", 608_018_440, "08902f19b1cfebd7"),
]


def sha256_for_free(path: Path) -> str | None:
    """The sha256 of a file in the Hub's cache, which names files by it; None for other files."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def sha256(path: Path) -> str:
    """The sha256 of a file; takes seconds per gigabyte, unless the Hub's cache has it."""
    if free := sha256_for_free(path):
        return free
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_size(size: int) -> list[OfficialFile]:
    """The official files with this many bytes."""
    return [file for file in OFFICIAL if file.size == size]


def of_sha256(digest: str) -> OfficialFile | None:
    return next((file for file in OFFICIAL if digest.startswith(file.sha256)), None)
