"""The photographs of the gallery: where they lie in installed packages, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Box = tuple[int, int, int, int]
Kind = Literal["face", "text", "neither", "poster"]

PUBLIC_DOMAIN = "LicenseRef-public-domain"
NO_KNOWN_RESTRICTIONS = "LicenseRef-no-known-copyright-restrictions"
UNSTATED = "LicenseRef-unstated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photograph inside an installed package."""

    name: str
    package: str
    path: str
    """Path inside the package."""
    kind: Kind
    caption: str
    licence: str
    """SPDX id, or a LicenseRef for what SPDX has no id for."""
    source: str
    """Who made it and who says so, in one line."""
    crop: Box | None = None
    """Only this part is used: edge coordinates in pixels of the file."""
    focus: tuple[Box, ...] = ()
    """What a variant shows one of: edge coordinates in pixels after the crop."""
    num_variants: int = 1
    """Variants of each focus, or of the whole photograph where there is none."""


_SKIMAGE = "scikit-image"
_T1 = "example picture of the insightface package, rights of the photograph unstated"
_SKLEARN = "flickr photograph distributed with scikit-learn"

TRAIN_PHOTOS: tuple[Photo, ...] = (
    Photo(
        name="astronaut",
        package="skimage",
        path="data/astronaut.png",
        kind="face",
        caption="An astronaut in an orange suit in front of a flag and a shuttle model",
        licence=PUBLIC_DOMAIN,
        source=f"NASA Great Images, says {_SKIMAGE}",
        focus=((165, 55, 285, 205),),
        num_variants=5,
    ),
    Photo(
        name="card-table-left",
        package="insightface",
        path="data/images/t1.jpg",
        kind="face",
        caption="Three people at a card table under a lamp",
        licence=UNSTATED,
        source=_T1,
        crop=(0, 0, 690, 886),
        focus=((60, 250, 170, 400), (265, 130, 385, 275), (460, 240, 590, 415)),
        num_variants=4,
    ),
    Photo(
        name="cameraman",
        package="skimage",
        path="data/camera.png",
        kind="face",
        caption="A man in a coat looks through a camera on a tripod",
        licence="CC0-1.0",
        source=f"Lav Varshney, says {_SKIMAGE}",
    ),
    Photo(
        name="handwriting",
        package="skimage",
        path="data/text.png",
        kind="text",
        caption="Handwritten formulas on paper, seen at a slant",
        licence=PUBLIC_DOMAIN,
        source=f"Wikipedia, says {_SKIMAGE}",
        num_variants=3,
    ),
    Photo(
        name="coffee",
        package="skimage",
        path="data/coffee.png",
        kind="neither",
        caption="A cup of coffee with a spoon on a wooden table",
        licence="CC0-1.0",
        source=f"Rachel Michetti, says {_SKIMAGE}",
    ),
    Photo(
        name="cat",
        package="skimage",
        path="data/chelsea.png",
        kind="neither",
        caption="The head of a tabby cat",
        licence="CC0-1.0",
        source=f"Stefan van der Walt, says {_SKIMAGE}",
    ),
    Photo(
        name="rocket",
        package="skimage",
        path="data/rocket.jpg",
        kind="neither",
        caption="A rocket on its launch pad at night",
        licence=PUBLIC_DOMAIN,
        source=f"SpaceX, says {_SKIMAGE}",
    ),
    Photo(
        name="pagoda",
        package="sklearn",
        path="datasets/images/china.jpg",
        kind="neither",
        caption="A pagoda above trees",
        licence="CC-BY-2.0",
        source=f"danielbuechele, {_SKLEARN}",
    ),
    Photo(
        name="tissue",
        package="skimage",
        path="data/ihc.png",
        kind="neither",
        caption="Stained tissue under a microscope",
        licence=NO_KNOWN_RESTRICTIONS,
        source=f"Center for Microscopy and Molecular Imaging, says {_SKIMAGE}",
    ),
    Photo(
        name="galaxies",
        package="skimage",
        path="data/hubble_deep_field.jpg",
        kind="neither",
        caption="Galaxies on a black sky",
        licence=PUBLIC_DOMAIN,
        source=f"NASA, says {_SKIMAGE}",
    ),
    Photo(
        name="bricks",
        package="skimage",
        path="data/brick.png",
        kind="neither",
        caption="A brick wall",
        licence="CC0-1.0",
        source=f"CC0Textures, says {_SKIMAGE}",
    ),
    Photo(
        name="coins",
        package="skimage",
        path="data/coins.png",
        kind="neither",
        caption="Greek coins in rows",
        licence=NO_KNOWN_RESTRICTIONS,
        source=f"Brooklyn Museum, says {_SKIMAGE}",
    ),
)
"""What the tokenizer is trained on."""

HELD_OUT_PHOTOS: tuple[Photo, ...] = (
    Photo(
        name="officer",
        package="matplotlib",
        path="mpl-data/sample_data/grace_hopper.jpg",
        kind="face",
        caption="A naval officer in front of a flag",
        licence=PUBLIC_DOMAIN,
        source="United States Navy portrait of Grace Hopper, distributed with matplotlib",
        focus=((180, 90, 350, 320),),
        num_variants=3,
    ),
    Photo(
        name="card-table-right",
        package="insightface",
        path="data/images/t1.jpg",
        kind="face",
        caption="Two men and a woman at a card table",
        licence=UNSTATED,
        source=_T1,
        crop=(690, 0, 1280, 886),
        focus=((50, 310, 185, 490), (205, 20, 355, 215), (425, 250, 540, 400)),
        num_variants=2,
    ),
    Photo(
        name="page",
        package="skimage",
        path="data/page.png",
        kind="text",
        caption="A printed page, unevenly lit",
        licence=UNSTATED,
        source=f"scan distributed with {_SKIMAGE}",
        num_variants=2,
    ),
    Photo(
        name="motorcycle",
        package="skimage",
        path="data/motorcycle_left.png",
        kind="neither",
        caption="A red motorcycle in a workshop",
        licence=UNSTATED,
        source=f"Middlebury stereo 2014, says {_SKIMAGE}",
    ),
    Photo(
        name="dahlia",
        package="sklearn",
        path="datasets/images/flower.jpg",
        kind="neither",
        caption="An orange dahlia",
        licence="CC-BY-2.0",
        source=f"vultilion, {_SKLEARN}",
    ),
    Photo(
        name="grass",
        package="skimage",
        path="data/grass.png",
        kind="neither",
        caption="Grass from above",
        licence="CC0-1.0",
        source=f"linolafett, says {_SKIMAGE}",
    ),
)
"""What nobody trains on: other people, another page, other things."""
