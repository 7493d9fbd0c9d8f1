"""What a CT scanner writes where it measured nothing: values far below air, outside the circle that it sees."""

from __future__ import annotations

import dataclasses

import numpy as np

from .volume import Volume

AIR = -1024  # the lowest Hounsfield unit of a scanner's own scale
THIN_AIR = -800  # up to here it is air, noise included
# Resampling blurs the edge of the circle: so much of the rest may lie between the padding and air.
BLURRED = 0.05
LEAST_AIR = 0.01


def without_padding(volume: Volume) -> Volume:
    """The volume with padding taken as air; the volume itself where it has none or is no CT.

    Scanners pad with -2000, -3024 or the like, which moves percentiles, means and averages at the circle's edge. A CT
    is told by its values: some are air (-1024 to -800), and below -1024 there is hardly any but the lowest. Phase
    images, maps and z-scores have values all along.
    """
    array = volume.array
    lowest = array.min()
    if lowest >= AIR or volume.is_colour:
        return volume
    padding = np.count_nonzero(array == lowest)
    rest = array.size - padding
    below = np.count_nonzero(array < AIR) - padding
    air = np.count_nonzero((array >= AIR) & (array <= THIN_AIR))
    if below > BLURRED * rest or air < max(1, LEAST_AIR * rest):
        return volume
    return dataclasses.replace(volume, array=np.maximum(array, array.dtype.type(AIR)))
