"""The errors of Open InsightTok, all below one root.

    InsightTokError
    |-- UsageError          misuse: one line with value, rule and mend; a command line exits with 2
    |-- GeometryError       arrays that are not the geometry they claim to be
    |-- ManifestError       a manifest that breaks the specification
    |   `-- VersionError    a manifest of a newer major version than this library reads
    |-- WeightsError        weights that are absent or are not the file they should be
    `-- ImageDecodeError    bytes that are no usable image (annotations_schema.images)

Bad data is not an error here: it is a row with a FailureCode.
"""

from __future__ import annotations


class InsightTokError(Exception):
    """Root of every error that Open InsightTok raises on purpose."""


class UsageError(InsightTokError, ValueError):
    """Misuse by the caller; the message is one line: the value, the rule, the mend."""


class GeometryError(InsightTokError, ValueError):
    """An array whose shape, dtype or range is not what the geometry needs."""


class ManifestError(InsightTokError, ValueError):
    """A manifest that breaks the specification; names row, column, value and rule."""


class VersionError(ManifestError):
    """A manifest written by a newer major version of the format."""


class WeightsError(InsightTokError):
    """Weights that cannot be found, or whose sha256 is not the recorded one."""
