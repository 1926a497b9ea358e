"""The Hugging Face Hub, through huggingface_hub: a config and the sizes in the weights' headers, nothing else.

No weights are downloaded and no code of a repository is run. The library is optional; each way to fail is one line.
"""

from dataclasses import dataclass
from pathlib import Path

from planner.errors import BrokenInput, UsageError, first_line
from planner.formulas.params import model_params
from planner.spec import ModelSpec
from planner.units import format_count

INSTALL = "pip install huggingface_hub"
TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Repository:
    """What the Hub said: the bytes of ``config.json`` and the parameters that the safetensors headers count."""

    config: bytes
    stored_params: int | None


def fetch(repository: str, hint: str) -> Repository:
    """The config and the parameter count of a repository; without a network, what the local cache holds of it."""
    try:
        from huggingface_hub import HfApi, errors  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        problem = f"is not in the catalogue; to look on the Hub: {INSTALL}, or give a local config.json"
        raise UsageError(line(repository, problem, hint)) from None
    try:
        info = HfApi().model_info(repository, timeout=TIMEOUT_S, expand=["safetensors"])
    except errors.HFValidationError:
        raise UsageError(line(repository, "is in no catalogue, and no name that the Hub could hold", hint)) from None
    except errors.RepositoryNotFoundError:
        problem = "is neither in the catalogue nor on the Hub (or is private: log in with `hf auth login`)"
        raise UsageError(line(repository, problem, hint)) from None
    except errors.HfHubHTTPError as error:
        raise UsageError(line(repository, f"could not be read from the Hub: {first_line(error)}", hint)) from None
    except Exception:  # no network: the library's HTTP client and its errors differ from version to version
        return Repository(download(repository, hint, online=False), None)
    total = getattr(getattr(info, "safetensors", None), "total", None)
    return Repository(download(repository, hint, online=True), total if isinstance(total, int) else None)


def download(repository: str, hint: str, *, online: bool) -> bytes:
    """The bytes of ``config.json``, from the cache alone when the Hub did not answer."""
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    disable_progress_bars()
    try:
        return Path(hf_hub_download(repository, "config.json", local_files_only=not online)).read_bytes()
    except errors.GatedRepoError:
        problem = "is gated: accept its licence on huggingface.co and log in with `hf auth login`"
    except errors.LocalEntryNotFoundError:
        problem = "is not in the catalogue, and the Hub cannot be reached: give a local config.json"
    except errors.EntryNotFoundError:
        raise BrokenInput(f"{repository} on the Hub holds no config.json, so it is no transformers model") from None
    except (errors.HfHubHTTPError, OSError) as error:
        problem = f"could not be read from the Hub: {first_line(error)}"
    raise UsageError(line(repository, problem, hint))


def line(repository: str, problem: str, hint: str) -> str:
    """One line: what was asked, what is wrong, what is nearest."""
    return f"model {repository[:120]!r} {problem}" + (f"; {hint}" if hint else "")


def check_count(stored: int | None, model: ModelSpec) -> tuple[str, ...]:
    """A note when the headers of the weights count other parameters than the formula."""
    if stored is None:
        return ("its parameter count could not be checked against the headers of its weights",)
    ours = model_params(model)
    if stored == ours or any("stored in" in note or "already quantised" in note for note in model.notes):
        return ()
    return (f"the repository stores {format_count(stored)} parameters, its text model has {format_count(ours)}",)


def cached_file(repository: str, name: str) -> Path | None:
    """A file of a repository that the local cache holds; never the network."""
    try:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(repository, name)
    except (OSError, ValueError):  # a name that the Hub could not hold, a cache that cannot be read
        return None
    return Path(found) if isinstance(found, str) else None
