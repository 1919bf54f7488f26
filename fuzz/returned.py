"""What the library wrote and reads back, changed: recipes of variants and states of histories."""

from __future__ import annotations

import copy
import json
import pickle
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

import weightscope as ws
from fuzz.inputs import ODD_NAMES, ODD_NUMBERS, Files, random_bytes
from fuzz.states import Small
from weightscope.truncation import saving

_ODD = (None, True, 1.5, -1.0, float("nan"), float("inf"), "", "x", [], {}, [3], {"a": 1})


@cache
def _saved() -> tuple[str, dict[str, torch.Tensor]]:
    """Recipe and tensors of a small variant."""
    analysis = ws.analyze(Small(), example_inputs=torch.ones(2, 1, 16, 16), response=False)
    with tempfile.TemporaryDirectory() as folder:
        path = ws.save(analysis.proposals[0].build(), Path(folder) / "v.safetensors")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata()["weightscope_recipe"], tensors


@cache
def _trained() -> tuple[ws.watching.History, dict[str, Any]]:
    """A history and its state after two steps."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    with ws.watch(model, optimizer, every=1) as history:
        for _ in range(2):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    return history, history.state_dict()


def _changed(rng: random.Random, tree: Any) -> Any:
    """The same nested value with a few parts replaced, removed or repeated; never in place."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
                node = node[key]
                continue
            change = rng.randrange(5)
            if change == 0:
                del node[key]
            elif change == 1:
                node[key] = rng.choice(ODD_NUMBERS)
            elif change == 2 and isinstance(node, dict):
                node[rng.choice(ODD_NAMES)] = node.pop(key)
            elif change == 3:
                node[key] = [node[key]] * rng.choice((0, 2, 9))
            else:
                node[key] = copy.deepcopy(rng.choice(_ODD))
            break
    return tree


def recipe(rng: random.Random) -> Files:
    """A variant whose recipe somebody changed, with a digest that fits it."""
    text, tensors = _saved()
    if rng.random() < 0.2:
        text = random_bytes(rng, text.encode()).decode(errors="replace")
    else:
        text = json.dumps(_changed(rng, json.loads(text)))
    metadata = {"weightscope_recipe": text, "weightscope_sha256": saving.digest(text, tensors)}
    return {"v.safetensors": save(tensors, metadata)}


def history(rng: random.Random) -> Files:
    """A changed state of a history."""
    return {"state": pickle.dumps(_changed(rng, _trained()[1]))}


def read_recipe(path: Path) -> None:
    """Load a variant."""
    ws.load(path, Small)


def read_history(path: Path) -> None:
    """Load a state; one that is refused must change nothing.

    Raises:
        AssertionError: It did.
    """
    known, state = _trained()
    known.load_state_dict(state)
    before = repr(known.state_dict())
    try:
        known.load_state_dict(pickle.loads(path.read_bytes()))
    except ws.WeightscopeError:
        assert repr(known.state_dict()) == before, "a refused state changed the history"
        raise


KINDS: dict[str, Callable[[random.Random], Files]] = {"recipes": recipe, "histories": history}
READERS: dict[str, Callable[[Path], None]] = {"recipes": read_recipe, "histories": read_history}
