"""`python -m astor_rl` is the `astor` command."""

from astor_rl.cli import main

if __name__ == "__main__":
    main()
