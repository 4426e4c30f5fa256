"""Write the golden files anew: the only writer. Their diff is to be explained in CHANGELOG.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.golden import loss_curve


def main() -> None:
    """Regenerate every golden file."""
    with tempfile.TemporaryDirectory() as folder:
        curve = loss_curve.loss_curve(Path(folder))
    loss_curve.GOLDEN.write_text(loss_curve.to_text(curve))
    sys.stderr.write(f"wrote {loss_curve.GOLDEN}\n")


if __name__ == "__main__":
    main()
