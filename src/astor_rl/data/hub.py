"""Rows of Hugging Face datasets, through the `datasets` library (extra `hf`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from astor_rl.errors import ConfigError, DataError, DependencyError

REACH_TIMEOUT_S = 5.0
"""Seconds to wait for the hub's first answer before saying that it can't be reached."""

_SPEC = re.compile(r"(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")


def hub_rows(spec: str, base_dir: Path, *, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(origin, row) of every row of a dataset.

    Args:
        spec: `owner/name[:config][@split]`, or a folder (`./folder`) in the hub's layout.
        base_dir: what a relative folder is relative to.
        split: the dataset's split when `spec` names none.

    Raises:
        DependencyError: the extra isn't installed.
        ConfigError: the spec isn't understood.
        DataError: the dataset can't be found, reached or read.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"'hf:{spec}' isn't understood; it must be hf:owner/name:config@split")
    name, chosen = match["name"], match["split"] or split
    is_local = name.startswith((".", "/", "~"))
    if is_local:
        folder = (base_dir / Path(name).expanduser()).resolve()
        if not folder.is_dir():
            raise DataError(f"hf:{spec}: no folder {folder}")
        path = str(folder)
    else:
        path = name
    dataset = _load(path, match["config"], chosen, spec, check=not is_local)
    for number, row in enumerate(dataset):
        if not isinstance(row, Mapping):
            raise DataError(f"hf:{spec}: row {number} is {type(row).__name__}, not a record")
        # Absent columns come as None where the file's other rows have them.
        yield f"hf:{spec}:{number}", {k: v for k, v in row.items() if v is not None}


def _why(error: Exception) -> str:
    """The first line of an error, and of the one that it came from."""
    found: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(found) < 2:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        found.append(lines[0])
        cause = cause.__cause__
    return ": ".join(found)


def _load(path: str, config: str | None, split: str, spec: str, *, check: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise DependencyError("hf: sources need the extra: pip install 'astor-rl[hf]'") from None
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if check:
            _check_reachable(path, spec)
        return datasets.load_dataset(path, name=config, split=split)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises anything from anywhere
        raise DataError(f"hf:{spec} can't be loaded (split {split!r}): {_why(error)}") from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def _check_reachable(name: str, spec: str) -> None:
    """Ask once, with a short timeout: the library itself would retry for minutes."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    api = HfApi()
    try:
        api.dataset_info(name, timeout=REACH_TIMEOUT_S)
    except RepositoryNotFoundError:
        raise DataError(f"hf:{spec}: no dataset {name!r} on {api.endpoint}, or no access") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no status")
        raise DataError(f"hf:{spec}: {api.endpoint} answered {status} for {name!r}") from None
    except Exception as error:  # noqa: BLE001 - the transport's own errors
        raise DataError(
            f"hf:{spec}: {api.endpoint} can't be reached ({type(error).__name__}); use a local "
            "copy (hf:./folder), or HF_HUB_OFFLINE=1 if it was downloaded before"
        ) from None
