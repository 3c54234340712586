"""An export on the hub: the only step that talks to the network, and only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from isthmus.encoders import hub
from isthmus.errors import InputError, OfflineError


def push(folder: Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload what `export` wrote to the repository `repo` (owner/name), made if it is not there; returns its address.

    token: default the one that `hf auth login` or HF_TOKEN left.
    Raises `OfflineError` where the hub cannot be reached or may not be, `InputError` for what it refuses.
    """
    from huggingface_hub import HfApi, errors

    if hub.offline() or _hub_offline():
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


def _hub_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
