"""Characters in fonts from print to brush, and the pairs of images that a network mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jsoftmax.demo.characters import FACES, is_letter

FONTS = """opentype/ipafont-mincho/ipam.ttf truetype/vlgothic/VL-Gothic-Regular.ttf
    truetype/sawarabi-mincho/sawarabi-mincho-medium.ttf truetype/reggae/ReggaeOne-Regular.ttf
    truetype/klee/KleeOne-Regular.ttf truetype/seto/setofont.ttf truetype/kiloji/kiloji.ttf
    truetype/yozvox-yozfont/YOzREXF.ttf truetype/yozvox-yozfont/YOzRE_.ttf
    truetype/kouzan-mouhitsu/kouzan-mouhitsu.ttf truetype/aoyagi-kouzan-t/AoyagiKouzanT.ttf
    truetype/kouzan-mouhitsu/kouzan-mouhitsu-gyosho.ttf"""


def faces() -> tuple[str, list[Path], Callable[[str], bool]]:
    """Return what is drawn, in which fonts, and which characters of these.

    Where one of the fonts is missing, letters in those that come with matplotlib.
    """
    found = [Path("/usr/share/fonts", name) for name in FONTS.split()]
    if all(font.exists() for font in found):
        return "characters", found, lambda c: "\u4e00" <= c < "\ua000"
    return "no such fonts here, so letters of matplotlib's", FACES, is_letter


def lowest(scores: np.ndarray, labels: np.ndarray, n: int = 10) -> list[int]:
    """Return n trials `[m]` with the lowest scores, one of each pair of labels `[m, 2]`."""
    firsts: dict = {}
    for trial in np.argsort(scores)[: 20 * n]:
        firsts.setdefault(tuple(labels[trial]), int(trial))
    return list(firsts.values())[:n]
