"""From a name or path to the folder of a checkpoint, fetched where needed: see `resolve`.

The client's own fall-backs to its cache are silent, so the Hub is asked here, with retries, and each failure
has a message of its own.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own, whichever it is
from torch import nn

from artmodels._version import __version__
from artmodels.errors import ConfigError, MissingWeights, UnsafeFormat, WeightsError
from artmodels.hub import catalogue
from artmodels.hub.catalogue import PACKAGE, Entry
from artmodels.hub.checkpoints import CONFIG, PICKLES, WEIGHTS, Expected, load_tensors, missing_file, read_config
from artmodels.hub.outline import Outline

__all__ = ["LIBRARY", "PACKAGE", "REPO", "Placement", "Resolved", "is_checkpoint_folder", "resolve"]

logger = logging.getLogger(__name__)

LIBRARY: dict[str, Any] = {"library_name": "artmodels", "library_version": __version__}
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The Hub's client retries a failing HEAD only after a look in its cache, and never a GET that answers 5xx.
_RETRY_AFTER = (0.5, 1.0, 2.0)
_RETRY_STATUS = (500, 502, 503, 504)

_T = TypeVar("_T")
Accept: TypeAlias = Callable[[str, object], None]  # raises unless a checkpoint of that name and method is wanted


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model is to compute, in what, and whether its parts may be fetched; see `from_pretrained`."""

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    local_files_only: bool = False

    def require_float32(self, name: str) -> None:
        """Raise ConfigError if another type is asked for of the class `name`."""
        if self.dtype not in (None, torch.float32):
            raise ConfigError(f"dtype={self.dtype} is not available for {name}, which computes in float32.")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Where a checkpoint was found."""

    name: str  # what was asked for
    origin: str  # "folder", "package", "built-in" (no files), "cache", "hub" or "upstream"
    folder: Path | None = None  # where its files lie; None when built in
    entry: Entry | None = None  # if the name is in the catalogue
    repo: str | None = None  # the Hub repository it comes from, if any
    revision: str | None = None  # the commit it comes from, if any

    def config(self) -> dict[str, Any]:
        """Return the catalogue's configuration for a catalogue name, otherwise what `config.json` says.

        A catalogue name never takes its settings from a repository: only the weights file has a pinned hash.
        """
        if self.entry is not None or self.folder is None:
            return dict(self.entry.config) if self.entry else {}
        return read_config(self.folder)

    @property
    def method(self) -> object:
        """The id of its method, or whatever `config.json` says in that place."""
        return self.entry.method if self.entry else self.config().get("method")

    @property
    def weights_file(self) -> Path:
        """The safetensors file; UnsafeFormat where there are only pickle-based weights, MissingWeights where none."""
        if self.folder is None:
            raise MissingWeights(f"{self.name} is built in: it has no weights to load.")
        pinned = self.entry.weights if self.entry else None
        file = self.folder / (pinned.filename if pinned else WEIGHTS)
        if not file.is_file():
            where = f"{self.repo} at {self.revision}" if self.repo else str(self.folder)
            names = _repo_files(self.repo, self.revision) if self.repo else _names(self.folder)
            raise missing_file(where, file.name, names)
        return file

    @property
    def sha256(self) -> str | None:
        """What the weights file must hash to: the catalogue's pin, else what the Hub declared on download."""
        if self.entry is not None and self.entry.weights is not None:
            return self.entry.weights.sha256
        file = self.weights_file
        # The Hub's cache names the blob of a large file by the sha256 that the server declared for it. One
        # level of link only: the blob itself may be a link into a store with other names.
        declared = Path(os.readlink(file)).name if self.repo and file.is_symlink() else ""
        return declared if _SHA256.fullmatch(declared) else None

    def load(
        self, expected: Expected, *, wanted: Callable[[str], bool] | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Load the weights file with its hash checked; see `load_tensors`."""
        return load_tensors(self.weights_file, expected=expected, sha256=self.sha256, wanted=wanted, dtype=dtype)

    def fill(
        self,
        make: Callable[[], _T],
        stored: Callable[[_T], nn.Module],
        *,
        dtype: torch.dtype | None = None,
        counters: bool = True,
    ) -> _T:
        """Make the networks that a configuration describes, and load their weights, of which the file holds a part.

        A configuration may ask for networks of any size: they are first made without memory, and compared with what the
        file holds. `counters` says whether that has the counters of batch normalisation; `dtype` as in `load_tensors`.
        """
        with Outline():
            expected = stored(make()).state_dict()
        if not counters:
            expected = {key: value for key, value in expected.items() if value.is_floating_point()}
        tensors = self.load(expected, dtype=dtype)
        made = make()
        stored(made).load_state_dict(tensors)
        return made


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    method: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    accept: Accept | None = None,
) -> Resolved:
    """Find a checkpoint, fetching it where needed; the log says where it was found.

    In this order: a local folder; the package; the Hub's cache; the Hub (for `owner/name`, or for a bare name
    with the owner that ARTMODELS_NAMESPACE in the environment gives); the upstream repository that the
    catalogue pins. A catalogue name stands for one sha256 wherever the file comes from, so a mirror cannot
    change what loads. A revision, for `owner/name` only, is a branch, tag or commit; a full commit that is cached needs
    no network. Of a short name that several methods have, that of `method` is meant. `accept` is called with the name
    and the method, for a name of the catalogue before anything is fetched; what it raises is raised.

    Raises:
        ConfigError: `revision` was given for something that has no revisions.
        MissingWeights: There is no such checkpoint, or it cannot be fetched now; the message says which.
        UnsafeFormat: There are only pickle-based weights.
    """
    name = os.fspath(name_or_path)
    if is_checkpoint_folder(name):
        found = _from_folder(name, Path(os.path.expanduser(name)), revision)
    elif "/" not in name and os.sep not in name:
        found = _from_name(name, method, revision, local_files_only, accept)
    elif REPO.fullmatch(name) and ".." not in name and "--" not in name:
        found = _from_repo(name, name, revision, local_files_only)
    else:
        raise MissingWeights(f"{name!r} is neither an existing folder nor 'owner/name' on the Hub: check the path.")
    logger.info("%s: %s, %s", name, found.origin, found.folder or "no files")
    if accept is not None and found.entry is None:
        accept(name, found.method)
    return found


def is_checkpoint_folder(name: str) -> bool:
    """Whether a name is that of a local folder, and not of an entry of the catalogue or a repository.

    A file is refused: a pickle-based one as UnsafeFormat, another as a ConfigError.
    """
    path = Path(os.path.expanduser(name))
    is_path = "/" in name or os.sep in name or name in (".", "..", "~")
    if path.is_file() and (is_path or path.suffix in (".safetensors", *PICKLES)):
        if path.suffix in PICKLES:
            raise missing_file(str(path), CONFIG, [path.name])
        raise ConfigError(f"{name} is a file: give the folder that holds it and its {CONFIG}.")
    if not name or not path.is_dir():
        return False
    # A bare name is a folder only if the folder looks like a checkpoint: a stray folder called "patches" must
    # not hide the catalogue's entry.
    return is_path or any(file == CONFIG or file.endswith(".safetensors") for file in _names(path))


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file())


def _from_folder(name: str, path: Path, revision: str | None) -> Resolved:
    if revision is not None:
        raise ConfigError(f"{name} is a local folder, which has no revisions: leave revision={revision!r} out.")
    names = _names(path)
    if CONFIG not in names and WEIGHTS not in names:
        raise missing_file(str(path), CONFIG, names)
    if catalogue.find(name):
        logger.warning("The local folder %s hides the catalogue's checkpoint of that name.", path.absolute())
    return Resolved(name=name, origin="folder", folder=path)


def _from_name(
    name: str, method: str | None, revision: str | None, local_files_only: bool, accept: Accept | None
) -> Resolved:
    known = catalogue.find(name, method)
    name = known.name if known else name
    namespace = os.environ.get("ARTMODELS_NAMESPACE")
    mirror = f"{namespace}/{name}" if namespace else None
    if mirror and not REPO.fullmatch(mirror):
        raise ConfigError(f"ARTMODELS_NAMESPACE={namespace!r} does not make a Hub repository of {name!r}.")
    if mirror and known is None:
        return _from_repo(name, mirror, revision, local_files_only)
    entry = known or catalogue.get(name, method)
    if accept is not None:
        accept(name, entry.method)
    pinned = entry.weights
    if revision is not None and (pinned is None or revision != pinned.revision):
        instead = f": for another, ask for the repository {pinned.repo!r}" if pinned else ""
        raise ConfigError(f"The catalogue decides the revision of {name!r}{instead}; leave revision= out.")
    if entry.embedded and (folder := _embedded(name)):
        return Resolved(name=name, origin="package", folder=folder, entry=entry)
    if pinned is None:
        if entry.embedded:
            raise MissingWeights(f"{name} should be inside the package but is not: install artmodels again.")
        return Resolved(name=name, origin="built-in", entry=entry)
    seen = try_to_load_from_cache(pinned.repo, pinned.filename, revision=pinned.revision)
    if mirror and not isinstance(seen, str):
        try:
            file, cached = _fetch(mirror, pinned.filename, None, local_files_only)
        except _NoSuchRepo:
            logger.info("%s: there is no mirror %s, using the upstream source", name, mirror)
        else:
            return _from_cache(name, file, "cache" if cached else "hub", mirror, entry)
    file, cached = _fetch(pinned.repo, pinned.filename, pinned.revision, local_files_only)
    return _from_cache(name, file, "cache" if cached else "upstream", pinned.repo, entry)


def _from_cache(name: str, file: Path, origin: str, repo: str, entry: Entry | None = None) -> Resolved:
    # The cache's layout is snapshots/<commit>/<file>.
    return Resolved(name=name, origin=origin, folder=file.parent, entry=entry, repo=repo, revision=file.parent.name)


def _embedded(name: str) -> Path | None:
    folders = [PACKAGE / "_weights" / name]
    # Installed, the parent is site-packages, whose "weights" would be someone else's.
    if (PACKAGE.parent / "pyproject.toml").is_file():
        folders.append(PACKAGE.parent / "weights" / name)
    return next((folder for folder in folders if folder.is_dir()), None)


def _from_repo(name: str, repo: str, revision: str | None, local_files_only: bool) -> Resolved:
    if not revision or not _COMMIT.fullmatch(revision):
        logger.warning("%s is not pinned, so what it loads may change: pass revision= the commit you trust.", repo)
    file, cached = _fetch(repo, CONFIG, revision, local_files_only)
    try:
        _, weights_cached = _fetch(repo, WEIGHTS, file.parent.name, local_files_only)
    except _NoSuchFile:  # a checkpoint may be only a configuration: weights_file tells who needs more
        weights_cached = True
    return _from_cache(name, file, "cache" if cached and weights_cached else "hub", repo)


# --- Fetching one file


class _NoSuchRepo(MissingWeights):
    """The repository does not exist, or is private."""


class _NoSuchFile(MissingWeights):
    """The repository and revision exist, the file does not."""


def _fetch(repo: str, filename: str, revision: str | None, local_files_only: bool) -> tuple[Path, bool]:
    """Return a file of a repository in the Hub's cache, and whether it was there already."""
    what = f"{repo} at {revision or 'main'}"
    seen = try_to_load_from_cache(repo, filename, revision=revision)
    cached = Path(seen) if isinstance(seen, str) else None
    if local_files_only or _COMMIT.fullmatch(revision or ""):
        if cached:
            return cached, True
        if seen is not None:
            raise _NoSuchFile(f"{what} has no {filename}.")  # the server has said so before
    if local_files_only:
        absent = f"{filename} of {what} is not in the cache {constants.HF_HUB_CACHE}"
        raise MissingWeights(f"{absent} and local_files_only=True forbids fetching it: load it once without that.")
    url = hf_hub_url(repo, filename, revision=revision)
    answered = False
    try:
        commit = _patiently(
            lambda: get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **LIBRARY)
        ).commit_hash
        answered = True
        if commit is None:
            raise MissingWeights(f"{constants.ENDPOINT} does not answer like a Hub: check HF_ENDPOINT and proxies.")
        if cached and cached.parent.name == commit:
            return cached, True
        path: str = _patiently(lambda: hf_hub_download(repo, filename, revision=revision, **LIBRARY))
    except (OSError, httpx.HTTPError, hub_errors.EntryNotFoundError) as error:
        # Only a server that does not answer may be stood in for by an older copy, and never in silence.
        if cached and not answered and _unanswered(error):
            logger.warning("%s: the Hub does not answer; using the cached %s.", what, cached.parent.name)
            return cached, True
        raise _explained(error, repo, what, filename, revision) from error
    return Path(path), False


