"""Save a variant as a recipe and its tensors, and rebuild it from the original's own code."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone, outside_modes
from weightscope.arguments import checked, path_text
from weightscope.calls import named_errors, random_state
from weightscope.checkpoints import RECIPE, load_tensors, open_checkpoint, parse_json, path_of
from weightscope.errors import (
    CheckpointError,
    InputError,
    RecipeError,
    WeightscopeError,
    keyword,
    kind,
)
from weightscope.files import tensors_target, write_tensors
from weightscope.graph import read_structure
from weightscope.graph.layouts import parse_layout
from weightscope.graph.structure import ExampleInputs, Structure
from weightscope.truncation.bottleneck import BottleneckFactory, format_of
from weightscope.truncation.building import build
from weightscope.truncation.plan import (
    FORMAT,
    Plan,
    decode,
    digest,
    farthest_reach,
    fingerprint,
    operators,
    tracer,
    unsaved,
    weights_digest,
    wiring,
)
from weightscope.truncation.variant import Variant
from weightscope.wrappers import unwrap

# numbers in the example inputs of a recipe, which are made before anything is known to fit
_LARGEST_INPUT = 1 << 26
_MOST_AXES = 8
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_DIGEST = "weightscope_sha256"


@outside_modes()
def save(variant: Variant, path: str | os.PathLike[str]) -> Path:
    """Write a variant as one safetensors file: its tensors, and its recipe in the metadata.

    Nothing is pickled. The file is written completely or not at all.

    Args:
        variant: From ``Proposal.build``; its module may have been trained since, and wrapped
            (``dataclasses.replace(variant, module=...)``).
        path: Where to write; the name ends in ``.safetensors``, or has no ending.

    Returns:
        The path.

    Raises:
        RecipeError: The network was called with something that JSON cannot hold, or keeps state
            that is no tensor, or numbers of another type than the original's.
        InputError: It is no variant, the file cannot be written, or its name is that of another
            kind of file, such as ``.pt``.
    """
    if not isinstance(variant, Variant):
        raise InputError(
            f"expected a Variant, got {type(variant).__name__}; give what proposal.build() "
            "returns, not its module"
        )
    tensors_target(path)
    recipe = dict(variant.recipe)
    if (kind := unsaved(recipe["inputs"])) is not None:
        raise RecipeError(
            f"the network was read with {kind}, which a recipe cannot hold; pass "
            f"{keyword('example_inputs')} of tensors, numbers, texts, lists, tuples and dicts, or "
            f"analyse a module that is given these, and calls the network with {kind}(...) of them"
        )
    state = unwrap(variant.module).model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise RecipeError(f"{name!r} in the state of the network is no tensor; remove it")
    before = variant.structure.model.state_dict()
    for name, value in state.items():
        saved, is_new = value.dtype, name not in before
        if is_new and not saved.is_floating_point:
            continue
        own = format_of(variant.structure.model) if is_new else before[name].dtype
        if saved != own:
            lost = "be lost" if torch.promote_types(saved, own) != own else f"be {own} again"
            raise RecipeError(
                f"{name!r} is {saved} where the code of the original, which rebuilds the network, "
                f"makes {own}: numbers would {lost} on loading; convert it before, such as "
                f"variant.module.to({own}), and the loaded one after, or convert the original and "
                "build again"
            )
    recipe["aliases"] = aliases = _tied(state)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if name not in aliases
    }
    origin = variant.origin
    recipe["weights"] = weights_digest(variant.structure.model) if origin is None else origin
    text = json.dumps(recipe, sort_keys=True)
    metadata = {RECIPE: text, _DIGEST: digest(text, tensors)}
    write_tensors(tensors, path, metadata)
    return Path(path_text(path, "of a file to write"))


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are another one under a second name, with the first name."""
    first: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if value.numel():
            first.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), name)
    own = {name: first.get((v.data_ptr(), tuple(v.shape), v.stride())) for name, v in state.items()}
    return {name: other for name, other in own.items() if other not in (None, name)}


