"""The smallest stand-in for the Slicer application: enough of it to run the unchanged module and to see it."""

from __future__ import annotations

import os
import sys

if sys.platform == "linux":
    # Without it VTK looks for an X server, also for windows that are never shown.
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

from .start import Host, start

__all__ = ["Host", "start"]
