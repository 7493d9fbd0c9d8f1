"""Where the library lies: beside the module once it is installed, one level up in the source tree."""

from __future__ import annotations

import sys
from pathlib import Path

LIBRARY = "AnyMC3DLib"
MODULE_FOLDER = Path(__file__).resolve().parent.parent


def library_home(module_folder: Path = MODULE_FOLDER) -> Path:
    """The folder that holds the library; raises ImportError if there is none."""
    for home in (module_folder, module_folder.parent):
        if (home / LIBRARY / "__init__.py").is_file():
            return home
    raise ImportError(f"{LIBRARY} is missing beside {module_folder}: install the AnyMC3D extension again.")


def put_library_on_path() -> None:
    """Let `import AnyMC3DLib` find the library that belongs to this module, and no other."""
    home = str(library_home())
    if home not in sys.path:
        sys.path.insert(0, home)
