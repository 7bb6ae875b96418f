"""What tests need of the processor."""

from __future__ import annotations

import pytest

from serving.machine import cpu_flags

needs_vnni = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & cpu_flags(),
    reason="int8 needs a processor with VNNI: older instructions saturate the sums",
)
