"""The attacks on the sandbox (`tests/sandbox/attacks/*.toml`): what they are and how they end."""
