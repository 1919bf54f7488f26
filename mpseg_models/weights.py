"""Trained weights: files that carry a card of what they are, and the ones that come along."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpseg_models.multiresunet import MultiResUNetConfig
from mpseg_models.unet import UNetConfig

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent / "trained"
"""``NAME/NETWORK.safetensors``, and ``digests.json`` with the SHA-256 of each."""


@dataclass(frozen=True)
class Card:
    """What weights are: how they came about, how good they are, what they are not for.

    Attributes:
        network: Name of the network in `list_models`.
        config: Fields of its config, so that it can be built.
        threshold: Probability above which a pixel is plastic; best on validation tiles.
        data: What it was trained on.
        settings: How it was trained.
        figures: Its metrics on test tiles, with these weights.
        folds: The same metrics of the study's trainings of this network, by fold.
        check: Inputs drawn again and what must come out on them, for a quick test.
        command: What trained it.
        code: Commit of the code that trained it.
        licence: Of the weights.
        limits: What it is not good for.
    """

    network: str
    config: Mapping[str, Any]
    threshold: float
    data: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    folds: Mapping[str, Mapping[str, float]]
    check: Mapping[str, Any]
    command: str
    code: str
    licence: str
    limits: str

    def build_config(self) -> UNetConfig | MultiResUNetConfig:
        """The config of the network that the weights fit."""
        fields = {key: _tuples(value) for key, value in self.config.items()}
        family = MultiResUNetConfig if "respath" in fields else UNetConfig
        return family(**fields)


def list_weights() -> tuple[tuple[str, str], ...]:
    """Return the pairs of network and weights that `create_model` can load.

    Example:
        >>> all(weights == "sand" for _, weights in list_weights())
        True
    """
    return tuple(tuple(name.split("/")[::-1]) for name in _digests())  # type: ignore[misc]


def get_card(network: str, weights: str = "sand") -> Card:
    """Return the card of weights that come along.

    Raises:
        ValueError: There are none of this name for this network.
    """
    return read_weights(_find(network, weights))[0]


def load_weights(network: str, weights: str) -> tuple[Card, dict[str, Tensor]]:
    """Load weights that come along, or a file of one's own, with their card.

    Args:
        network: Name of the network.
        weights: A name in `list_weights`, or the path of a file that `save_weights` wrote.

    Raises:
        ValueError: There are none of this name, the file is damaged, or it is of another network.
    """
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            f"weights={weights!r}; give a name in list_weights(), such as 'sand', or the path of a "
            "file that save_weights wrote"
        )
    weights = os.fspath(weights)
    own = weights.endswith(".safetensors")
    card, tensors = read_weights(Path(weights) if own else _find(network, weights))
    if card.network != network:
        raise ValueError(f"{weights!r} holds weights of {card.network!r}, not of {network!r}")
    return card, tensors


def save_weights(path: Path, card: Card, tensors: Mapping[str, Tensor]) -> str:
    """Write weights in half precision with their card; return the file's SHA-256.

    Written to ``FILE.sha256`` as ``sha256sum`` does, `read_weights` checks it.
    """
    from safetensors.torch import save

    half = {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}
    data = save(half, {"card": json.dumps(asdict(card), sort_keys=True)})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """Read a file of `save_weights`; tensors come back in single precision.

    Nothing in the file is executed. Where ``FILE.sha256`` lies beside it, the digest must agree;
    without one nothing says whether these are the weights that somebody else wrote.

    Raises:
        ValueError: It is missing, damaged, not what its digest says, or has no card.
    """
    from safetensors import SafetensorError, safe_open

    beside = _digest_file(path)
    if path.is_file() and beside.is_file():
        expected = beside.read_text(errors="replace").split(maxsplit=1)[:1]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if expected != [found]:
            raise ValueError(
                f"{str(path)!r} is not the file that {beside.name!r} beside it describes (SHA-256 "
                f"{found[:12]}); copy both again, or remove {beside.name!r} if you changed the "
                "weights yourself"
            )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no readable file of weights ({error})") from error
    try:
        return Card(**json.loads(metadata["card"])), tensors
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r} has no model card; it was not written by mpseg_models.save_weights, "
            "which the study does with the networks that it trains"
        ) from error


def _find(network: str, weights: str) -> Path:
    """The file of weights that come along, with its digest checked."""
    digests = _digests()
    key = f"{weights}/{network}"
    if key not in digests:
        names = sorted({name for _, name in list_weights()})
        fitting = ", ".join(n for n, w in list_weights() if w == weights) or "no network"
        raise ValueError(
            f"there are no weights {weights!r} for {network!r}"
            + (f"; {weights!r} has come for: {fitting}" if weights in names else "")
            + f"; known weights: {', '.join(map(repr, names)) or 'none'}, or the path of a "
            ".safetensors file that the study wrote"
        )
    path = FOLDER / f"{key}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != digests[key]:
        raise ValueError(
            f"{str(path)!r} is damaged: SHA-256 {found[:12]}, expected {digests[key][:12]}; "
            "install the package again"
        )
    return path


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digests() -> dict[str, str]:
    file = FOLDER / "digests.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
