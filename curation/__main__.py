"""`insight-curate`, also as `python -m curation`: one clear line where the extra is missing."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit code, 2 where the extra `curation` is missing.

    An interrupted run leaves at once: its workers' threads may be inside native code, and an
    interpreter that winds down would take the libraries from under them and abort.
    """
    try:
        from curation import cli
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"insight-curate: {error.name} is not installed; "
            "run pip install 'open-insighttok[curation,embedded]'\n"
        )
        return 2
    code = cli.main()
    if code == cli.EXIT_INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
