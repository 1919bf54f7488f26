"""What a file is that somebody gave for a file of weights, by how it begins."""

from __future__ import annotations

from weightscope.checkpoints.limits import LARGEST_HEADER

SAMPLE = 4096
"""Bytes from the start of a file that say what it is."""

SAVE = "save model.state_dict() with torch.save or safetensors"
# starts of files that people give by mistake: what they are, and what helps
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for",
     "run git lfs pull in its repository"),
    (b"\x89HDF", "an HDF5 file (Keras)", "convert the weights to torch"),
    (b"\x93NUMPY", "a numpy array", "save the weights by name with safetensors.numpy.save_file"),
    (b"GGUF", "a GGUF file", "give the safetensors file that it was made from"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x89PNG", "a picture", "give the file of weights"),
    (b"%PDF", "a PDF", "give the file of weights"),
)  # fmt: skip


def is_json(start: bytes) -> bool:
    """Whether a file begins as JSON and not as safetensors."""
    # A header of safetensors begins with its length, which is far smaller than eight letters.
    length = int.from_bytes(start[:8], "little")
    return _begins(start) and (not _begins(start[8:]) or length > LARGEST_HEADER)


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins as a safetensors file, with the length of its header and the header."""
    return _begins(start[8:]) and not is_json(start)


def _begins(text: bytes) -> bool:
    """Whether this is the beginning of a JSON object, with spaces before it or none."""
    return text.lstrip(b" \t\r\n")[:1] == b"{"


def what_it_is(start: bytes) -> tuple[str, str] | None:
    """What a file is that is no checkpoint, and what helps.

    Args:
        start: The first bytes of the file, at most `SAMPLE`.
    """
    for beginning, what, remedy in _STARTS:
        if start.startswith(beginning):
            return what, remedy
    text = start.lstrip()[:15].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "a web page, not the file behind it", "download the file itself, or log in first"
        )  # fmt: skip
    if start[257:262] == b"ustar":
        return (
            "a tar archive (of torch before 0.4, or packed)", "unpack it, or save it again"
        )  # fmt: skip
    # the first field of the protocol buffer is the version, the second who wrote it, or the graph
    if start[:1] == b"\x08" and start[1:2] < b"\x40" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return (
            "an ONNX graph", f"give the torch weights that it was exported from, or {SAVE}"
        )  # fmt: skip
    return None


def checkpoint_like(start: bytes) -> str:
    """What a file is that may be a checkpoint, but is no safetensors file; ``""`` for others."""
    if start[:4] == b"PK\x05\x06":
        return "an empty zip archive"
    if start[:2] == b"PK":
        return "an archive, as torch.save writes checkpoints"
    if start[:1] == b"\x80":
        return "a pickle, as torch.save wrote checkpoints before version 1.6"
    return "JSON, as the index of a checkpoint is" if is_json(start) else ""
