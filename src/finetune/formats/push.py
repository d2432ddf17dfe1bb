"""Uploads a model to the Hugging Face hub: private unless told otherwise, without pickles, and checked afterwards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError, RunError, first_line
from finetune.inference.locate import locate
from finetune.runs.artifact import files_of

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LONGEST_REPO = 96  # characters that the hub allows
_READ = 1 << 20
_HIDDEN = "***"


class PushFailed(RunError):
    """The hub cannot be reached, refuses, or has other content than what was sent."""


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded: the files of `folder` with their sizes in bytes, to the repository `repo` of the hub."""

    folder: Path
    repo: str
    is_private: bool
    updates: bool
    files: Mapping[str, int]

    @property
    def card(self) -> Path:
        """The model card, which the hub shows; it may be missing."""
        return self.folder / "README.md"

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(self.files.values())


def planned_upload(model: Any, repo: str, *, public: bool = False, update: bool = False) -> Upload:
    """Return what `push` would upload of a run, a folder or an artifact; needs neither the hub nor a token.

    Raises:
        FinetuneError: there is no such model, it has pickles or code, `repo` is not a name.
    """
    is_name = isinstance(repo, str) and _REPO.fullmatch(repo) and len(repo) <= _LONGEST_REPO
    if not is_name or ".." in repo or "--" in repo:
        raise FinetuneError(f"{repo!r} is not a name of a repository.", "Give ORG/NAME, as in my-team/my-model.")
    folder = locate(model).folder
    files = {name: (folder / name).stat().st_size for name in files_of(folder)}
    return Upload(folder, repo, not public, update, files)


def prepare_push(model: Any, repo: str, *, public: bool = False, update: bool = False) -> Upload:
    """Return what `push` would upload, after asking the hub; changes nothing there.

    Without `update` the repository must not exist; with it, it must, and a public one needs `public`.

    Raises:
        FinetuneError: as `planned_upload`; there is no token.
        PushFailed: the hub cannot be reached or refuses the token; the repository exists, or does not.
    """
    upload = planned_upload(model, repo, public=public, update=update)
    client = _Client(repo)
    exists, is_private = client.state()
    if exists and not update:
        raise PushFailed(f"the repository {repo} exists.", "Choose another name, or add --update to replace its files.")
    if update and not exists:
        raise PushFailed(f"there is no repository {repo} to update.", "Check its name, or leave out --update.")
    if exists and not is_private and not public:
        raise PushFailed(f"the repository {repo} is public.", "Add --public to publish the model in it.")
    return replace(upload, is_private=is_private) if exists else upload


def push(upload: Upload) -> str:
    """Upload the files in one commit, compare their checksums on the hub, and return the address of the repository.

    Raises:
        PushFailed: the hub cannot be reached or refuses; a file on the hub differs from the one here.
    """
    return _Client(upload.repo).upload(upload)


class _Client:
    """The hub with the token of this machine, which is in no message."""

    def __init__(self, repo: str) -> None:
        import huggingface_hub
        from huggingface_hub import constants

        self._repo = repo
        self._token = huggingface_hub.get_token()
        if constants.HF_HUB_OFFLINE:
            what = "HF_HUB_OFFLINE is set, so nothing can be uploaded."
            raise FinetuneError(what, "Unset it where there is a network.")
        if not self._token:
            what = "there is no token of the Hugging Face hub on this machine."
            raise FinetuneError(what, "Log in with `hf auth login`, or set HF_TOKEN to a token that may write.")
        self._api = huggingface_hub.HfApi(token=self._token)

    def state(self) -> tuple[bool, bool]:
        """Return whether the repository exists, and whether it is private."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._explained("look up"):
            self._api.whoami()  # with a wrong token a repository seems not to exist
            try:
                info = self._api.model_info(self._repo)
            except RepositoryNotFoundError:
                return False, True
        return True, bool(info.private)

    def upload(self, upload: Upload) -> str:
        """Create the repository if it is new, upload all files, and check them; return its address."""
        from huggingface_hub import CommitOperationAdd

        paths = {name: upload.folder / name for name in upload.files}
        operations = [CommitOperationAdd(name, path) for name, path in paths.items()]
        with self._explained("create"):
            if not upload.updates:
                self._api.create_repo(self._repo, private=upload.is_private)
        with self._explained("upload to"):
            commit = self._api.create_commit(self._repo, operations, commit_message="Upload with finetune")
            infos = self._api.get_paths_info(self._repo, list(paths), revision=commit.oid)
        found = {info.path: info for info in infos}
        for name, path in paths.items():
            if name not in found or not _is_same(path, found[name]):
                what = f"{name} on the hub differs from the file that was uploaded."
                raise PushFailed(what, f"Do not use {self._repo} as it is; upload again with --update.")
        return f"{self._api.endpoint}/{self._repo}"

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Convert errors of the client and of the network to ones that say what to do, without the token."""
        from huggingface_hub import errors

        # Of the HTTP library that the client uses, whichever it is.
        http_error: type[Exception] = vars(errors)["HTTPError"]

        try:
            yield
        except errors.HfHubHTTPError as error:
            raise self._refusal(error.response.status_code, error, doing) from None
        except (http_error, OSError, ValueError, RuntimeError) as error:
            what = f"could not {doing} {self._repo} on the hub: {self._without_token(error)}."
            raise PushFailed(what, "Check the network, and try again.") from None

    def _refusal(self, status: int, error: Exception, doing: str) -> PushFailed:
        if status == 401:
            return PushFailed(
                "the hub refuses the token.", "Log in again with `hf auth login`, or set another HF_TOKEN."
            )
        if status == 403:
            what = f"the token may not {doing} {self._repo}."
            return PushFailed(what, "Use one with the right to write there, or another organization.")
        if status == 409:
            what = f"the repository {self._repo} exists."
            return PushFailed(what, "Choose another name, or add --update to replace its files.")
        what = f"could not {doing} {self._repo}: the hub answers {status} ({self._without_token(error)})."
        return PushFailed(what, "Try again later.")

    def _without_token(self, error: Exception) -> str:
        return first_line(error).replace(str(self._token), _HIDDEN)


def _is_same(path: Path, info: Any) -> bool:
    """Whether a file on the hub has the content of this one: by its SHA-256, or if git holds it by git's SHA-1."""
    if info.size != path.stat().st_size:
        return False
    if info.lfs is not None:
        with path.open("rb") as file:
            return bool(hashlib.file_digest(file, "sha256").hexdigest() == info.lfs.sha256)
    digest = hashlib.sha1(f"blob {info.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return bool(digest.hexdigest() == info.blob_id)
