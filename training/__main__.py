"""`insight-train`, also as `python -m training`: one clear line where the extra is missing."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit code, 2 where the extra `training` is missing."""
    try:
        from training import cli
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"insight-train: {error.name} is not installed; "
            "run pip install 'open-insighttok[training,embedded]'\n"
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
