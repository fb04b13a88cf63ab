"""The command ``xenpv``, also as ``python -m xenpv_tools``. Ctrl-C while it is still being loaded is no trace either."""

import sys


def main() -> int:
    """cli.main; what it needs is loaded here, where Ctrl-C can be caught."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
