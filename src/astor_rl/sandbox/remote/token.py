"""The secret that trainers and sandbox servers share. It is in no config, log or command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from astor_rl.errors import SandboxError

VARIABLE: Final = "ASTOR_SANDBOX_TOKEN"
"""Environment variable that is read where no file is named."""
_LEAST, _MOST = 16, 512


def read_token(path: str | None) -> str:
    """The token in a file, else the one in the environment, else "".

    Raises:
        SandboxError: the file can't be read, or what is there is no token.
    """
    if path:
        origin = f"token file {path!r}"
        try:
            text = Path(path).expanduser().read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise SandboxError(f"{origin} can't be read: {error}") from None
    else:
        origin, text = f"environment variable {VARIABLE}", os.environ.get(VARIABLE, "")
        if not text:
            return ""
    token = text.strip()
    # Never the text itself: messages end up in logs.
    if not (_LEAST <= len(token) <= _MOST and token.isascii() and token.isprintable()):
        raise SandboxError(
            f"{origin} holds {len(token)} characters; a token is one line of {_LEAST} to {_MOST} "
            "visible ASCII characters, as from: openssl rand -hex 32"
        )
    if " " in token:
        raise SandboxError(f"{origin} holds a blank; a token is one word")
    return token
