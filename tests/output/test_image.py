"""Pages as pictures."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import TooLarge
from serving.output.image import drawn_png


@pytest.mark.parametrize("shape", [(1, 500_001, 3), (1_000_001, 1, 3)])
def test_a_picture_that_no_png_holds_is_too_large(shape: tuple[int, int, int]) -> None:
    assert drawn_png(np.zeros((2, 3, 3), np.uint8), [])[:4] == b"\x89PNG"
    with pytest.raises(TooLarge, match="request another format"):
        drawn_png(np.zeros(shape, np.uint8), [])
