"""The cache of image codes: right values, nothing computed twice, kills, damage, and processes that share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visdyn.images import ImageError, load
from visdyn.models.vqgan.code_cache import CodeCache, ModelEncoder, image_key, weights_hash
from visdyn.quarantine import Quarantine


class ToyEncoder:
    """Codes are the pixels of the red channel; every image that is encoded is written down."""

    tokenizer, preprocessing, grid, num_codes = "toy", "none", (2, 3), 256

    def __init__(self, log: Path | None = None) -> None:
        self.log, self.encoded = log, []

    def load(self, ref):
        return np.asarray(load(ref))

    def features(self, images):
        self.encoded += [image.tobytes() for image in images]
        if self.log is not None:
            with open(self.log, "a") as file:
                file.writelines(f"{image[0, 0].tolist()}\n" for image in images)
        return np.stack(images).astype(np.float32).transpose(0, 3, 1, 2)

    def codes(self, features):
        return features[:, 0].astype(np.int64)

    def distances(self, source, target):
        return ((target - source) ** 2).sum(1).reshape(len(source), -1)


def _images(count: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return images


@pytest.fixture(scope="module")
def arrays():
    return _images(40)


@pytest.fixture
def files(arrays, tmp_path):
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{row}.png")
    return [tmp_path / f"{row}.png" for row in range(len(arrays))]


@pytest.fixture
def encoder():
    return ToyEncoder()


@pytest.fixture
def cache(tmp_path, encoder):
    return CodeCache(tmp_path / "cache", encoder, batch_size=3)


def _records(cache, kind: str = "images") -> int:
    size = 16 + 4 + {"images": 12, "pairs": 12 + 12 + 4 + 12}[kind]
    return sum(path.stat().st_size // size for path in (cache.folder / kind).glob("*.bin"))


@pytest.mark.parametrize("identity", ["content", "stat"])
def test_codes_are_computed_once(files, arrays, tmp_path, encoder, identity):
    cache = CodeCache(tmp_path / "cache", encoder, identity)
    codes = cache.codes(files)
    assert codes.dtype == np.uint16
    assert np.array_equal(codes, arrays[..., 0])
    assert len(encoder.encoded) == 40
    again = CodeCache(tmp_path / "cache", encoder, identity)
    assert np.array_equal(again.codes(files[::-1] + files[:2]), np.concatenate([codes[::-1], codes[:2]]))
    assert len(encoder.encoded) == 40
    assert vars(again.fill(files)) == {"reused": 40, "computed": 0, "failed": 0}
    assert _records(again) == 40


def test_progress_counts_shards(files, tmp_path, encoder):
    said = []
    cache = CodeCache(tmp_path / "cache", encoder, report=lambda *counts: said.append(counts))
    cache.fill(files)
    assert [done for done, _ in said] == list(range(len(said)))
    assert {total for _, total in said} == {len(said)}
    cache.fill(files)
    assert len(said) == said[0][1]


def test_equal_files_share_a_record_by_content_and_not_by_stat(files, tmp_path):
    twin = tmp_path / "twin.png"
    twin.write_bytes(files[0].read_bytes())
    assert image_key(twin) == image_key(files[0]) != image_key(files[1])
    assert image_key(twin, "stat") != image_key(files[0], "stat")


def test_a_changed_file_is_computed_again(arrays, tmp_path, encoder):
    for identity in ("content", "stat"):
        cache, path = CodeCache(tmp_path / identity, encoder, identity), tmp_path / "image.bmp"
        for row in (0, 7):  # of one size and under one name
            Image.fromarray(arrays[row]).save(path)
            os.utime(path, ns=(0, row))
            assert np.array_equal(cache.codes([path])[0], arrays[row, ..., 0])


def test_images_in_memory_go_by_their_pixels(arrays, cache, encoder):
    assert np.array_equal(cache.codes(list(arrays[:4])), arrays[:4, ..., 0])
    cache.codes([arrays[1].copy(), Image.fromarray(arrays[2])])
    cache.codes([Image.fromarray(arrays[2])])
    assert len(encoder.encoded) == 5  # an array and a PIL image are two references
    assert image_key(arrays[0]) != image_key(arrays[0].reshape(3, 2, 3))
    palette = [Image.fromarray(arrays[row]).quantize(4) for row in (0, 1)]
    palette[1].putdata(list(palette[0].getdata()))
    assert image_key(palette[0]) != image_key(palette[1])


def test_pairs_hold_both_codes_and_the_distances(files, arrays, cache, encoder):
    sources, targets = files[:8], files[8:16]
    found = cache.pairs(sources, targets)
    assert found.sources.dtype == found.targets.dtype == np.uint16
    assert np.array_equal(found.sources, arrays[:8, ..., 0])
    assert np.array_equal(found.targets, arrays[8:16, ..., 0])
    exact = ((arrays[8:16].astype(float) - arrays[:8]) ** 2).sum(-1).reshape(8, -1)
    assert found.distances.dtype == np.float32
    np.testing.assert_allclose(found.distances, exact, rtol=5e-4)
    assert len(encoder.encoded) == 16
    swapped = cache.pairs(targets[:1], sources[:1])
    assert np.array_equal(swapped.sources[0], arrays[8, ..., 0])
    np.testing.assert_allclose(swapped.distances, exact[:1], rtol=5e-4)
    assert _records(cache, "pairs") == 9


def test_distances_beyond_float16_and_of_equal_images(tmp_path, arrays):
    class Far(ToyEncoder):
        def distances(self, source, target):
            return super().distances(source, target) * 1e9

    found = CodeCache(tmp_path, Far()).pairs([arrays[0], arrays[1]], [arrays[2], arrays[1]])
    exact = ((arrays[2].astype(float) - arrays[0]) ** 2).sum(-1).reshape(-1) * 1e9
    assert exact.max() > 1e12
    np.testing.assert_allclose(found.distances[0], exact, rtol=5e-4)
    assert not found.distances[1].any()


def test_one_source_of_many_pairs_is_encoded_once_a_batch(files, tmp_path, encoder):
    cache = CodeCache(tmp_path / "cache", encoder, batch_size=64)
    cache.fill_pairs([files[0]] * 20, files[1:21])
    assert len(encoder.encoded) == 21
    assert len(list((cache.folder / "pairs").glob("*.bin"))) == 1


def test_another_tokenizer_or_preprocessing_is_another_cache(files, tmp_path):
    folders = []
    for name, value in [("tokenizer", "toy"), ("tokenizer", "other"), ("preprocessing", "pad"), ("grid", (3, 2))]:
        encoder = ToyEncoder()
        setattr(encoder, name, value)
        folders.append(CodeCache(tmp_path, encoder).folder)
        written = json.loads((folders[-1] / "settings.json").read_text())
        assert written[name] == (list(value) if name == "grid" else value)
    assert len(set(folders)) == 4


def test_unreadable_images_are_set_aside_and_the_rest_is_kept(files, tmp_path, cache, encoder):
    files[3].write_bytes(b"no image")
    files[5].unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        cache.fill(files)
    quarantine = Quarantine()
    filled = cache.fill(files, quarantine)
    assert (filled.reused + filled.computed, filled.failed) == (38, 2)
    assert sorted(entry.item for entry in quarantine) == sorted(map(str, (files[3], files[5])))
    reasons = {entry.item: entry.reason for entry in quarantine}
    assert "cannot be decoded" in reasons[str(files[3])]
    assert "No such file" in reasons[str(files[5])]
    assert _records(cache) == 38
    pairs = Quarantine()
    assert cache.fill_pairs(files[:6], files[6:12], pairs).failed == 2
    assert f"{files[3]} -> {files[9]}" in {entry.item for entry in pairs}


@pytest.mark.parametrize(("cut", "lost"), [(1, 1), (31, 1), (33, 2)])
def test_a_record_cut_by_a_kill_is_computed_again(files, arrays, cache, encoder, cut, lost):
    cache.fill(files)
    shard = max((cache.folder / "images").glob("*.bin"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-cut])
    encoder.encoded.clear()
    with pytest.warns(UserWarning, match="the last one cut short"):
        assert cache.fill(files).computed == lost
    assert np.array_equal(cache.codes(files), arrays[..., 0])
    assert len(encoder.encoded) == lost
    assert (cache.damages[0].shard, cache.damages[0].records) == (str(shard), 1)


def test_a_damaged_record_is_reported_and_computed_again(files, arrays, cache, encoder):
    cache.fill(files)
    shard = max((cache.folder / "images").glob("*.bin"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[20] ^= 1  # in the codes of the first record
    shard.write_bytes(content)
    encoder.encoded.clear()
    with pytest.warns(UserWarning, match="1 with a wrong checksum"):
        assert np.array_equal(cache.codes(files), arrays[..., 0])
    assert len(encoder.encoded) == 1
    assert [damage.records for damage in cache.damages] == [1]
    assert cache.fill(files).computed == 0
    assert _records(cache) == 40


def test_a_failing_encoder_loses_no_finished_batch(files, tmp_path):
    class Failing(ToyEncoder):
        def features(self, images):
            if len(self.encoded) >= 20:
                raise RuntimeError("out of memory")
            return super().features(images)

    failing, working = Failing(), ToyEncoder()
    with pytest.raises(RuntimeError, match="out of memory"):
        CodeCache(tmp_path / "cache", failing, batch_size=2).fill(files)
    filled = CodeCache(tmp_path / "cache", working).fill(files)
    assert filled.reused == len(failing.encoded) >= 20
    assert not set(failing.encoded) & set(working.encoded)


CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_code_cache import ToyEncoder, _images
from visdyn.models.vqgan.code_cache import CodeCache

class Slow(ToyEncoder):
    def features(self, images):
        time.sleep(0.004)
        if sys.argv[4] == "dies" and len(self.encoded) > 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().features(images)

cache = CodeCache(sys.argv[2], Slow(Path(sys.argv[3])), batch_size=2)
codes = cache.codes(list(_images(150)))
assert (codes == _images(150)[..., 0]).all()
"""


