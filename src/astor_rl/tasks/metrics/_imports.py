"""Import an optional library, or say which extra installs it."""

from __future__ import annotations

import importlib
from typing import Any

from astor_rl.errors import DependencyError


def load(module: str, package: str) -> Any:
    """The module `module` of the distribution `package`.

    Raises:
        DependencyError: it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{package} is not installed ({error}); install astor-rl[tasks]"
        ) from error
