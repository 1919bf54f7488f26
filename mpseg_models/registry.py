"""The five networks by name: each is a config, and nothing more."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import Any

import torch

from mpseg_models.multiresunet import MultiResUNet, MultiResUNetConfig
from mpseg_models.unet import UNet, UNetConfig
from mpseg_models.weights import load_weights

Config = UNetConfig | MultiResUNetConfig

CONFIGS: dict[str, Config] = {
    "unet": UNetConfig(
        encoder=((64, 64), (128, 128), (256, 256), (512, 512)),
        bottleneck=(1024, 512),
        decoder=((64, 64), (128, 64), (256, 128), (512, 256)),
    ),
    "half_unet": UNetConfig(
        encoder=((64, 64), (128, 128)),
        bottleneck=(256, 256),
        decoder=((64, 64), (128, 64)),
    ),
    "multiresunet": MultiResUNetConfig(
        encoder=(52, 104, 208, 416),
        bottleneck=832,
        decoder=(52, 104, 208, 416),
        respath=(1, 2, 3, 4),
    ),
    "half_multiresunet": MultiResUNetConfig(
        encoder=(32, 64), bottleneck=64, decoder=(32, 64), respath=(3, 3)
    ),
    "quarter_multiresunet": MultiResUNetConfig(
        encoder=(32,), bottleneck=32, decoder=(32,), respath=(3,)
    ),
}


def list_models() -> tuple[str, ...]:
    """Return the names that ``create_model`` takes.

    Example:
        >>> list_models()[:2]
        ('unet', 'half_unet')
    """
    return tuple(CONFIGS)


def get_config(name: str, *, width: int | None = None, **overrides: Any) -> Config:
    """Return the config of a named network, with changes.

    Args:
        name: One of ``list_models()``.
        width: Channels of the first stage; all other channel counts follow in proportion.
        **overrides: Fields of the config to set after that.

    Raises:
        ValueError: Unknown name, or a field that the config does not have.

    Example:
        >>> get_config("unet", width=8).bottleneck
        (128, 64)
    """
    if name not in CONFIGS:
        near = difflib.get_close_matches(name, CONFIGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no network is called {name!r}{hint} Known: {', '.join(CONFIGS)}")
    config = CONFIGS[name]
    known = [field.name for field in fields(config)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(
            f"{name!r} has no setting {', '.join(map(repr, unknown))}; "
            f"it has width, {', '.join(known)}"
        )
    return replace(config if width is None else config.scaled(width), **overrides)


FREE = ("sigmoid", "indivisible", "seed")
"""Settings that do not change what weights mean."""


def create_model(
    name: str, *, width: int | None = None, weights: str | None = None, **overrides: Any
) -> UNet | MultiResUNet:
    """Build one of the paper's five networks, or a variation of it, trained or not.

    Args:
        name: One of ``list_models()``.
        width: Channels of the first stage; all other channel counts follow in proportion.
        weights: Trained weights: a name of ``list_weights()``, or the path of a file of weights.
            They fix the network's width and shape; ``get_card`` tells how they came about.
        **overrides: Fields of ``UNetConfig`` or ``MultiResUNetConfig`` to set: ``encoder``,
            ``bottleneck``, ``decoder``, ``in_channels``, ``classes``, ``sigmoid``,
            ``indivisible``, ``seed``.

    Returns:
        The network in training mode, with Glorot-uniform weights unless ``weights`` are given. It
        returns logits unless ``sigmoid=True``.

    Raises:
        ValueError: Unknown name or setting, or weights that are missing, damaged or do not fit.

    Example:
        >>> sum(p.numel() for p in create_model("quarter_multiresunet").parameters())
        44574
    """
    if weights is not None:
        return _trained(name, width, weights, overrides)
    config = get_config(name, width=width, **overrides)
    if config.seed is None:
        return _build(config)
    with torch.random.fork_rng(devices=[]):
        return _build(config)


def _trained(
    name: str, width: int | None, weights: str, overrides: dict[str, Any]
) -> UNet | MultiResUNet:
    card, tensors = load_weights(name, weights)
    config = card.build_config()
    asked = get_config(name, width=width or config.width, **overrides)  # refuses what is unknown
    fixed = [key for key in overrides if key not in FREE]
    fixed += ["width"] if width not in (None, config.width) else []
    changed = [key for key in fixed if getattr(asked, key) != getattr(config, key)]
    if changed:
        raise ValueError(
            f"the weights {weights!r} of {name!r} fix its {', '.join(changed)} "
            f"({', '.join(f'{key}={getattr(config, key)!r}' for key in changed)}); leave that out, "
            "or leave out weights="
        )
    free = {key: overrides[key] for key in FREE if key in overrides}
    with torch.random.fork_rng(devices=[]):  # the draw that the weights replace
        model = _build(replace(config, **free))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights {weights!r} do not fit their own card ({error})") from error
    return model


def _build(config: Config) -> UNet | MultiResUNet:
    return UNet(config) if isinstance(config, UNetConfig) else MultiResUNet(config)
