"""How large an image or a document may be."""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import TooLarge


@dataclass(frozen=True, slots=True)
class Limits:
    """Held against headers, before anything is decoded."""

    max_pixels: int = 100_000_000
    """Of one page."""
    max_pages: int = 200
    """Of one document."""

    def check_pages(self, count: int) -> None:
        """Raises TooLarge."""
        if count > self.max_pages:
            raise TooLarge(
                f"the document has {count} pages or more; the limit is {self.max_pages} "
                "(--max-pages): send it in parts"
            )

    def check_pixels(
        self, width: int, height: int, *, what: str, remedy: str = "send it smaller"
    ) -> None:
        """`what` has so many pixels, `remedy` is what the caller can do. Raises TooLarge."""
        if width * height > self.max_pixels:
            raise TooLarge(
                f"{what}: {width} x {height} pixels; the limit is {self.max_pixels} "
                f"(--max-pixels): {remedy}"
            )
