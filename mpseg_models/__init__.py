"""The five segmentation networks of Lee & Jhang (Sensors 2021, 21, 7030), rebuilt."""

from mpseg_models.multiresunet import MultiResUNet, MultiResUNetConfig
from mpseg_models.registry import create_model, get_config, list_models
from mpseg_models.unet import UNet, UNetConfig

__all__ = [
    "MultiResUNet",
    "MultiResUNetConfig",
    "UNet",
    "UNetConfig",
    "create_model",
    "get_config",
    "list_models",
]
