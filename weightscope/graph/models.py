"""What is taken for a model: a module whose parameters hold values."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from weightscope.errors import InputError, kind, shown


def _kind(model: object) -> str:
    """What was given in a model's place, and how it becomes one."""
    if isinstance(model, type):
        return f"the class {model.__name__}; call it: {model.__name__}(...)"
    if isinstance(model, str | os.PathLike):
        return (
            f"the path {shown(model, os.fspath)!r}; build the network and load the file into it: "
            "model.load_state_dict(weightscope.fit_weights(model, weightscope.read_weights(path)))"
        )
    if isinstance(model, Mapping):
        return (
            f"{kind(model)}; build the network and load the state into it: "
            "model.load_state_dict(...)"
        )
    return type(model).__name__


def check_model(model: object) -> nn.Module:
    """Refuse what is no model with values in its parameters.

    Raises:
        InputError: Not a Module, no parameters, or parameters without values.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module (an instance), received {_kind(model)}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{name} is a torch.jit.ScriptModule, whose operations cannot be seen; put the"
                " module that it was traced or scripted from in its place (with"
                " load_state_dict(script.state_dict()))"
            )
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} of {type(model).__name__} is not initialised yet (a lazy module); run the"
                " model once on an example before passing it"
            )
        if parameter.is_inference():
            raise InputError(
                f"{name} of {type(model).__name__} was made in inference mode, so that nothing can"
                " be differentiated through it; make or copy the model outside of"
                " torch.inference_mode()"
            )
        if parameter.is_meta:
            raise InputError(
                f"{name} of {type(model).__name__} lies on the meta device and has no values; load"
                " the weights, or use to_empty(device='cpu') and initialise them"
            )
    if not parameters:
        raise InputError(
            f"{type(model).__name__} has no parameters; there is nothing to analyse. Pass the"
            " network that holds the weights"
        )
    return model
