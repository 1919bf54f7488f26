"""The five segmentation networks of Lee & Jhang (Sensors 2021, 21, 7030), rebuilt."""

from mpseg_models.multiresunet import MultiResUNet, MultiResUNetConfig
from mpseg_models.photographs import load_samples
from mpseg_models.registry import create_model, get_config, list_models
from mpseg_models.unet import UNet, UNetConfig
from mpseg_models.weights import Card, get_card, list_weights, read_weights, save_weights

__all__ = [
    "Card",
    "MultiResUNet",
    "MultiResUNetConfig",
    "UNet",
    "UNetConfig",
    "create_model",
    "get_card",
    "get_config",
    "list_models",
    "list_weights",
    "load_samples",
    "read_weights",
    "save_weights",
]
