"""How a file asks for its frames to be turned or mirrored, the same for every decoder."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from jaxtyping import UInt8


#: A filter wants to know a time base, though it needs none.
TICK = Fraction(1, 1000)
#: Filters that give a frame in RGB as the ffmpeg command does: with its way to scale colours up, across both fields.
#: PyAV's own conversion differs where pixels have more than 8 bits, a side is odd, or the frame is interlaced.
IN_RGB = (("scale", ""), ("format", "rgb24"))
#: A display matrix that changes nothing.
IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


class Turn(NamedTuple):
    """What is done to the rows and columns of a picture, in this order."""

    #: Rows become columns.
    transposes: bool = False
    #: The first row becomes the last.
    flips_rows: bool = False
    #: The first column becomes the last.
    flips_columns: bool = False

    def of(self, pixels: UInt8[np.ndarray, "... h w 3"]) -> UInt8[np.ndarray, "... h w 3"]:
        """The pictures turned. Their memory is that of `pixels`."""
        if self.transposes:
            pixels = np.swapaxes(pixels, -3, -2)
        return pixels[..., :: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1, :]


def upright(frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """The frame in RGB, in the colour range and matrix that it declares, turned as the file asks for."""
    matrix = matrix_of(frame)
    turn, filters = turn_by(matrix), list(IN_RGB)
    if turn is None:  # by any angle within its own bounds, as the ffmpeg command does it
        turn, filters = Turn(), [("rotate", f"{degrees_of(matrix)}*PI/180"), *IN_RGB]
    return np.ascontiguousarray(turn.of(_filtered(frame, filters).to_ndarray()))


def corrected(pixels: UInt8[np.ndarray, "t h w 3"], turn: Turn, own_degrees: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Pictures that a decoder has turned clockwise by itself, turned as the file asks for."""
    return turn.of(np.rot90(pixels, own_degrees // 90, axes=(1, 2)))


def matrix_of(frame: VideoFrame) -> tuple[int, ...]:
    """The nine numbers of the frame's display matrix."""
    matrix = next((bytes(part) for part in frame.side_data if part.type.name == "DISPLAYMATRIX"), None)
    return IDENTITY if matrix is None else struct.unpack("<9i", matrix)


def turn_by(matrix: tuple[int, ...]) -> Turn | None:
    """What a display matrix asks for: a point (x, y) comes to (ax + cy, bx + dy).

    None: a turn by an angle that is no multiple of 90 degrees.
    """
    a, b, _, c, d, *_ = matrix
    degrees = degrees_of(matrix)
    if degrees in (90, 270):
        return Turn(transposes=True, flips_rows=b < 0, flips_columns=c < 0)
    return Turn(flips_rows=d < 0, flips_columns=a < 0) if degrees in (0, 180) else None


def degrees_of(matrix: tuple[int, ...]) -> int:
    """The clockwise angle of a display matrix, 0 to 359, rounded as FFmpeg does. 0 where it shows nothing at all."""
    a, b, _, c, d, *_ = matrix
    if not (any((a, c)) and any((b, d))):
        return 0
    return round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360


def _filtered(frame: VideoFrame, filters: Sequence[tuple[str, str]]) -> VideoFrame:
    """The frame as a chain of FFmpeg's filters, each with its options, gives it."""
    from av.filter import Graph

    graph = Graph()
    # One thread, here and in the decoder: FFmpeg's threads live until the frame is freed, and a forked data
    # worker that frees a frame of its parent waits forever for threads that it does not have.
    graph.threads = 1
    begin = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=TICK)
    graph.link_nodes(begin, *(graph.add(name, options) for name, options in filters), graph.add("buffersink"))
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()
