"""The model hub: what a repository holds at a commit, and the download of its files by the hub's own client.

The hub's listing names size and hash of every file. What came is compared with the listing, never with itself: a folder
that a broken download left looks like a whole one to everything else.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from anime_studio.core.errors import (
    AnimeStudioError,
    CheckpointError,
    DiskFullError,
    HubDeniedError,
    HubNotFoundError,
    HubRateLimitedError,
    HubUnreachableError,
)

_HIDDEN = ".cache"
"""The hub client's own notes in the folder it downloads into."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub lists it.

    Attributes:
        path: Within the repository.
        size_bytes: Its size.
        sha256: Of a large file (Git LFS, Xet); None for a small one.
        git_sha1: Git's id of a small file's blob: SHA-1 over `blob <size>`, a zero byte and the content; of a large
            file it is the id of the pointer, and None here.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None

    def fits(self, path: Path) -> bool:
        """Return whether a file of the listed size is at *path*."""
        return path.is_file() and path.stat().st_size == self.size_bytes

    def is_at(self, path: Path) -> bool:
        """Return whether the bytes at *path* are the listed ones."""
        if not self.fits(path):
            return False
        if self.sha256 is not None:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        if self.git_sha1 is None:
            return True
        blob = hashlib.sha1(f"blob {self.size_bytes}\0".encode(), usedforsecurity=False)
        blob.update(path.read_bytes())
        return blob.hexdigest() == self.git_sha1


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit that a fetch asks for.

    Attributes:
        repo_id: The repository.
        commit: 40 hex digits.
        files: What is to be fetched, by path.
    """

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def only(self, paths: Collection[str]) -> Listing:
        """Return the listing of these files alone."""
        return replace(self, files=tuple(file for file in self.files if file.path in paths))

    def bytes_in(self, folder: Path) -> int:
        """Return how many bytes have come into *folder*: of files of the listed size, and of those on their way."""
        whole = sum(file.size_bytes for file in self.files if file.fits(folder / file.path))
        return min(whole + size_of(folder / _HIDDEN), self.size_bytes)

    def clear(self, folder: Path) -> None:
        """Delete what *folder* holds besides files of the listed path and size.

        The hub's client begins a file that was interrupted anew, and believes its own notes on a file that it brought
        earlier. Without the notes it hashes each large file that is here, and brings each small one again.
        """
        shutil.rmtree(folder / _HIDDEN, ignore_errors=True)
        listed = {folder / file.path: file for file in self.files}
        for path in folder.rglob("*"):
            if path.is_symlink() or (path.is_file() and not (path in listed and listed[path].fits(path))):
                path.unlink()


@dataclass(frozen=True, slots=True)
class ModelHub:
    """The model hub.

    Attributes:
        endpoint: Its address; None for `HF_ENDPOINT`, or the public hub.
    """

    endpoint: str | None = None

    def commit_of(self, repo_id: str, revision: str) -> str:
        """Return the commit that *revision* names now.

        Raises:
            HubUnreachableError, HubDeniedError, HubNotFoundError, HubRateLimitedError: See their docstrings.
        """
        from huggingface_hub import HfApi

        with hub_errors(repo_id, revision):
            commit = HfApi(endpoint=self.endpoint).model_info(repo_id, revision=revision).sha
        if not commit:
            raise CheckpointError(f"the model hub names no commit for {repo_id}@{revision}")
        return commit

    def listing(self, repo_id: str, commit: str, patterns: Sequence[str]) -> Listing:
        """Return the files of the repository at *commit* whose paths match one of *patterns* (`fnmatch`).

        Raises:
            CheckpointError: None matches.
            HubUnreachableError, HubDeniedError, HubNotFoundError, HubRateLimitedError: See their docstrings.
        """
        from huggingface_hub import HfApi

        with hub_errors(repo_id, commit):
            info = HfApi(endpoint=self.endpoint).model_info(repo_id, revision=commit, files_metadata=True)
        files = [
            HubFile(
                file.rfilename,
                (file.lfs.size if file.lfs else file.size) or 0,
                file.lfs.sha256 if file.lfs else None,
                None if file.lfs else file.blob_id,
            )
            for file in info.siblings or ()
            if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
        ]
        if not files:
            raise CheckpointError(
                f"{repo_id} at {commit} holds none of the files that are needed: {', '.join(patterns)}"
            )
        return Listing(repo_id, commit, tuple(sorted(files, key=lambda file: file.path)))

    def download(self, listing: Listing, folder: Path) -> None:
        """Download the files of *listing* into *folder*, and check each against the listing.

        Large files that are there and whole are not downloaded again; what is not of *listing* is deleted.

        Raises:
            CheckpointError: A file that came is not the listed one; it was deleted.
            DiskFullError: The disk has no room for what is still to come; or it ran full.
            HubUnreachableError, HubDeniedError, HubNotFoundError, HubRateLimitedError: The files that came stay.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        folder.mkdir(parents=True, exist_ok=True)
        listing.clear(folder)
        _require_room(listing, folder)
        disable_progress_bars()  # ours counts bytes of all files together
        with hub_errors(listing.repo_id, listing.commit):
            snapshot_download(
                listing.repo_id,
                revision=listing.commit,
                local_dir=folder,
                allow_patterns=[file.path for file in listing.files],
                endpoint=self.endpoint,
            )
        wrong = [file.path for file in listing.files if not file.is_at(folder / file.path)]
        for path in wrong:
            (folder / path).unlink(missing_ok=True)
        if wrong:
            shutil.rmtree(folder / _HIDDEN, ignore_errors=True)  # the client's note that the file is there
            raise CheckpointError(
                f"{wrong[0]} did not come as {listing.repo_id} at {listing.commit} lists it (size or hash); "
                f"{len(wrong)} such files were deleted, run the same command again"
            )
        shutil.rmtree(folder / _HIDDEN, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in *folder*, which others may write and rename meanwhile."""
    size_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            size_bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size_bytes


def _require_room(listing: Listing, folder: Path) -> None:
    to_come = listing.size_bytes - listing.bytes_in(folder)
    free = shutil.disk_usage(folder).free
    if to_come > free:
        raise DiskFullError(
            f"{listing.repo_id} needs {to_come / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free; "
            "free some space, or choose another folder with ANIME_STUDIO_DATA_DIR, then run the same command again"
        )


@contextmanager
def hub_errors(repo_id: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises over a repository into errors of ours, each with what a person can do."""
    try:
        yield
    except AnimeStudioError:
        raise
    except Exception as error:  # the hub client raises its own, its transport's and the system's errors
        raise _named(error, f"{repo_id} at {revision}") from error


def _named(error: Exception, what: str) -> AnimeStudioError:
    from huggingface_hub import errors as hub

    chain = list(_causes(error))
    if any(isinstance(cause, OSError) and cause.errno in DiskFullError.errnos for cause in chain):
        return DiskFullError(
            f"the disk ran full while {what} was fetched; what came stays: free some space and run the same command again"
        )
    status = next((status for cause in chain if (status := _status_of(cause)) is not None), None)
    if any(isinstance(cause, hub.GatedRepoError) for cause in chain) or status in (401, 403):
        return HubDeniedError(
            f"the model hub does not give {what} to this machine ({status or 'gated'}): check the name, accept the "
            "repository's terms on its page, then log in with: hf auth login (or set HF_TOKEN)"
        )
    if status == 404:
        return HubNotFoundError(f"the model hub has no {what} (404): check repository and revision")
    if status == 429:
        return HubRateLimitedError(
            f"the model hub asks this address to wait (429) over {what}; what came stays: run the same command "
            "again in a few minutes; HF_TOKEN raises the limit"
        )
    return HubUnreachableError(
        f"{what} could not be fetched: the model hub does not answer ({type(chain[-1]).__name__}: {chain[-1]}); "
        "what came stays: check the network and run the same command again"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)