def test_processes_share_the_work_and_a_killed_one_leaves_its_own(tmp_path):
    """Three processes fill one cache; one is killed. Every image is there, and only the killed one's batch was lost."""
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "cache")]
    fates = zip(logs, ["dies", "lives", "lives"], strict=True)
    children = [subprocess.Popen([*command, str(log), fate]) for log, fate in fates]
    codes = [child.wait(timeout=60) for child in children]
    assert codes[1:] == [0, 0]
    done = [log.read_text().splitlines() if log.exists() else [] for log in logs]
    assert codes[0] in (-signal.SIGKILL, 0)  # 0: the others were done before it could die
    computed = [line for lines in done for line in lines]
    assert len(set(computed)) == 150
    assert len(computed) == 150  # it dies before it encodes, so nothing was encoded twice
    encoder = ToyEncoder()
    assert CodeCache(tmp_path / "cache", encoder).fill(list(_images(150))).reused == 150
    assert not encoder.encoded


def test_a_shard_that_another_process_holds_is_waited_for(files, tmp_path, cache, encoder):
    key = image_key(files[0])
    with cache._images.lock(f"{key[0]:02x}", wait=True):
        other = CodeCache(tmp_path / "cache", encoder)
        worker = threading.Thread(target=other.fill, args=(files,))
        worker.start()
        others = sum(image_key(file)[0] != key[0] for file in files)
        deadline = time.monotonic() + 20
        while _records(cache) < others and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _records(cache) == others  # all other shards are done
        assert worker.is_alive()
        with pytest.raises(KeyError):
            cache._read_records(cache._images, [key])
    worker.join(10)
    assert _records(cache) == 40


