"""Run a network on tensors without numbers and count what every operator costs."""

from __future__ import annotations

import functools
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import getclosurevars
from typing import Any, TypeAlias

import torch
from torch import nn

from weightscope.adapters import modules, pytree
from weightscope.adapters.constants import Constants, keep_computed
from weightscope.adapters.dispatch import (
    DEVICE_OPERATOR,
    FAKE_TENSOR_LOGGER,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    storage_of,
)
from weightscope.adapters.leftovers import nothing_left
from weightscope.adapters.modes import alone, modes_kept
from weightscope.adapters.rewriting import Rewriting
from weightscope.adapters.schemas import is_operator, packet
from weightscope.adapters.switches import quiet
from weightscope.calls import checked_arguments, fresh, held_tensors, random_state, say
from weightscope.copies import deep_copy
from weightscope.cost.rules import MAC_RULES, Rule, is_free
from weightscope.errors import ForwardError, InputError, kind
from weightscope.graph.pools import WHOLE_TRANSFORMS
from weightscope.graph.recurrence import WHOLE_RECURRENCES
from weightscope.graph.structure import ExampleInputs
from weightscope.showing import OnOneScreen

Inputs: TypeAlias = "ExampleInputs | torch.Tensor | tuple[Any, ...] | Mapping[str, Any]"


