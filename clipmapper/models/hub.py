"""Models of the Hugging Face hub where there is no network: those kept here are taken, for others one line says so at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

WEIGHTS = (".safetensors", ".bin", ".pt")  # how files of weights end
PATIENCE = (
    5.0  # seconds until a hub that does not answer counts as unreachable; huggingface_hub itself tries for a minute
)

# hubs that have answered this process, which need not be asked again for the next part of a model
_answered: set[str] = set()


def kept(repo: str) -> bool:
    """Tells whether weights of a repository are in the hub's cache on this machine."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots"
    return any(path.suffix in WEIGHTS for path in folder.glob("*/*"))


def require_hub(repo: str, what: str, remedy: str) -> None:
    """Raises OSError for a repository that is not kept here while the hub cannot be reached.

    Args:
        repo: its id.
        what: what the user asked for, in words.
        remedy: how to give it as a file or folder.
    """
    if kept(repo) or (constants.ENDPOINT in _answered and not constants.is_offline_mode()):
        return
    if constants.is_offline_mode():
        reason = "HF_HUB_OFFLINE is set"
    else:
        try:
            requests.head(constants.ENDPOINT, timeout=PATIENCE)
            _answered.add(constants.ENDPOINT)
            return
        except requests.RequestException as error:
            reason = f"{constants.ENDPOINT} cannot be reached: {type(error).__name__}"
    raise OSError(
        f"{what} is neither kept in {constants.HF_HUB_CACHE} nor to be had from the hub as {repo} ({reason}); {remedy}"
    )


@contextmanager
def without_network(repo: str) -> Iterator[None]:
    """Within, huggingface_hub does not ask whether what is kept of `repo` is the newest; nothing changes if nothing is kept."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or kept(repo)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
