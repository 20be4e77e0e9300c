"""Characters of many writing systems, as fonts draw them: hundreds of classes without a download.

Every character is drawn in several faces, and every drawing is distorted several times, as a hand
would. The fonts that come with matplotlib have about five hundred letters in twelve faces.
"""

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

SIDE = 64  # of a drawing before it is distorted
FACES = [
    Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
]


class Characters(NamedTuple):
    """Images `[characters, faces, copies, size, size, 1]` in [0, 1], and the characters' names."""

    images: np.ndarray
    names: list[str]


class Task(NamedTuple):
    """Classes to train on, and classes to verify on; images `[n, size, size, 1]` and labels.

    `seen` are other images of the classes that are trained on, `unseen` those of the other classes.
    """

    images: np.ndarray
    labels: np.ndarray
    seen_images: np.ndarray
    seen_labels: np.ndarray
    seen_names: list[str]
    unseen_images: np.ndarray
    unseen_labels: np.ndarray
    unseen_names: list[str]


def is_letter(character: str) -> bool:
    """Return whether a character is a letter, without an accent of its own."""
    return unicodedata.category(character) in ("Ll", "Lu", "Lo") and not (
        unicodedata.decomposition(character)
    )


def load(
    faces: Iterable[Path] = FACES,
    wanted: Callable[[str], bool] = is_letter,
    *,
    most: int | None = None,
    copies: int = 4,
    size: int = 24,
    strength: float = 3.0,
    seed: int = 0,
) -> Characters:
    """Draw the wanted characters that all faces have, each of them `copies` times.

    Of characters that look the same in any face, such as the Latin, Greek and Cyrillic A, one is
    kept; `most` of all are drawn at random. `strength` is how far, in 64ths of an image, a
    distortion moves its points.
    """
    rng = np.random.default_rng(seed)
    faces = list(faces)
    common = set.intersection(*(set(TTFont(f, fontNumber=0).getBestCmap() or ()) for f in faces))
    fonts = [ImageFont.truetype(str(face), round(0.78 * SIDE)) for face in faces]
    # What a face draws for a character that it lacks is one that was seen.
    seen = [{_drawn(font, lacking).tobytes() for lacking in " \uffff"} for font in fonts]
    drawn = {}
    candidates = sorted(filter(wanted, map(chr, common)))
    if most is not None:
        candidates = list(rng.permutation(candidates))
    for name in candidates:
        images = [_drawn(font, name) for font in fonts]
        looks = [image.tobytes() for image in images]
        if not any(look in known for look, known in zip(looks, seen, strict=True)):
            drawn[str(name)] = images
            for look, known in zip(looks, seen, strict=True):
                known.add(look)
        if len(drawn) == most:
            break
    images = [
        [[_distorted(image, size, strength, rng) for _ in range(copies)] for image in row]
        for row in drawn.values()
    ]
    return Characters(np.asarray(images, np.float32)[..., None] / 255, list(drawn))


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    image = Image.new("L", (SIDE, SIDE))
    middle, baseline = SIDE / 2, 0.72 * SIDE
    ImageDraw.Draw(image).text((middle, baseline), character, fill=255, font=font, anchor="ms")
    return image


def _distorted(image, size, strength, rng):
    """Shrink a drawing, cut into four quarters whose corners are moved at random."""
    ends, corners = np.linspace(0, size, 3).astype(int), np.linspace(0, SIDE, 3)
    points = np.stack(np.meshgrid(corners, corners), -1)
    points += strength * (rng.normal(size=(3, 3, 2)) + rng.normal(size=2) / 2)
    quarters = [
        (
            (ends[i], ends[j], ends[i + 1], ends[j + 1]),
            (*points[j, i], *points[j + 1, i], *points[j + 1, i + 1], *points[j, i + 1]),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    shape, by = (size, size), Image.Resampling.BICUBIC
    return np.asarray(image.transform(shape, Image.Transform.MESH, quarters, by))


def split(characters: Characters, seed: int, *, share: float = 2 / 3, held: int = 1) -> Task:
    """Draw the share of classes to train on; `held` copies of every drawing are kept for tests."""
    order = np.random.default_rng(seed).permutation(len(characters.names))
    parts = np.split(order, [round(share * len(order))])
    seen, unseen = (characters.images[part] for part in parts)
    names = [[characters.names[i] for i in part] for part in parts]
    return Task(
        *_examples(seen[:, :, held:]),
        *_examples(seen[:, :, :held]),
        names[0],
        *_examples(unseen[:, :, :held]),
        names[1],
    )


def _examples(images):
    labels = np.repeat(np.arange(len(images), dtype=np.int32), np.prod(images.shape[1:3]))
    return images.reshape(-1, *images.shape[3:]), labels