def test_the_models_encoder_gives_its_codes_and_what_it_was_given_for_pairs(tiny, scenes, tmp_path):
    import torch

    from visdyn.training.losses import recognition_weights

    def distances(sources, targets):
        return recognition_weights(sources, targets, normalization="none")

    encoder = ModelEncoder(tiny, distances)
    assert (encoder.grid, encoder.num_codes) == ((4, 4), 16)
    cache = CodeCache(tmp_path, encoder, batch_size=5)
    assert np.array_equal(cache.codes(list(scenes)), tiny.encode(list(scenes)))
    found = cache.pairs(list(scenes[:6]), list(scenes[6:]))
    assert np.array_equal(found.targets, tiny.encode(list(scenes[6:])))
    exact = distances(*(tiny.vqgan.features(tiny.pixels(list(images))) for images in (scenes[:6], scenes[6:])))
    torch.testing.assert_close(torch.from_numpy(found.distances), exact, rtol=6e-4, atol=1e-6)


def test_the_tokenizers_hash_follows_what_codes_depend_on(tiny):
    import copy

    before = weights_hash(tiny.vqgan)
    changed = copy.deepcopy(tiny.vqgan)
    changed.post_quant_conv.weight.data += 1
    assert weights_hash(changed) == before
    changed.quantize.embedding.weight.data[0, 0] += 1e-3
    assert weights_hash(changed) != before


def test_a_record_takes_two_bytes_a_code(tmp_path, arrays):
    class Real(ToyEncoder):
        grid, num_codes = (32, 32), 8192

        def codes(self, features):
            return np.full((len(features), 32, 32), 8191)

        def distances(self, source, target):
            return np.ones((len(source), 1024), np.float32)

    cache = CodeCache(tmp_path, Real())
    cache.fill([arrays[0]])
    cache.fill_pairs([arrays[0]], [arrays[1]])
    sizes = [next((cache.folder / kind).glob("*.bin")).stat().st_size for kind in ("images", "pairs")]
    assert sizes == [2048 + 20, 3 * 2048 + 24]
    assert (cache.codes([arrays[0]]) == 8191).all()


def test_what_does_not_fit_is_refused(tmp_path, arrays):
    encoder = ToyEncoder()
    with pytest.raises(ValueError, match="unknown identity 'name'"):
        CodeCache(tmp_path, encoder, "name")
    encoder.num_codes = 70_000
    with pytest.raises(ValueError, match="a codebook of 70000 does not fit"):
        CodeCache(tmp_path, encoder)
    encoder.num_codes = 100
    with pytest.raises(ValueError, match="up to 255 from an encoder of"):
        CodeCache(tmp_path, encoder).fill([np.full((2, 3, 3), 255, np.uint8)])
    encoder.num_codes = 256
    encoder.distances = lambda source, target: np.full((len(source), 6), np.nan)
    with pytest.raises(ValueError, match="features are not finite"):
        CodeCache(tmp_path, encoder).fill_pairs([arrays[0]], [arrays[1]])
