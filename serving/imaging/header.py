"""What the header of a single image tells before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from serving.imaging.sniff import Data


@dataclass(frozen=True, slots=True)
class Header:
    width: int
    """Pixels as stored, before `orientation` is obeyed."""
    height: int
    body: Data
    """What to decode: the file, or what is left of it without parts nobody needs."""
    orientation: int = 1
    """EXIF, 1 to 8."""
    plain: bool = False
    """OpenCV decodes it to the same pixels as Pillow, in half the time."""
    runaway: bool = False
    """The time to decode it is not bounded by its size: only a helper may do it."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height
