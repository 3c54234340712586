"""From hub names to folders on disk, and back for `export --push`. Nothing else talks to the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.cache import in_reach
from isthmus.encoders import modules
from isthmus.encoders.uri import EncoderURI, is_path
from isthmus.errors import InputError, OfflineError, UsageError, caught
from isthmus.files import file_digest, read_json

# Some networks of transformers fetch compute kernels by themselves where the package `kernels` is there.
os.environ.setdefault("USE_HUB_KERNELS", "0")

WEIGHTS = "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CODE = (".py", ".bin", ".pt", ".pth", ".pkl", ".npz")
ADAPTER = "adapter_config.json"
AGAIN = "There are no weights at all: fetch the model again, or save it again."
UNREAD = "Pickled weights can run code and are not read."
# Configuration, tokenizers and cards: fetched first, because they say which weight files are needed.
SMALL = ["*.json", "*.jsonl", "*.txt", "*.model", "*.py", "*.jinja", "README.md"]
# Entries of configurations about how they were saved, which do not affect features.
INCIDENTAL = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("_valid_processor_keys", "data_format", "device", "disable_grouping", "feature_extractor_type"),
    *("input_data_format", "processor_class", "return_tensors", "use_fast"),
}


class LanguageFolder(NamedTuple):
    """A causal language model on disk: its folder, licence and revision, and what must be said of it."""

    path: Path
    licence: str | None
    revision: str | None
    note: str = ""


def resolve(uri: EncoderURI, repo: str, revision: str | None, *, weights: str = WEIGHTS, fetch: bool = True) -> Path:
    """The folder of `uri`: the path it names, or the snapshot of `repo`, fetched unless it is in the cache.

    Raises UsageError for a name or revision that does not exist, OfflineError for one that cannot be fetched,
    InputError for a folder that holds no safetensors.
    """
    if is_path(uri.name):
        folder = Path(uri.name).expanduser()
        if not folder.is_dir():
            raise InputError(f"{uri}: no such folder.")
    else:
        folder = _snapshot(uri, repo, revision, SMALL, fetch)
        _snapshot(uri, repo, revision, weight_names(folder, weights), fetch)
    _require_weights(uri, folder, weights, complete=not is_path(uri.name) and fetch and not offline())
    return folder


def weight_names(folder: Path, weights: str = WEIGHTS) -> list[str]:
    """Weight files of the model in `folder` and of each module of a Sentence-Transformers pipeline, nested ones too."""
    if weights != WEIGHTS:
        return [weights]
    return [name for path in sorted({"", *modules.find_modules(folder)}) for name in _weights_in(folder, path)]


def weight_files(folder: Path, weights: str = WEIGHTS) -> list[Path]:
    """The weight files that exist. A shard that is in the index but missing is an `InputError`."""
    files = [folder / name for name in weight_names(folder, weights)]
    for file in files:
        if not file.exists() and file.name not in (WEIGHTS, weights):
            raise InputError(f"{file}: a shard of the weights is missing. Fetch the model again.")
    return [file for file in files if file.exists()]


@contextmanager
def loading(uri: EncoderURI) -> Iterator[None]:
    """Load quietly and without the hub, and turn errors of the libraries on unreadable files into an `InputError` of
    one line.
    """
    with quiet(), caught(uri):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks and bars of transformers, and without the hub."""
    from huggingface_hub import constants
    from transformers.utils import logging

    verbosity, bars, offline_before = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        constants.HF_HUB_OFFLINE,
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline_before
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_cached(repo: str, file: str) -> bool:
    """Whether the hub's cache holds a file of a repository, in its newest known revision."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, file), str)


def upload(folder: Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload a folder that `export` wrote to the repository `repo` (owner/name), made if need be; returns its address.

    token: default the one that `hf auth login` or HF_TOKEN left.
    Raises `OfflineError` where the hub cannot be reached or may not be, `InputError` for what it refuses.
    """
    from huggingface_hub import HfApi, constants, errors

    if offline() or constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"{repo}: nothing is pushed while ISTHMUS_OFFLINE or HF_HUB_OFFLINE is set. {folder} is whole."
        )
    api = HfApi(token=token)
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export by isthmus")
    except errors.HFValidationError as error:
        raise InputError(f"{repo}: {error}") from None
    except errors.HfHubHTTPError as error:
        said = " ".join(str(error.server_message or error).split())
        raise InputError(f"{repo}: the hub refused: {said[:300]} (`hf auth login` once?). {folder} is whole.") from None
    except (OSError, errors.HTTPError) as error:
        raise OfflineError(f"{repo}: the hub cannot be reached ({type(error).__name__}). {folder} is whole.") from None
    return address


@dataclass(frozen=True)
class CachedModel:
    """A model in the hub's cache: its name, its newest revision there, its bytes on disk."""

    repo: str
    folder: Path
    bytes: int


