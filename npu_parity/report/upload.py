"""Upload of a published folder to a hub, with the hub's own client and its own credentials."""

from collections.abc import Callable
from pathlib import Path

from npu_parity.errors import ParityError
from npu_parity.sources.faults import in_one_line

MESSAGE = "Published by npu-parity"


def upload(folder: Path, repo: str, hub: str, license_: str) -> None:
    """Upload every file of a folder to a repository, which is made if it does not exist.

    Args:
        folder: what `publish` has written.
        repo: OWNER/NAME.
        hub: ``huggingface`` or ``modelscope``.
        license_: of the weights. ModelScope asks for it when it makes a repository.

    Raises:
        ParityError: the hub cannot be reached, does not give access, or has no client here.
    """
    require(repo, hub)
    with in_one_line(f"{hub}:{repo} cannot be uploaded"):
        CLIENTS[hub](folder, repo, license_)


def require(repo: str, hub: str) -> None:
    """Raise ParityError if there is no client for the hub, or the repository has no owner."""
    if hub not in CLIENTS:
        raise ParityError(
            f"hub {hub!r} has no client: push the folder with git, or take {' or '.join(CLIENTS)}"
        )
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise ParityError(f"--upload: found {repo!r}, expected OWNER/NAME")


def _huggingface(folder: Path, repo: str, _license: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message=MESSAGE)


def _modelscope(folder: Path, repo: str, license_: str) -> None:
    from modelscope_hub import HubApi

    api = HubApi()
    if not api.repo_exists(repo, "model"):
        api.create_repo(repo, "model", license=license_)
    api.upload_folder(repo, "model", folder, commit_message=MESSAGE, use_cache=False)


CLIENTS: dict[str, Callable[[Path, str, str], None]] = {
    "huggingface": _huggingface,
    "modelscope": _modelscope,
}
