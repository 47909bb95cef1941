"""What the black-box tests run over, for ``CARRIERS`` of a module; see ``conftest``."""

from __future__ import annotations

import pytest

from tests.support.native import needs_native

NATIVE = pytest.param("native", marks=[needs_native, pytest.mark.soak])

CARRIERS = ("quic", pytest.param("tcp", marks=pytest.mark.soak))
ON_BOTH_ENGINES = (*CARRIERS, NATIVE)
