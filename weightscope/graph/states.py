"""Whether a call of a module, made alone, does what it did inside of the forward.

A forward may set what its modules do before it calls them: an attribute
(``conv.dilation = (2, 2)``), or the parameters (``torch.func.functional_call``). Such a call
cannot stand for the operators that were traced in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from weightscope.adapters import modules
from weightscope.adapters.boundary import BOUNDARY
from weightscope.graph.nodes import is_check, is_size

if TYPE_CHECKING:
    from weightscope.graph.capture import Call, Capture

_BY_VALUE = (bool, int, float, complex, str, bytes, torch.Size)
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_OWN = (modules.parameters, modules.buffers, modules.children)


class Rest:
    """The settings of a model's modules before its forward runs.

    Args:
        model: The model, as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._alive = tuple(model.modules())  # or another module may get the memory
        self._settings = {id(module): _copied(_settings(module)) for module in self._alive}
        self._inside: dict[int, tuple[nn.Module, ...]] = {}
        of_modules = [{id(v): v for v in vars(module).values()} for module in self._alive]
        held = Counter(key for values in of_modules for key in values)
        self._shared = [
            value
            for key, value in {k: v for values in of_modules for k, v in values.items()}.items()
            if held[key] > 1 and type(value) in (list, dict)
        ]

    def shared(self) -> list[Any]:
        """What the lists and dicts hold now that several modules have among their attributes."""
        return _copied(self._shared)  # type: ignore[no-any-return]

    def shared_is(self, before: list[Any]) -> bool:
        """Whether they hold what they held then."""
        return _same(self._shared, before)

    def holds(self, module: nn.Module) -> bool:
        """Whether a module of the model, and all inside of it, are set as they were."""
        inside = self._inside.setdefault(id(module), tuple(module.modules()))
        return all(
            id(part) in self._settings and _same(_settings(part), self._settings[id(part)])
            for part in inside
        )


def _settings(module: nn.Module) -> list[Any]:
    own = [list(part(module).items()) for part in _OWN]
    return [own, [pair for pair in vars(module).items() if pair[0] not in _OF_EVERY_MODULE]]


def _copied(value: Any) -> Any:
    """Containers copied, since they may be changed in place; what is in them as it is."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _same(now: Any, before: Any) -> bool:
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    if type(now) is dict:
        return now.keys() == before.keys() and all(_same(now[k], before[k]) for k in now)
    if type(now) in (list, tuple):
        return len(now) == len(before) and all(map(_same, now, before))
    return isinstance(now, _BY_VALUE) and bool(now == before)


def follow_settings(capture: Capture) -> frozenset[str]:
    """Names of the modules whose calls do not follow from the module and its arguments alone.

    They are called in other settings than before the forward, and no call in those had the same
    operators; or two calls with equal arguments differ, so that what is set lies elsewhere.
    """
    of_module: dict[str, list[Call]] = {}
    for call in capture.calls:
        of_module.setdefault(call.module, []).append(call)
    return frozenset(name for name, calls in of_module.items() if _differ(calls, capture))


def _differ(calls: Sequence[Call], capture: Capture) -> bool:
    if len(calls) == 1:
        return not calls[0].at_rest
    does = [(_arguments(call), _operators(call, capture)) for call in calls]
    alone = {given: what for call, (given, what) in zip(calls, does, strict=True) if call.at_rest}
    return any(what != alone.get(given) for given, what in does)


def _arguments(call: Call) -> str:
    """What a call is given, as far as operators may follow from it."""
    return str([call.arguments_spec, [_text(value) for value in call.arguments]])


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(map(str, value.shape))}"
    return f"{type(value).__name__} {value}"


def _operators(call: Call, capture: Capture) -> list[Any]:
    """What a call does: its operators with their constants, and which parameters they read."""
    known: dict[fx.Node, Any] = {}
    entries = {node: position for position, node in call.entries.items()}

    def read(node: fx.Node) -> Any:
        if node in known:
            return known[node]
        return f"size {node.meta['val']}" if is_size(node) else _outside(node, capture)

    listed: list[Any] = []
    for node in capture.nodes[call.first : call.last + 1]:
        if node.target is BOUNDARY:
            source: Any = node.args[0]
            known[node] = f"argument {entries[node]}" if node in entries else read(source)
        elif not is_size(node) and not is_check(node):
            known[node] = f"operator {len(listed)}"
            listed.append(str((node.target, fx.map_arg((node.args, node.kwargs), read))))
    return listed


def _outside(node: fx.Node, capture: Capture) -> str:
    """A tensor from outside of a call: by name, or by its values where the forward wrote them."""
    source = capture.program.graph_signature.inputs_to_lifted_tensor_constants.get(node.name)
    value = None if source is None else capture.program.constants[source]
    return str(value.tolist()) if isinstance(value, torch.Tensor) else node.name