@checked()
@alone()
def load(
    path: str | os.PathLike[str],
    model_factory: Callable[[], nn.Module],
    *,
    bottleneck: nn.Module | BottleneckFactory | None = None,
) -> Variant:
    """Rebuild a saved variant.

    The original's architecture comes from ``model_factory``, is cut as the recipe says, and the
    saved tensors are loaded into it.

    Args:
        path: Written by ``save``.
        model_factory: Makes the original architecture. Its weights do not matter, for the
            variant's own are in the file; only ``recover`` needs those of the original, to answer
            as it does: to teach a loaded variant on, return the trained network
            (``lambda: model``).
        bottleneck: The module or factory that ``build`` was given, where it was given one.

    Returns:
        The variant, its structure being that of the factory's model.

    Raises:
        RecipeError: The file is missing, damaged, altered or of a newer format, or the factory
            makes another network: the names, shapes or types of its state differ, or the operators
            of its forward or the order of what they take (compared where weightscope, torch and the
            kind of device are those that it was saved with, else a warning says that they were not;
            numbers such as a slope or a dropout are not compared).
        InputError: ``model_factory`` is no function, or ``path`` no path.
    """
    if isinstance(model_factory, nn.Module) or not callable(model_factory):
        raise InputError(
            f"{keyword('model_factory')} is {kind(model_factory)}; give a function "
            "without arguments that builds the original network, such as lambda: Network(...)"
        )
    path = path_of(path)
    recipe, tensors = _read(path)
    # the user's factory draws weights that are not kept
    with random_state(), named_errors("model_factory, which is called without arguments,"):
        model = unwrap(model_factory()).model
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"{keyword('model_factory')} returned {kind(model)}; expected a torch.nn.Module"
        )
    _refuse_another_original(path, recipe, model)
    plan = Plan.from_json(recipe)
    if recipe["format"] not in (1, plan.format):
        raise RecipeError(
            f"{path!r} says format {recipe['format']} of a recipe of format {plan.format}; save "
            "the variant again"
        )
    _check_budget(path, recipe, plan, [*tensors.values(), *model.state_dict().values()])
    if plan.bottleneck == "custom" and bottleneck is None:
        raise RecipeError(
            f"{path!r} was built with a bottleneck of your own; pass it again as "
            f"{keyword('bottleneck')}"
        )
    try:
        structure = _structure(model, recipe)
        if plan.reach > (largest := farthest_reach(structure.inputs)):
            raise RecipeError(f"the recipe reaches {plan.reach:,} pixels in images of {largest}")
        variant = build(structure, plan, bottleneck)
        _refuse_other_ties(variant.module, recipe["aliases"])
        compared = _refuse_other_wiring(structure, recipe.get("operators"))
        state = tensors | {new: tensors[old] for new, old in recipe["aliases"].items()}
        _check_number_types(variant.module, state)
        variant.module.load_state_dict(state, strict=True)
    except (
        WeightscopeError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError
    ) as reason:  # fmt: skip
        raise RecipeError(
            f"{path!r} does not rebuild from the {type(model).__name__} that "
            f"{keyword('model_factory')} makes: {reason}. Give the factory of the original, or "
            "save the variant again with this version of weightscope."
        ) from reason
    if not compared:
        warnings.warn(
            f"{path!r} was saved by an earlier weightscope, or with another torch or kind of "
            f"device: whether the forward of the {type(model).__name__} that "
            f"{keyword('model_factory')} makes is that of the original was not compared in full. "
            "Compare an output with one of the saved variant's, and save it again",
            stacklevel=4,  # two frames are of the decorators
        )
    return replace(variant, origin=recipe.get("weights", ""))