@dataclass(frozen=True)
class LayerCost:
    """Costs of one module's own work (its children's is theirs).

    Attributes:
        layer: Qualified module name, ``""`` for the network itself.
        macs: Multiply-accumulates of the operators that read the module's parameters or that its
            own forward calls directly, over all its calls.
        parameters: Number of the module's own parameters; a shared one counts for its first owner.
        activation_bytes: Bytes of the new tensors that these operators return.
        output_shape: Shape of the module's last output, ``()`` if it was never called.
    """

    layer: str
    macs: int
    parameters: int
    activation_bytes: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Costs(OnOneScreen):
    """Costs of one forward in evaluation mode.

    Attributes:
        layers: By qualified name, every module that owns parameters or does work of its own.
        macs: Multiply-accumulates of the whole forward, at the inputs' batch size.
        parameters: Number of parameters, shared ones once.
        activation_bytes: Bytes of all new tensors that operators return in one forward: what
            would be held if nothing were freed, as in training without recomputation. Views,
            in-place results, parameters and inputs are not counted.
        unsupported: Operators that have no rule and may cost something, with how often they ran;
            empty when ``macs`` is complete.
    """

    layers: Mapping[str, LayerCost]
    macs: int
    parameters: int
    activation_bytes: int
    unsupported: Mapping[str, int]

    def _facts(self) -> dict[str, object]:
        return {
            "layers": len(self.layers),
            "parameters": f"{self.parameters:,}",
            "MACs": f"{self.macs:,}",
            "bytes of activations": f"{self.activation_bytes:,}",
            **({"without a rule": ", ".join(self.unsupported)} if self.unsupported else {}),
        }


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a forward.

    Args:
        inputs: A tensor, a tuple of arguments, a mapping of keyword arguments or ExampleInputs.

    Raises:
        InputError: Something else was given.
    """
    if isinstance(inputs, ExampleInputs):
        return tuple(inputs.args), dict(inputs.kwargs)
    return checked_arguments(inputs, "inputs")


@alone()
def count_costs(
    model: nn.Module, inputs: Inputs, *, rules: Mapping[Any, Rule] = MAC_RULES
) -> Costs:
    """Count what one forward of a model costs, layer by layer.

    The model is copied without its numbers and the copy runs in evaluation mode on fake tensors
    under a dispatch mode that sees every operator. A model whose forward reads numbers (data-
    dependent control flow) is run for real, on a deep copy. The model itself is not touched; hooks
    that are plain functions and reach objects outside of the copy are left out of it.

    Args:
        model: Any module; its parameters may live on the meta device.
        inputs: What its forward takes; real, meta or fake tensors.
        rules: Cost of each operator; see ``MAC_RULES``.

    Returns:
        Costs, whose layers add up to the totals.

    Raises:
        InputError: The model is no module or cannot be copied.
        ForwardError: Its forward raises on these inputs.

    Example:
        >>> costs = count_costs(torch.nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
        >>> costs.macs, costs.parameters
        (21600, 224)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, received {kind(model)}")
    args, kwargs = split_inputs(inputs)
    try:
        return _count(*_fake_copy(model, args, kwargs), rules)
    except InputError:
        raise
    except Exception as reason:
        if _on_meta(model):
            raise ForwardError(
                f"the forward of {type(model).__name__} fails on tensors without numbers, and its "
                f"parameters are on the meta device: {say(reason)}. Give a model with real "
                "parameters."
            ) from reason
    try:
        args, kwargs = fresh(args, kwargs)
        return _count(deep_copy(model), args, kwargs, None, rules)
    except Exception as reason:
        raise ForwardError(
            f"the forward of {type(model).__name__} raises on inputs of shapes "
            f"{_shapes(args, kwargs)}: {say(reason)}. Pass inputs that the model accepts."
        ) from reason


def _count(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    mode: FakeTensorMode | None,
    rules: Mapping[Any, Rule],
) -> Costs:
    """Run a throw-away model and collect what its modules did."""
    calls = _Calls(model.eval())
    counter = _Counter(rules, calls)
    with random_state(), torch.no_grad():
        if mode is None:
            with counter:
                model(*args, **kwargs)
        else:
            # what does not fit is raised; torch would print it too
            with (
                quiet(FAKE_TENSOR_LOGGER),
                nothing_left(model),
                Constants(),
                Rewriting(WHOLE_TRANSFORMS, WHOLE_RECURRENCES),
                mode,
                counter,
            ):
                model(*args, **kwargs)
    parameters = _own_parameters(model)
    layers = {
        name: LayerCost(
            layer=name,
            macs=counter.macs[name],
            parameters=parameters.get(name, 0),
            activation_bytes=counter.activation_bytes[name],
            output_shape=calls.shapes.get(name, ()),
        )
        for name in dict.fromkeys([*(n for n, _ in model.named_modules()), *parameters])
        if name in parameters or counter.macs[name] or counter.activation_bytes[name]
    }
    return Costs(
        layers=layers,
        macs=sum(counter.macs.values()),
        parameters=sum(parameters.values()),
        activation_bytes=sum(counter.activation_bytes.values()),
        unsupported=dict(counter.unsupported),
    )


class _Calls:
    """Which module's forward runs now, and what it returned. Hooks a throw-away model."""

    def __init__(self, model: nn.Module) -> None:
        self.stack: list[str] = [""]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.owners: dict[int, list[str]] = defaultdict(list)
        for name, module in model.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, name))
            module.register_forward_hook(functools.partial(self._leave, name), always_call=True)
        self._kept: list[torch.Tensor] = []
        for name, module in model.named_modules(remove_duplicate=False):
            for parameter in modules.parameters(module).values():
                if parameter is not None:
                    self.owners[storage_of(parameter)].append(name)
                    # a forward may give it other memory: this must not become an activation's
                    self._kept.append(parameter.detach())

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.stack.append(name)

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        tensors = pytree.tree_tensors(output)
        if tensors:
            self.shapes[name] = tuple(int(s) for s in tensors[0].shape)

    def owner(self, tensors: Sequence[torch.Tensor]) -> str:
        """The module an operator belongs to: whose parameters it reads, else who calls it."""
        current = self.stack[-1]
        for tensor in tensors:
            names = self.owners.get(storage_of(tensor))
            if names:
                return current if current in names else names[0]
        return current


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of a forward and adds its cost to the module that it belongs to."""

    supports_higher_order_operators = True

    def __init__(self, rules: Mapping[Any, Rule], calls: _Calls) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules = rules
        self.calls = calls
        self.macs: Counter[str] = Counter()
        self.activation_bytes: Counter[str] = Counter()
        self.unsupported: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = self._rule(func)
        if rule is None and is_operator(func) and func is not DEVICE_OPERATOR:
            with modes_kept(), self:  # composite operators arrive whole under inference mode
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        given = pytree.tree_tensors((args, kwargs))
        owner = self.calls.owner(given)
        if rule is not None:
            self.macs[owner] += rule(args, kwargs, out)
        elif not is_free(func):
            self.unsupported[str(func)] += 1
        old = {storage_of(t) for t in given}
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and storage_of(tensor) not in old:
                self.activation_bytes[owner] += tensor.numel() * tensor.element_size()
        return out

    def _rule(self, func: Any) -> Rule | None:
        return self.rules.get(func) or self.rules.get(packet(func))


def _own_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters that each layer owns, a shared one for its first owner."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        counts[modules.layer_of(model, name)] += parameter.numel()
    return counts


def _on_meta(model: nn.Module) -> bool:
    return any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in pytree.tree_tensors((args, dict(kwargs)))]


def _fake_copy(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], FakeTensorMode]:
    """Copy a model and its inputs without their numbers."""
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has lazy parameters without a shape; run its forward once"
        )
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    keep_computed(mode)
    given = pytree.tree_tensors((args, dict(kwargs)))
    home = next((t.device for t in given if not t.is_meta), torch.device("cpu"))

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor) or tensor.is_meta:
            with mode:
                new = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype, device=home
                )
            return nn.Parameter(new) if isinstance(tensor, nn.Parameter) else new
        return mode.from_tensor(tensor if tensor.is_leaf else tensor.detach())

    try:
        twin = deep_copy(model, _replaced(model, fake))
    except Exception as reason:
        raise InputError(
            f"{type(model).__name__} cannot be deep-copied: {reason}. Remove the attribute that "
            "forbids it."
        ) from reason
    new_args, new_kwargs = pytree.tree_map_only(torch.Tensor, fake, (args, dict(kwargs)))
    return twin, new_args, new_kwargs, mode


def _replaced(model: nn.Module, fake: Callable[[torch.Tensor], torch.Tensor]) -> dict[int, Any]:
    """What a deep copy takes instead of the model's tensors and hooks, by identity."""
    memo: dict[int, Any] = {}
    own = {_package(type(module)) for module in model.modules()} - {"torch", "__main__"}
    for module in model.modules():
        owned = (*modules.parameters(module).values(), *modules.buffers(module).values())
        for value in (*owned, *(tensor for _, tensor in held_tensors(module))):
            if value is not None and id(value) not in memo:
                memo[id(value)] = fake(value)
        for hook in modules.forward_hooks(module):
            if not _is_closed(hook, own):
                memo[id(hook)] = _no_hook
        for hooks in modules.backward_hooks(module):
            memo[id(hooks)] = type(hooks)()
    return memo


