"""Run a coarse graph over a model's own modules."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import fx, nn

from weightscope.adapters import modules, pytree
from weightscope.adapters.pytree import TreeSpec
from weightscope.adapters.regions import left_on_failure, with_switches
from weightscope.adapters.scripting import is_recorded, run_recorded
from weightscope.errors import InputError
from weightscope.graph.capture import copy_in_mode
from weightscope.graph.fixed import Fixed, fixed_in
from weightscope.graph.structure import Structure


def rebuild(structure: Structure, model: nn.Module | None = None) -> nn.Module:
    """Run the coarse graph over the submodules, parameters and buffers of a model.

    Args:
        structure: What was read.
        model: A model of the same architecture; by default the one that was read.

    Returns:
        A module with the model's own children (the same objects, aliased and unused ones too), the
        same state dict keys, and the same outputs; in train mode too where ``modes_agree``.
    """
    owner = structure.model if model is None else model
    return runnable(
        owner, structure.graph, structure.constants, structure.output_spec, own_modes(owner)
    )


def own_modes(model: nn.Module) -> Mapping[bool, frozenset[str]]:
    """Names of the modules that a model's own ``train(mode)`` leaves in the other mode, by mode.

    Frozen normalisations, and dropout that goes on in evaluation mode, are set in this way.
    """
    if all(type(module).train is nn.Module.train for module in model.modules()):
        return {}
    return {
        mode: frozenset(
            name
            for name, module in copy_in_mode(model, mode).named_modules()
            if module.training is not mode
        )
        for mode in (True, False)
    }


def runnable(
    owner: nn.Module,
    graph: fx.Graph,
    constants: Mapping[str, torch.Tensor],
    output_spec: TreeSpec,
    modes: Mapping[bool, frozenset[str]] | None = None,
) -> nn.Module:
    """Make a module that runs a graph over the children of another module.

    Args:
        owner: Whose children, parameters and buffers the new module shares; not changed.
        graph: What to run. ``call_module`` and ``get_attr`` nodes name children of ``owner``.
        constants: Tensors that the graph reads by name; they become buffers outside the state dict.
        output_spec: How the graph's flat outputs fold back.
        modes: From `own_modes`; by default ``train`` sets all modules.

    Returns:
        A module in the mode of ``owner``. It can be copied and exported; pickling it raises
        ``pickle.PicklingError``, which names what to do instead.
    """
    plain = _with_methods(graph)
    switched = with_switches(plain)
    code = switched.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<weightscope graph>", "exec"), namespace)
    run = namespace["forward"]

    fixed = fixed_in(graph)
    guard = nullcontext if switched is plain else left_on_failure

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if isinstance(args, fx.Proxy):
            raise InputError(
                "torch.fx cannot trace a rebuilt network, whose arguments are asked what they are; "
                "give it torch.export.export(module, inputs).module(), as quantization by "
                "prepare_pt2e takes it"
            )
        given = fixed.in_order(args, kwargs)
        with guard():
            if is_recorded():
                return pytree.tree_unflatten(run_recorded(self, switched, given), output_spec)
            return pytree.tree_unflatten(run(self, *given), output_spec)

    forward.__signature__ = _signature(fixed)  # type: ignore[attr-defined]
    kind = type(
        f"{type(owner).__name__}Graph",
        (_Rebuilt,),
        {"forward": forward, "_left_by_mode": modes or {}},
    )
    module: nn.Module = kind()
    for name, child in modules.children(owner).items():
        module.add_module(name, child)
    for name, parameter in modules.parameters(owner).items():
        module.register_parameter(name, parameter)
    for name, buffer in modules.buffers(owner).items():
        module.register_buffer(name, buffer, modules.is_persistent(owner, name))
    for name, constant in constants.items():
        module.register_buffer(name, constant, persistent=False)
    module.training = owner.training
    return module


def _with_methods(graph: fx.Graph) -> fx.Graph:
    """A copy that asks tensors for their sizes: the operator has no rule under `torch.vmap`."""
    made = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            known[node] = made.call_method("size", tuple(known.get(a, a) for a in node.args))
        else:
            known[node] = made.node_copy(node, lambda n: known[n])
    return made


def _signature(fixed: Fixed) -> inspect.Signature:
    """What the original's forward takes; what the graph needs has no default where that can be."""
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [itself]
    for parameter in fixed.signature.parameters.values():
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        needed = parameter.name in fixed.names and parameter.name not in fixed.defaults
        if needed and (by_name or parameters[-1].default is parameter.empty):
            parameter = parameter.replace(default=parameter.empty)
        parameters.append(parameter)
    return inspect.Signature(parameters)


class _Rebuilt(nn.Module):
    """A module whose forward was made from a graph: copied like any, but no pickle can name it."""

    _left_by_mode: Mapping[bool, frozenset[str]]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but those that the original's ``train`` leaves out."""
        super().train(mode)
        left = self._left_by_mode.get(mode, frozenset())
        for name, module in self.named_modules() if left else ():
            if name in left:
                module.training = not mode
        return self

    def __copy__(self) -> nn.Module:
        made: nn.Module = type(self).__new__(type(self))
        made.__setstate__(self.__dict__)  # type: ignore[no-untyped-call]
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        made: nn.Module = type(self).__new__(type(self))
        memo[id(self)] = made  # before its parts, which may point back to it
        made.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise pickle.PicklingError(
            "a rebuilt network cannot be pickled, because its forward is made from a graph; "
            "weightscope.save(variant, path) and weightscope.load(path, factory) keep and rebuild "
            "it, and torch.save(module.state_dict(), path) keeps its weights alone"
        )
