"""Flow errors: definitions, backends and what is refused."""

import sys
from functools import partial
from types import SimpleNamespace
from urllib.error import URLError

import cv2
import numpy as np
import pytest

from visdyn.evaluation.metrics.optical_flow import epe_forward, epe_reverse, epe_v1, estimate, of_f
from visdyn.evaluation.metrics.optical_flow_backends import get_backend


def _scene(size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (size + 32, size + 32, 3), dtype=np.uint8)
    # Farneback's regularisation shrinks the flow of faint texture, so the contrast is stretched.
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def _view(dx: int, dy: int, size: int = 96) -> np.ndarray:
    """A window on the scene in which everything moved by (dx, dy)."""
    return np.ascontiguousarray(_scene(size)[16 - dy : 16 - dy + size, 16 - dx : 16 - dx + size])


def _levels(start, end):
    """A backend whose flow is the difference of grey levels, so that definitions can be checked by hand."""
    return (end[..., :2].astype(np.float32) - start[..., :2].astype(np.float32)) * np.float32([1, 0])


def _flat(level: int) -> np.ndarray:
    return np.full((8, 16, 3), level, np.uint8)


@pytest.mark.parametrize("backend", ["farneback", "dis"])
def test_backends_find_a_translation(backend):
    flow = estimate(_view(0, 0), _view(4, -2), backend, size=None)
    assert flow.shape == (96, 96, 2)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow[20:-20, 20:-20].mean(axis=(0, 1)), [4, -2], atol=0.4)


def test_definitions_by_hand():
    start, end, generated, returned = (_flat(level) for level in (10, 30, 25, 13))
    levels = partial(estimate, backend=_levels, size=None)
    assert epe_forward(start, end, generated, levels).pixels == 5
    assert epe_reverse(start, returned, levels).pixels == 3
    assert epe_v1(start, generated, returned, levels).pixels == 3
    assert of_f(end, generated, levels).pixels == 5
    assert of_f(end, generated, levels).normalised == 5 / 16


def test_oracle_is_zero_and_copy_is_the_true_motion():
    start, end, native = _view(0, 0), _view(3, 0), partial(estimate, size=None)
    assert epe_forward(start, end, end, native).pixels == 0
    assert of_f(end, end, native).pixels == pytest.approx(0, abs=0.01)
    motion = np.linalg.norm(estimate(start, end, size=None), axis=-1).mean()
    assert epe_forward(start, end, start, native).pixels == pytest.approx(motion, abs=0.05)
    # Copying both ways gives the same reverse error: "do nothing" as the paper's baseline should read.
    assert epe_reverse(start, end, native).pixels == pytest.approx(motion)
    assert epe_v1(start, end, start, native).pixels == 0


def test_squashing_scales_the_flow():
    start, end = _view(0, 0), _view(4, 0)
    assert estimate(start, end, size=192).shape == (192, 192, 2)
    native, double = (epe_reverse(start, end, partial(estimate, backend="dis", size=size)) for size in (None, 192))
    assert double.pixels == pytest.approx(2 * native.pixels, rel=0.15)
    assert double.normalised == pytest.approx(native.normalised, rel=0.15)


def _torchvision_without_a_network():
    def fetch(weights):
        raise URLError("no route")

    weights = SimpleNamespace(C_T_SKHT_V2=SimpleNamespace(url="https://here/raft.pth"))
    return SimpleNamespace(Raft_Large_Weights=weights, raft_large=fetch)


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="not 16x8 and 8x8"):
        estimate(_flat(1), _flat(1)[:, :8], _levels, None)
    with pytest.raises(ValueError, match="unknown flow backend 'pwc'"):
        get_backend("pwc")
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", _torchvision_without_a_network())
    with pytest.raises(FileNotFoundError, match=r"could not fetch RAFT's weights .*no route.* from https://here/raft"):
        get_backend("raft")
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(ImportError, match=r"visdyn\[flow\]"):
        get_backend("raft")