def _refuse_another_original(path: str, recipe: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a model whose state is not that of the network which the recipe was made from.

    Raises:
        RecipeError: It is not.
    """
    if fingerprint(model) == recipe["original"]:
        return
    name = recipe["model"]  # anybody may have written it
    name = name if name.isidentifier() else ascii(name[:100])
    fitting = [t for t in _FLOATS if fingerprint(model, t) == recipe["original"]]
    if fitting:
        raise RecipeError(
            f"{path!r} was cut from a {name} in {fitting[0]}, and the one that "
            f"{keyword('model_factory')} makes has other types; give {fitting[0]} ones, such "
            f"as lambda: factory().to({fitting[0]}), and convert the variant's module after"
        )
    own = type(model).__name__
    if name != own and name.startswith(own) and not name.removeprefix(own).replace("Graph", ""):
        raise RecipeError(
            f"{path!r} was cut from a smaller {own}, not from the one that "
            f"{keyword('model_factory')} makes; give a factory that returns the smaller one, "
            "such as lambda: weightscope.load(FILE, factory).module of the file that holds it "
            f"(in a command, --weights FILE before --weights {path})"
        )
    raise RecipeError(
        f"{path!r} was cut from a {name} whose state has other names, shapes or "
        f"types than the {own} that {keyword('model_factory')} makes; "
        "give the factory of the original"
    )


def _refuse_other_ties(module: nn.Module, before: Mapping[str, str]) -> None:
    """Refuse a network in which other tensors are one: it would compute, or learn, otherwise."""
    state = module.state_dict()
    now = _tied(state)
    for name in state:  # not those of the file, which anybody may have written
        if (name in before) != (name in now):
            first, then, remedy = ("one tensor", "two", "tie")
            if name in now:
                first, then, remedy = ("two tensors", "one", "untie")
            other = now[name] if name in now else before[name]
            raise RecipeError(
                f"{name} and {other!a} were {first} and are {then} now; {remedy} them in the "
                "factory"
            )


def _refuse_other_wiring(structure: Structure, before: Mapping[str, Any] | None) -> bool:
    """Refuse a network that hands its tensors on in another order; whether that can be known.

    Raises:
        RecipeError: It does.
    """
    if before is None or before["by"] != tracer(structure.model) or "wiring" not in before:
        return False
    if before["wiring"] != wiring(structure):
        raise RecipeError(
            "its forward does the operations of the original's with other tensors, or takes these "
            "in another order, as of a concatenation"
        )
    return True


def _check_number_types(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse numbers that would be changed where they are loaded; fewer bits of a kind are not."""
    for name, own in module.state_dict().items():
        saved = state[name].dtype if name in state else own.dtype
        if torch.promote_types(saved, own.dtype) != own.dtype or _family(saved) != _family(
            own.dtype
        ):
            raise RecipeError(f"{name} is saved as {saved} and is {own.dtype}")


def _family(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    return dtype.is_floating_point, dtype.is_complex, dtype == torch.bool


def _structure(model: nn.Module, recipe: Mapping[str, Any]) -> Structure:
    """Read the model as it was read before, with its stages where they were given by the user."""
    args, kwargs = decode(recipe["inputs"])
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to(home), (args, kwargs))
    layout = parse_layout(recipe["layout"]) if recipe.get("layout") else ""
    inputs = ExampleInputs(args, kwargs, recipe["dimensions"], guessed=False, layout=layout)
    part = recipe.get("part")
    structure = read_structure(model, inputs, part=part)
    if structure.sizes != recipe.get("sizes", structure.sizes):
        raise RecipeError(
            f"the network was read with {recipe['sizes']} sizes and is now read with "
            f"{structure.sizes} sizes; use the versions of torch and of the model's library that it"
            " was saved with"
        )
    _compare(structure, recipe.get("operators"))
    stages = {stage.name: list(stage.layers) for stage in structure.stages}
    if stages == recipe["stages"]:
        return structure
    return read_structure(model, inputs, stages=recipe["stages"], part=part)


def _compare(structure: Structure, before: Mapping[str, Any] | None) -> None:
    """Refuse a network whose forward was written down by other operators in the same way.

    Raises:
        RecipeError: The operators differ; the text says which.
    """
    if before is None or before["by"] != tracer(structure.model):
        return
    there, here = before["counts"], operators(structure)
    other = sorted(name for name in {*there, *here} if there.get(name, 0) != here.get(name, 0))
    if other:
        listed = ", ".join(
            f"{name} {there.get(name, 0)} times, now {here.get(name, 0)}" for name in other[:4]
        )
        raise RecipeError(f"its forward does other operations than the original's ({listed})")


def _read(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file and check that it is whole and unaltered."""
    if not os.path.exists(path):
        raise RecipeError(f"there is no file {path!r}; give a path that weightscope.save wrote")
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as reason:
        raise RecipeError(
            f"{path!r} is no file that weightscope.save wrote, or is damaged: "
            f"{_guessed(path, reason)}"
        ) from reason
    if RECIPE not in metadata:
        raise RecipeError(
            f"{path!r} holds tensors but no recipe; give a file that weightscope.save wrote, or "
            "load it with fit_weights(model, read_weights(path))"
        )
    text = metadata[RECIPE]
    if metadata.get(_DIGEST) != digest(text, tensors):
        raise RecipeError(f"{path!r} was altered after it was saved: its digest does not fit")
    return _checked(path, text, tensors), tensors


def _guessed(path: str, reason: CheckpointError) -> str:
    """What a file is that holds no recipe: a checkpoint of torch.save, or what is wrong with it."""
    try:
        open_checkpoint(path)
    except CheckpointError:
        return str(reason)
    return "it is a checkpoint; fit_weights(model, read_weights(path)) loads those"


def _checked(path: str, text: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A recipe that is of the kind that `save` writes; anybody can write a fitting digest."""
    try:
        recipe = parse_json(text)
    except (ValueError, RecursionError):
        recipe = None
    version = recipe.get("format") if isinstance(recipe, dict) else None
    if type(version) is int and version > FORMAT:
        raise RecipeError(
            f"{path!r} has format {version}, this version reads up to {FORMAT}; update weightscope"
        )
    if (
        not isinstance(recipe, dict)
        or type(version) is not int
        or version < 1
        or not all(isinstance(recipe.get(key), str) for key in ("model", "original"))
        or not (isinstance(recipe.get("inputs"), list) and len(recipe["inputs"]) == 2)
        or type(recipe.get("dimensions")) is not int
        or recipe["dimensions"] not in (1, 2, 3)
        or not _is_list_of_names(recipe.get("notes", []))
        or not recipe.get("stages")
        or not isinstance(recipe.get("layout", ""), str)
        or not isinstance(recipe.get("part", ""), str)
        or not isinstance(recipe.get("weights", ""), str)
        or not _are_operators(recipe.get("operators"))
        or not _is_mapping_to(recipe.get("stages"), _is_list_of_names)
        or not _is_mapping_to(recipe.get("aliases"), lambda v: isinstance(v, str) and v in tensors)
    ):
        raise RecipeError(
            f"{path!r} holds no recipe that weightscope.save writes; save the variant again"
        )
    return recipe


def _is_mapping_to(value: Any, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(right, value.values()))


def _are_operators(value: Any) -> bool:
    """Whether a recipe says how often each operator was in the forward; earlier ones do not."""
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and isinstance(value.get("by"), str)
        and isinstance(value.get("wiring", ""), str)
        and _is_mapping_to(value.get("counts"), lambda count: type(count) is int)
        and all(name.replace(".", "").isidentifier() for name in value["counts"])
    )


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_budget(path: str, recipe: Mapping[str, Any], plan: Plan, tensors: Sequence[Any]) -> None:
    """Refuse a recipe whose network or inputs would be out of all proportion to the file."""
    widest = max((max(t.shape, default=0) for t in tensors if isinstance(t, Tensor)), default=0)
    elements = _elements(recipe["inputs"])
    if max((plan.width or 0, *plan.exit_channels)) > widest or elements > _LARGEST_INPUT:
        raise RecipeError(
            f"{path!r} asks for {plan} and for inputs of {elements:,} numbers, which does not "
            "fit the tensors that it holds; save the variant again"
        )


def _elements(inputs: Any) -> int:
    """Numbers in the tensors of encoded inputs."""
    found, waiting = 0, [inputs]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and isinstance(value.get("tensor"), list):
            sizes = [size if type(size) is int and size >= 0 else 0 for size in value["tensor"]]
            found += prod(sizes) if len(sizes) <= _MOST_AXES else _LARGEST_INPUT + 1
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return found