_CLOSED = (str, int, float, complex, bytes, type, type(None), types.ModuleType, ContextVar)


def _is_closed(hook: Any, own: set[str]) -> bool:
    """Whether a hook reaches nothing that it could write into but what it is given.

    An object is copied with what it holds; the copy of a function would share that. Some networks
    collect what they return by hooks of their own, which hold names, numbers, and an object of
    the file that they are written in.

    Args:
        hook: The hook.
        own: The packages that the model's classes are of.
    """
    if isinstance(hook, types.BuiltinFunctionType | functools.partial):
        return False
    if not isinstance(hook, types.FunctionType):
        return True
    waiting, seen = [hook], set[int]()
    while waiting:
        held: Any = waiting.pop()
        if id(held) in seen or isinstance(held, _CLOSED):
            continue
        seen.add(id(held))
        if isinstance(held, types.FunctionType):
            names = getclosurevars(held)
            waiting += [*names.nonlocals.values(), *names.globals.values()]
            waiting += held.__defaults__ or ()
        elif isinstance(held, tuple):
            waiting += held
        elif type(held).__module__ != hook.__module__ or _package(hook) not in own:
            return False
    return True


def _package(made: Any) -> str:
    """The package that a class or a function is of; a script is none."""
    return str(made.__module__).partition(".")[0]


def _no_hook(*args: Any, **kwargs: Any) -> None:
    return None
