"""AnyMC3D: classify 3D medical images with task plugins on one frozen 2D backbone.

Importing this package is cheap: the rooms that need NumPy, SimpleITK or torch are imported by name.
"""

__version__ = "0.1.0"
