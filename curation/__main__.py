"""`insight-curate`, also as `python -m curation`: one clear line where the extra is missing."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit code, 2 where the extra `curation` is missing."""
    try:
        from curation import cli
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"insight-curate: {error.name} is not installed; "
            "run pip install 'open-insighttok[curation,embedded]'\n"
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
