"""Whether the hub has a model of some name, asked once: transformers asks for half a minute about each of its files."""

from pathlib import Path

from megatron_srp.errors import UsageError


def check_model_name(what: str, name: str) -> None:
    """Let a folder pass, a model in the hub's cache, and one on the hub.

    Args:
        what: what the name is for, in the error.

    Raises:
        UsageError: for any other name, and when the hub cannot be reached.
    """
    if Path(name).exists():
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if not _is_cached(name):
            HfApi().model_info(name, timeout=60)
    except (RepositoryNotFoundError, HFValidationError):  # the second where it could not be a name there
        raise UsageError(f"{what} {name}: no such folder, and no such model on the Hugging Face hub") from None
    except Exception as error:  # raised by many libraries
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UsageError(f"{what} {name}: no such folder, and not found on the Hugging Face hub ({reason})") from None


def _is_cached(name: str) -> bool:
    """Whether any file of it was downloaded once."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
    return any((folder / "snapshots").glob("*/*"))
