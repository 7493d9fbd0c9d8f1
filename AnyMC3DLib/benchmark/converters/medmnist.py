"""MedMNIST: an .npz file is data as it is; its images are written as files on demand alone."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...manifest import ONLY_IMAGE, read_table
from ...training.manifest_make import MANIFEST, make_from_medmnist
from .common import Converted, Order, prefix_of, write_cases


def convert(file: Path, order: Order) -> Converted:
    """The cases with the file's own splits; their images go to `order.images`, with a table of their own there."""
    if order.images is None:
        raise InputError(
            f"'{file.name}' needs no table, `--data {file.name}` takes it as it is: give --images with a folder only "
            "if its images shall be files."
        )
    classes = [c.name for c in order.spec.classes] if order.spec else []
    count = make_from_medmnist(file, order.images, classes=classes, replace=order.replace, progress=order.progress)
    prefix = prefix_of(order.images, order.table)
    table = read_table(order.images / MANIFEST)
    write_cases([{**row, ONLY_IMAGE: f"{prefix}/{row[ONLY_IMAGE]}"} for _, row in table.rows], order)
    return Converted(count)
