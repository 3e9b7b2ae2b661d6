"""An example's identity: a hash of what it says, the same on every machine and in every run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from astor_rl.errors import DataError


def content_key(kind: str, fields: Mapping[str, Any]) -> str:
    """The key of an example: BLAKE2b-128 of its kind and fields, as 32 hex characters.

    Field order doesn't matter; everything else does (`1` and `1.0` differ). Put into `fields`
    only what defines the question and its verdict, never where it came from.

    Args:
        kind: the task's kind, so that one row used by two tasks has two keys.
        fields: JSON values with text keys.

    Raises:
        DataError: a value isn't JSON.
    """
    try:
        text = json.dumps([kind, fields], sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise DataError(f"{kind} example can't be hashed: {error}; fields must be JSON") from None
    return blake2b(text.encode(), digest_size=16).hexdigest()