def cached_models() -> list[CachedModel]:
    """Models in the hub's cache, by name."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model" and repo.revisions]
    except CacheNotFound:
        return []
    newest = ((repo, max(repo.revisions, key=lambda revision: revision.last_modified)) for repo in repos)
    found = [CachedModel(repo.repo_id, revision.snapshot_path, repo.size_on_disk) for repo, revision in newest]
    return sorted(found, key=lambda model: model.repo)


def cache_folder() -> str:
    """Where the hub's files are kept."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def offline() -> bool:
    """Whether the user asked for no network at all (`ISTHMUS_OFFLINE=1`)."""
    return os.environ.get("ISTHMUS_OFFLINE", "0") not in ("", "0")


def revision_of(folder: Path) -> str | None:
    """The commit of a hub snapshot, which the hub's cache uses as folder name."""
    return folder.name if folder.parent.name == "snapshots" else None


def licence_of(folder: Path) -> str | None:
    """The `license` line of the model card, if there is one."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    found = re.match(r"---\s*\n.*?^license:[ \t]*([^\s#]+)", text, re.DOTALL | re.MULTILINE)
    return found[1].strip("'\"") if found else None


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A configuration without its incidental entries."""
    return {key: value for key, value in read_json(folder / name).items() if key not in INCIDENTAL}


def code(folder: Path) -> dict[str, Any]:
    """An ingredient of encoders whose own code runs: {"code": digest per file of code and of what only it reads}."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in CODE and file.is_file())
    digests = {file.relative_to(folder).as_posix(): file_digest(file) for file in files}
    return {"code": digests} if digests else {}


def _weights_in(folder: Path, path: str) -> list[str]:
    prefix = f"{path}/" if path else ""
    index = folder / path / f"{WEIGHTS}.index.json"
    if (folder / path / WEIGHTS).exists() or not index.exists():
        return [prefix + WEIGHTS]
    listed = read_json(index)
    shards = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(shards, dict):
        raise InputError(f"{index}: not an index of weights: it has no weight_map.")
    for shard in sorted(set(map(str, shards.values()))):
        if not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise InputError(f"{index}: names {shard!r}, which is no safetensors file beside it. {UNREAD}")
    return sorted({prefix + shard for shard in shards.values()})


def _require_weights(uri: EncoderURI, folder: Path, weights: str, complete: bool) -> None:
    """Refuse a model without safetensors, or with a module that has none where it needs some.

    complete: the folder has just been fetched, so what it lacks does not exist.
    """
    existing, found = weight_files(folder, weights), modules.find_modules(folder) if weights == WEIGHTS else {}
    needed = [path for path, type_ in found.items() if modules.kind(type_) in modules.WEIGHTED] if found else [""]
    for place in (folder / path for path in needed):
        if (place / ADAPTER).exists():
            raise InputError(
                f"{uri}: {place / ADAPTER}: an adapter of another model. Merge the two and save the result."
            )
        if not any(file.parent == place for file in existing):
            pickled = complete or any((place / name).exists() for name in PICKLES)
            raise InputError(f"{uri}: no safetensors in {place}. {_remedy(uri) if pickled else AGAIN}")


def _remedy(uri: EncoderURI) -> str:
    convert = "SentenceTransformer(…)" if uri.source == "st" else "AutoModel.from_pretrained(…)"
    return (
        f"{UNREAD} Choose a revision with safetensors, or convert them once if you trust them,"
        f" `{convert}.save_pretrained(folder)`, and use {uri.source}:/path/to/folder."
    )


def _closed(error: BaseException | None) -> OSError | None:
    """A message that the cache cannot be written to, if that caused `error`."""
    while error is not None:  # a connection that is refused names no file
        if isinstance(error, OSError) and error.filename and error.errno in (EACCES, EPERM, EROFS, ENOSPC, EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


def _snapshot(uri: EncoderURI, repo: str, revision: str | None, patterns: list[str], fetch: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    cache = Path(constants.HF_HUB_CACHE)
    with in_reach(cache, "HF_HOME"), suppress(FileNotFoundError):
        os.scandir(cache).close()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=patterns, local_files_only=not fetch or offline()
            )
        )
    except errors.GatedRepoError as error:
        raise InputError(f"{uri}: access to this model must be granted on its hub page first ({error}).") from None
    except errors.RepositoryNotFoundError:
        raise UsageError(f"{uri}: no model {repo!r} on the hub, or it is private.") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{uri}: {repo} has no revision {revision!r}.") from None
    except (errors.HFValidationError, json.JSONDecodeError) as error:
        raise UsageError(f"{uri}: {error}") from None
    except (ImportError, ValueError) as error:  # a proxy whose address or kind the client does not take
        if fetch:
            with suppress(OfflineError):
                return _snapshot(uri, repo, revision, patterns, fetch=False)
        reason = " ".join(str(error).split())
        raise OfflineError(f"{uri}: the hub cannot be reached as the proxy settings say ({reason}).") from None
    except (OSError, errors.EntryNotFoundError, errors.HTTPError) as error:  # HTTPError: broken off half-way
        if closed := _closed(error):
            with in_reach(cache, "HF_HOME"):
                raise closed from None
        at = f" --revision {revision}" if revision else ""
        raise OfflineError(
            f"{uri}: not in the cache, and it cannot be fetched now ({type(error).__name__}). With a network,"
            f" run `hf download {repo}{at}` once; a folder is named {uri.source}:/path/to/folder."
        ) from None
