"""Small files: images through OpenCV, JSON and JSON lines with the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 RGB image as PNG."""
    _write_image(path, image, [cv2.IMWRITE_PNG_COMPRESSION, 3])


def write_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    """Write a uint8 RGB image as JPEG without chroma subsampling."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _write_image(path, image, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1], options):
        raise OSError(f"could not write {path}; is the disk full?")


def write_video(path: Path, frames: np.ndarray, fps: int, codec: str) -> None:
    """Write uint8 RGB frames (T, H, W, 3) as a video file.

    Raises:
        OSError: this OpenCV has no such codec.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    if not writer.isOpened():
        raise OSError(f"this OpenCV cannot write codec {codec!r} to {path.name}; use HFYU or FFV1")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def write_json(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records one a line and return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)
