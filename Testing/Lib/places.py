"""Where the repository is. In a room of its own: `conftest` is the name of a file in every folder of tests."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