def _patiently(action: Callable[[], _T]) -> _T:
    for wait in _RETRY_AFTER:
        try:
            return action()
        except hub_errors.HfHubHTTPError as error:
            if error.response.status_code not in _RETRY_STATUS:
                raise
            logger.warning("The Hub answered %s; trying again.", error.response.status_code)
            time.sleep(wait)
    return action()


def _unanswered(error: Exception) -> bool:
    if isinstance(error, hub_errors.HfHubHTTPError):
        return error.response.status_code in _RETRY_STATUS
    return isinstance(
        error, hub_errors.OfflineModeIsEnabled | httpx.TransportError | hub_errors.LocalEntryNotFoundError
    )


def _explained(error: Exception, repo: str, what: str, filename: str, revision: str | None) -> WeightsError:
    """Return the error of ours that says what went wrong with a fetch and what to do."""
    hub, absent = constants.ENDPOINT, f"{filename} of {what} is not in the cache {constants.HF_HUB_CACHE}"
    if isinstance(error, hub_errors.GatedRepoError):
        return MissingWeights(
            f"{repo} is gated: accept its terms at {hub}/{repo}, then log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return _NoSuchRepo(
            f"There is no repository {repo} on {hub}, or it is private: check the spelling, or log in with "
            "`hf auth login`."
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return MissingWeights(
            f"{repo} has no revision {revision!r}: {hub}/{repo}/commits/main lists them; give a branch, a "
            "tag or a full commit."
        )
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return MissingWeights(f"{absent} and HF_HUB_OFFLINE is set: unset it to fetch the file once.")
    if isinstance(error, hub_errors.EntryNotFoundError) and not isinstance(error, hub_errors.LocalEntryNotFoundError):
        missing = missing_file(what, filename, _repo_files(repo, revision))
        return missing if isinstance(missing, UnsafeFormat) else _NoSuchFile(str(missing))
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) or "Consistency check" in str(error):
        return MissingWeights(f"The download of {filename} of {what} broke off. Nothing of it was kept; run it again.")
    if _unanswered(error):
        return MissingWeights(
            f"{hub} does not answer and {absent}: check the connection and try again, or load from a local folder. "
            f"({error})"
        )
    if isinstance(error, hub_errors.HfHubHTTPError):
        return MissingWeights(f"{hub} refused {filename} of {what} with HTTP {error.response.status_code}: {error}")
    full = " The disk is full: free some space." if getattr(error, "errno", None) == errno.ENOSPC else ""
    return MissingWeights(f"{filename} of {what} could not be fetched or stored.{full} ({error})")


def _repo_files(repo: str, revision: str | None) -> list[str]:
    """Return the names in a repository for a message, or nothing if it cannot be asked."""
    try:
        return HfApi(**LIBRARY).list_repo_files(repo, revision=revision)
    except (OSError, httpx.HTTPError):
        return []
