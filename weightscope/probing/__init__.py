"""What the network's function does: how its output responds when levels fall silent."""

from weightscope.probing.response import (
    CutResponse,
    Response,
    respond_to_images,
    respond_to_synthetic,
)

__all__ = ["CutResponse", "Response", "respond_to_images", "respond_to_synthetic"]
