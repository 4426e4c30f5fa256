"""The URL lists of the demo: what a data engineer would hand to `insight-curate run`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.codes import FailureCode
from annotations_schema.layout import atomic_write
from curation.demo.gallery import GalleryImage
from curation.demo.posters import PosterWord
from curation.demo.server import ServedFile, TroubleServer
from curation.demo.troubles import BAD_ROWS, TROUBLES

LIST_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("license", pa.string()),
        pa.field("source", pa.string()),
        pa.field("words", pa.string()),
    ]
)
"""`words` is a JSON list of {"text", "box_xyxy"}; the manifest carries it on as `input_words`."""

_CONTENT_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


class ListRow(NamedTuple):
    """One row of a URL list, and what curation must make of it."""

    what: str
    """For people: what is at the URL, or what is wrong with it. Not written to the list."""
    code: FailureCode | None
    """The failure code it must end with; None: it must end ok. Not written to the list."""
    url: str | None
    caption: str | None = None
    sha256: str | None = None
    license: str | None = None
    source: str | None = None
    words: str | None = None


def served_files(prefix: str, images: Sequence[GalleryImage]) -> dict[str, ServedFile]:
    """Returns the images as files of a web server, by path."""
    return {
        f"{prefix}/{image.name}": ServedFile(image.data, _CONTENT_TYPES[Path(image.name).suffix])
        for image in images
    }


def image_rows(prefix: str, images: Sequence[GalleryImage], server: TroubleServer) -> list[ListRow]:
    """Returns a row for each image that `served_files` serves under the prefix."""
    return [
        ListRow(
            what=f"a picture of the gallery ({image.kind})",
            code=None,
            url=server.url(f"{prefix}/{image.name}"),
            caption=image.caption,
            sha256=hashlib.sha256(image.data).hexdigest(),
            license=image.licence,
            source=image.source,
            words=words_json(image.words) if image.words else None,
        )
        for image in images
    ]


def trouble_rows(server: TroubleServer, twice: str) -> list[ListRow]:
    """Returns a row for each trouble of the server, each bad row, and a URL given twice.

    Args:
        server: serves the troubles.
        twice: a URL that an earlier row of the same list holds.
    """
    served = [
        ListRow(trouble.note, trouble.code, server.trouble_url(trouble), caption=trouble.name)
        for trouble in TROUBLES
    ]
    bad = [
        ListRow(f"a bad row: {row.name.replace('_', ' ')}", row.code, row.url, caption=row.name)
        for row in BAD_ROWS
    ]
    return [*served, *bad, ListRow("a URL given twice", FailureCode.URL_DUPLICATE, twice)]


def words_json(words: Sequence[PosterWord]) -> str:
    """Returns words and their boxes in edge coordinates as one line of JSON."""
    return json.dumps([{"text": word.text, "box_xyxy": word.box_xyxy} for word in words])


def write_list(path: Path, rows: Sequence[ListRow]) -> None:
    """Writes a URL list as Parquet, in the order given."""
    columns = {name: [getattr(row, name) for row in rows] for name in LIST_SCHEMA.names}
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns, schema=LIST_SCHEMA), part)
