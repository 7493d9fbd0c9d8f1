"""The host as a desktop window: `python -m host`, with `Testing/Host` on PYTHONPATH; `make gui` does so.

With `--script FILE` the file is run once the window is there. It finds `host` (see `start.Host`), `widget` (the
module's widget object), `slicer`, `qt`, `wait(until, seconds=60)`, which runs the application until a condition holds
or so many seconds, and `picture(path)`, which saves the window.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def arguments(given: list[str]) -> argparse.Namespace:
    """The options; those of Qt that act only before it starts are put into the environment."""
    parser = argparse.ArgumentParser(prog="python -m host", description="The AnyMC3D module without Slicer.")
    parser.add_argument("--module", type=Path, help="the module's script (default: this project's)")
    parser.add_argument("--script", type=Path, help="run this file once the window is there")
    parser.add_argument("--screenshot", type=Path, help="save the window as PNG and end")
    parser.add_argument("--size", default="1280x800", help="of the window, in logical pixels")
    parser.add_argument("--scale", type=float, help="pixels of the device to a logical pixel")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--no-views", action="store_true", help="without slice views and 3D view")
    parser.add_argument("--stay", action="store_true", help="keep the window after script or screenshot")
    options = parser.parse_args(given)
    if options.scale:
        os.environ["QT_SCALE_FACTOR"] = str(options.scale)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    return options


def main(given: list[str]) -> int:
    """Show the window until it is closed, or do what the options say and end."""
    options = arguments(given)
    import qt
    import slicer

    from .start import REPOSITORY, start
    from .theme import set_theme

    with start(views=not options.no_views, testing=bool(options.script or options.screenshot)) as host:
        set_theme(options.theme)
        host.window.resize(*(int(part) for part in options.size.split("x")))
        module = host.load(options.module or REPOSITORY / "AnyMC3D" / "AnyMC3D.py")
        host.started()
        host.window.show()
        widget = host.show(module.name)

        def wait(until: Callable[[], object] | None = None, seconds: float = 60.0) -> bool:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends and not (until and until()):
                host.app.processEvents(qt.QEventLoop.AllEvents, 20)
            return bool(until and until())

        def picture(path: str | Path) -> None:
            wait(seconds=1.0)
            host.window.grab().save(str(path))

        if options.script:
            names = {"host": host, "widget": widget, "slicer": slicer, "qt": qt, "wait": wait, "picture": picture}
            names.update(__name__="__main__", __file__=str(options.script))
            exec(compile(options.script.read_text(encoding="utf-8"), str(options.script), "exec"), names)
        if options.screenshot:
            picture(options.screenshot)
        if options.stay or not (options.script or options.screenshot):
            return host.app.exec()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
