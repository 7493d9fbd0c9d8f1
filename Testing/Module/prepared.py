"""Slicer's Python modules in their place, for tests that import the panel's files before any host is started."""

from __future__ import annotations

import hosting  # noqa: F401 - it puts the host on the path, and skips the test where there is none
from host.start import prepare

prepare()
