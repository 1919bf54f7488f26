"""Real images that ship inside packages: nuclei from stardist's archive, photos of scikit-image.

Both archives are fetched once by ``pip download``, checked against their digests, and kept in the
study's folder, outside version control.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from studies import runner
from studies.runner import Place

STARDIST = "stardist-0.9.1.tar.gz"
SCIKIT_IMAGE = "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
DIGESTS = {
    STARDIST: "fc96e8da35b49ac1e8990e2c15fecf129e5161fae9dfe17cb7b85a026163fbd5",
    SCIKIT_IMAGE: "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
}
REQUESTS = {
    STARDIST: ["--no-binary", ":all:", "stardist==0.9.1"],
    SCIKIT_IMAGE: ["--only-binary", ":all:", "--python-version", "3.11", "--platform",
                   "manylinux_2_28_x86_64", "scikit-image==0.26.0"],
}  # fmt: skip


@dataclass(frozen=True)
class Archives:
    """What the job that fetches the archives is to bring.

    Attributes:
        digests: SHA-256 of each file, by its name.
    """

    digests: Mapping[str, str]


def fetch(settings: Archives, place: Place) -> dict[str, Any]:
    """Fetch all archives into the job's folder."""
    return {name: archive(name, place.folder).stat().st_size for name in settings.digests}


ARCHIVES = runner.Job(
    "archives", fetch, Archives(DIGESTS), files=tuple(DIGESTS), version=1, bytes=60e6
)


def archive(name: str, folder: Path) -> Path:
    """Path of an archive, fetched on first use.

    Raises:
        RuntimeError: What came is not the file that the study was made with.
    """
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), *REQUESTS[name]], check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != DIGESTS[name]:
        raise RuntimeError(f"{path} has digest {found}, expected {DIGESTS[name]}; delete it")
    return path


@lru_cache(maxsize=64)
def photo(name: str, folder: Path) -> NDArray[np.float32]:
    """One photo of scikit-image, (H, W) or (H, W, 3), values in 0..1."""
    with zipfile.ZipFile(archive(SCIKIT_IMAGE, folder)) as stored:
        data = stored.read(f"skimage/data/{name}")
    image = np.asarray(Image.open(io.BytesIO(data)), np.float32) / 255.0
    return image[..., :3] if image.ndim == 3 else image


@lru_cache(maxsize=64)
def grey_photo(name: str, folder: Path) -> NDArray[np.float32]:
    """One photo of scikit-image in grey, (H, W)."""
    image = photo(name, folder)
    return image.mean(-1) if image.ndim == 3 else image


@lru_cache(maxsize=2)
def nuclei_depth(folder: Path) -> NDArray[np.float32]:
    """Distance of every pixel from the edge of its nucleus in pixels, (512, 512); 0 outside."""
    return np.asarray(ndimage.distance_transform_edt(nuclei(folder)[1]), np.float32)


@lru_cache(maxsize=2)
def nuclei(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Fluorescent nuclei and their mask, (512, 512) each: image about in 0..1, mask of 0 and 1."""
    found = {}
    with tarfile.open(archive(STARDIST, folder)) as stored:
        for part in ("img2d", "mask2d"):
            member = stored.extractfile(f"stardist-0.9.1/stardist/data/images/{part}.tif")
            assert member is not None
            found[part] = np.array(Image.open(io.BytesIO(member.read())))
    image = found["img2d"].astype(np.float32)
    return np.clip(image / np.quantile(image, 0.995), 0, 1.5), (found["mask2d"] > 0).astype(
        np.uint8
    )
