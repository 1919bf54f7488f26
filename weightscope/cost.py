"""What a network costs: parameters, multiply-accumulates, activations, latency, peak memory.

The counts come from running the network on fake tensors (shapes without numbers), so that a
network of any size is counted in milliseconds and without memory. Operators have rules in a plain
dictionary, ``MAC_RULES``; extend or replace it to count by another convention::

    rules = {**MAC_RULES, torch.ops.mylib.my_operator: my_rule}
    count_costs(model, image, rules=rules)
"""

from __future__ import annotations

import copy
import functools
import statistics
import time
import types
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from weightscope.errors import ForwardError, InputError
from weightscope.graph.structure import ExampleInputs

Rule: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], Any], int]
Inputs: TypeAlias = "ExampleInputs | torch.Tensor | tuple[Any, ...] | Mapping[str, Any]"

aten = torch.ops.aten


# --- rules ------------------------------------------------------------------------------------


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Positions x kernel weights that each touches.

    A convolution applies its whole kernel at every output position; a transposed one at every
    input position. Grouping is in the weight's shape already.
    """
    given, weight, transposed = args[0], args[1], args[6]
    places = given if transposed else out
    return int(places.shape[0] * prod(places.shape[2:]) * weight.numel())


def _mm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[1].shape[-1])


def _attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Scores (B H Nq Nk D) and their product with the values (B H Nq Nk Dv); softmax is free."""
    query, key, value = args[:3]
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


def _multi_head_attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    query, key, value, width = args[:4]
    batch, length = query.shape[0], query.shape[1]
    projections = batch * width * width * (2 * length + key.shape[1] + value.shape[1])
    return int(projections + 2 * batch * length * key.shape[1] * width)


def _encoder_layer(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    source, width = args[0], args[1]
    batch, length = source.shape[0], source.shape[1]
    weights = sum(t.numel() for t in args if isinstance(t, nn.Parameter) and t.dim() == 2)
    return int(batch * length * weights + 2 * batch * length * length * width)


def _recurrent(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Every weight matrix once per step and sample."""
    steps = args[0].shape[0] * args[0].shape[1]
    weights = pytree.tree_leaves(args[1:])
    matrices = [t for t in weights if isinstance(t, nn.Parameter) and t.dim() == 2]
    return int(steps * sum(t.numel() for t in matrices))


MAC_RULES: Mapping[Any, Rule] = types.MappingProxyType(
    {
        aten.convolution: _convolution,
        aten._convolution: _convolution,
        aten.mm: _mm,
        aten.addmm: _addmm,
        aten.bmm: _mm,
        aten.baddbmm: _addmm,
        aten.mv: lambda args, kwargs, out: int(args[0].numel()),
        aten.addmv: lambda args, kwargs, out: int(args[1].numel()),
        aten.dot: lambda args, kwargs, out: int(args[0].numel()),
        aten._scaled_dot_product_flash_attention: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_efficient_attention: _attention,
        aten._scaled_dot_product_cudnn_attention: _attention,
        aten._scaled_dot_product_fused_attention_overrideable: _attention,
        aten._native_multi_head_attention: _multi_head_attention,
        aten._transformer_encoder_layer_fwd: _encoder_layer,
        aten.mkldnn_rnn_layer: _recurrent,
        aten._cudnn_rnn: _recurrent,
    }
)
"""Multiply-accumulates by operator: ``rule(args, kwargs, out) -> int`` sees the operator's
arguments and result (tensors without numbers) as the dispatcher does. Keys are operators
(``torch.ops.aten.convolution``) or their overloads (``torch.ops.aten.add.Tensor``)."""

_MOVEMENT = """
    _assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense _reshape_alias _to_copy
    _unsafe_index _unsafe_view argsort as_strided bucketize cat channel_shuffle clone col2im
    constant_pad_nd copy diff embedding equal flip gather im2col index index_add index_copy
    index_fill index_put index_select is_same_size item lift_fresh lift_fresh_copy masked_fill
    masked_scatter masked_select meshgrid native_channel_shuffle nonzero pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize roll rot90 scatter scatter_add
    scatter_reduce searchsorted select_scatter set slice_scatter sort split_with_sizes squeeze stack
    t transpose tril triu unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze detach
    where _unique2 unique_dim
"""
_CREATION = """
    arange bernoulli empty empty_like empty_permuted empty_strided eye fill full full_like linspace
    multinomial new_empty new_empty_strided new_full new_ones new_zeros normal one_hot ones
    ones_like rand rand_like randint randn randn_like randperm scalar_tensor tril_indices
    triu_indices uniform zero zeros zeros_like
"""
_REDUCTION = """
    _log_softmax _safe_softmax _softmax all amax amin any argmax argmin bincount count_nonzero
    cummax cummin cumprod cumsum linalg_vector_norm logcumsumexp logsumexp max mean median min mode
    norm prod std std_mean sum topk var var_mean
"""
_POOLING_AND_NORMALISATION = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _batch_norm_with_update
    _fused_dropout _fused_rms_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _prelu_kernel _weight_norm_interface adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d cudnn_batch_norm fractional_max_pool2d fractional_max_pool3d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d miopen_batch_norm
    native_batch_norm native_dropout native_group_norm native_layer_norm rrelu_with_noise
"""
_RESAMPLING = """
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_FREE = frozenset(
    " ".join((_MOVEMENT, _CREATION, _REDUCTION, _POOLING_AND_NORMALISATION, _RESAMPLING)).split()
)
"""Operators without a matrix product; like pointwise operators they count 0 in MACs."""


def _is_free(operator: Any) -> bool:
    """Whether an operator without a rule costs nothing by convention."""
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    if operator.namespace in ("prim", "prims"):
        return True
    if operator.namespace != "aten":
        return False
    results = operator._schema.returns
    if all(r.alias_info is not None and not r.alias_info.is_write for r in results):
        return True  # a view, or no result at all
    name = operator._overloadpacket.__name__
    in_place = operator._schema.is_mutable and name.endswith("_")
    plain = name.removesuffix("_") if in_place else name
    return plain in _FREE or any(torch.Tag.pointwise in tags for tags in _tags(plain))


@functools.cache
def _tags(name: str) -> tuple[Sequence[Any], ...]:
    packet = getattr(aten, name, None)
    return tuple(getattr(packet, o).tags for o in packet.overloads()) if packet else ()


# --- counting ---------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Costs:
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


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a forward.

    Args:
        inputs: A tensor, a tuple of arguments, a mapping of keyword arguments or ExampleInputs.

    Raises:
        InputError: Something else was given.
    """
    if isinstance(inputs, ExampleInputs):
        return tuple(inputs.args), dict(inputs.kwargs)
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    raise InputError(
        f"inputs are a {type(inputs).__name__}; give a tensor, a tuple of arguments or a dict of "
        "keyword arguments"
    )


def count_costs(
    model: nn.Module, inputs: Inputs, *, rules: Mapping[Any, Rule] = MAC_RULES
) -> Costs:
    """Count what one forward of a model costs, layer by layer.

    The model is copied without its numbers and the copy runs in evaluation mode on fake tensors
    under a dispatch mode that sees every operator. A model whose forward reads numbers (data-
    dependent control flow) is run for real, on a deep copy. The model itself is not touched; hooks
    that are plain functions are left out of the copy, because they reach objects outside it.

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
        raise InputError(f"expected a torch.nn.Module, received a {type(model).__name__}")
    args, kwargs = split_inputs(inputs)
    try:
        return _count(*_fake_copy(model, args, kwargs), rules)
    except InputError:
        raise
    except Exception as reason:
        if _on_meta(model):
            raise ForwardError(
                f"the forward of {type(model).__name__} fails on tensors without numbers, and its "
                f"parameters are on the meta device: {reason}. Give a model with real parameters."
            ) from reason
    try:
        return _count(copy.deepcopy(model), args, kwargs, None, rules)
    except Exception as reason:
        raise ForwardError(
            f"the forward of {type(model).__name__} raises on inputs of shapes "
            f"{_shapes(args, kwargs)}: {reason}. Pass inputs that the model accepts."
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
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if mode is None:
            with counter:
                model(*args, **kwargs)
        else:
            with mode, counter:
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
        for name, _ in model.named_modules()
        if name in parameters or counter.macs[name] or counter.activation_bytes[name]
    }
    return Costs(
        layers=types.MappingProxyType(layers),
        macs=sum(counter.macs.values()),
        parameters=sum(parameters.values()),
        activation_bytes=sum(counter.activation_bytes.values()),
        unsupported=types.MappingProxyType(dict(counter.unsupported)),
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
        for name, module in model.named_modules(remove_duplicate=False):
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.owners[_storage(parameter)].append(name)

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.stack.append(name)

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]
        if tensors:
            self.shapes[name] = tuple(int(s) for s in tensors[0].shape)

    def owner(self, tensors: Sequence[torch.Tensor]) -> str:
        """The module an operator belongs to: whose parameters it reads, else who calls it."""
        current = self.stack[-1]
        for tensor in tensors:
            names = self.owners.get(_storage(tensor))
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
        if rule is None and isinstance(func, torch._ops.OpOverload) and func is not _DEVICE:
            with self:  # composite operators arrive whole under inference mode
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        owner = self.calls.owner(given)
        if rule is not None:
            self.macs[owner] += rule(args, kwargs, out)
        elif not _is_free(func):
            self.unsupported[str(func)] += 1
        old = {_storage(t) for t in given}
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and _storage(tensor) not in old:
                self.activation_bytes[owner] += tensor.numel() * tensor.element_size()
        return out

    def _rule(self, func: Any) -> Rule | None:
        return self.rules.get(func) or self.rules.get(getattr(func, "_overloadpacket", None))


_DEVICE = torch.ops.prim.device.default


def _storage(tensor: torch.Tensor) -> int:
    """Identity of a tensor's memory, the same for all its views."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:  # sparse and other layouts have none
        return id(tensor)


def _own_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters that each module owns, a shared one for its first owner."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        counts[name.rpartition(".")[0]] += parameter.numel()
    return counts


def _on_meta(model: nn.Module) -> bool:
    return any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return [tuple(t.shape) for t in leaves if isinstance(t, torch.Tensor)]


def _fake_copy(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], FakeTensorMode]:
    """Copy a model and its inputs without their numbers."""
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has lazy parameters without a shape; run its forward once"
        )
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    given = [t for t in pytree.tree_leaves((args, dict(kwargs))) if isinstance(t, torch.Tensor)]
    home = next((t.device for t in given if not t.is_meta), torch.device("cpu"))

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, torch._subclasses.FakeTensor) or tensor.is_meta:
            with mode:
                new = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype, device=home
                )
            return nn.Parameter(new) if isinstance(tensor, nn.Parameter) else new
        return mode.from_tensor(tensor)

    memo: dict[int, Any] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers, vars(module)):
            for value in values.values():
                if isinstance(value, torch.Tensor) and id(value) not in memo:
                    memo[id(value)] = fake(value)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for hook in hooks.values():
                if _is_plain(hook):
                    memo[id(hook)] = _no_hook
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            memo[id(hooks)] = type(hooks)()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as reason:
        raise InputError(
            f"{type(model).__name__} cannot be deep-copied: {reason}. Remove the attribute that "
            "forbids it."
        ) from reason
    new_args, new_kwargs = pytree.tree_map_only(torch.Tensor, fake, (args, dict(kwargs)))
    return twin, new_args, new_kwargs, mode


def _is_plain(hook: Any) -> bool:
    """Whether a hook is a function, whose closure a deep copy would share with the original."""
    return isinstance(hook, types.FunctionType | types.BuiltinFunctionType | functools.partial)


def _no_hook(*args: Any, **kwargs: Any) -> None:
    return None


def fvcore_macs(model: nn.Module, *args: Any) -> int:
    """Count multiply-accumulates by fvcore, a second opinion on real tensors.

    fvcore traces a real forward of a deep copy in evaluation mode. Only its operators with matrix
    products are added up (its figures for normalisation and resampling are left out, as in
    ``MAC_RULES``); fused attention it does not know.

    Args:
        model: Any module with real parameters.
        *args: Real tensors, small ones will do.

    Returns:
        Multiply-accumulates of one forward.
    """
    twin = copy.deepcopy(model).eval()
    with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # fvcore traces with torch.jit, which torch deprecates
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(twin, args)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counted = analysis.by_operator()
    products = ("conv", "linear", "addmm", "bmm", "matmul", "einsum")
    return int(sum(count for name, count in counted.items() if name in products))


# --- measuring --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """Wall time of a forward in evaluation mode.

    Attributes:
        median: Median, in seconds.
        low: First quartile, in seconds.
        high: Third quartile, in seconds.
        repeats: Number of timed forwards.
        device: Where it ran.
        threads: CPU threads that torch was allowed.
    """

    median: float
    low: float
    high: float
    repeats: int
    device: str
    threads: int


def measure_latency(
    models: Sequence[nn.Module], inputs: Inputs, *, repeats: int = 10, warmup: int = 2
) -> tuple[Latency, ...]:
    """Time the forwards of several models on the same inputs, in turns.

    Each model runs ``warmup`` times untimed; then one forward of each is timed per round, so that
    a drift of the machine falls on all alike. The models run as deep copies in evaluation mode,
    without gradients.

    Args:
        models: Models that take the same inputs.
        inputs: Real tensors on the models' device.
        repeats: Timed rounds, at least 2.
        warmup: Untimed rounds.

    Returns:
        One Latency per model, in order.

    Raises:
        InputError: ``repeats`` is below 2.
    """
    if repeats < 2:
        raise InputError(f"repeats is {repeats}; quartiles need at least 2")
    args, kwargs = split_inputs(inputs)
    twins = [copy.deepcopy(model).eval() for model in models]
    device = _device(twins[0], args, kwargs)
    times: list[list[float]] = [[] for _ in twins]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for turn in range(warmup + repeats):
            for twin, seconds in zip(twins, times, strict=True):
                _synchronize(device)
                start = time.perf_counter()
                twin(*args, **kwargs)
                _synchronize(device)
                if turn >= warmup:
                    seconds.append(time.perf_counter() - start)
    return tuple(_latency(seconds, device) for seconds in times)


def _latency(seconds: Sequence[float], device: torch.device) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high, len(seconds), str(device), torch.get_num_threads())


def measure_peak_memory(model: nn.Module, inputs: Inputs) -> int:
    """Measure the most memory that the tensors of one real forward hold at once, in bytes.

    On CUDA: the rise of the allocator's peak during the forward. Elsewhere: the largest sum of the
    storages that operators returned and that are still alive, followed operator by operator; the
    scratch memory inside a kernel (a convolution's column buffer) is not seen there. Parameters
    and inputs are not counted. A deep copy runs in evaluation mode, without gradients.

    Args:
        model: Any module.
        inputs: Real tensors on the model's device.

    Returns:
        Bytes.
    """
    args, kwargs = split_inputs(inputs)
    twin = copy.deepcopy(model).eval()
    device = _device(twin, args, kwargs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            twin(*args, **kwargs)
            torch.cuda.synchronize(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        known = [*twin.parameters(), *twin.buffers(), *pytree.tree_leaves((args, kwargs))]
        held = _Held({_storage(t) for t in known if isinstance(t, torch.Tensor)})
        with held:
            twin(*args, **kwargs)
    return held.peak


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of the tensors that operators return."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}  # type: ignore[no-untyped-call]
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and _storage(tensor) not in self.known:
                storage = tensor.untyped_storage()
                self.alive[_storage(tensor)] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def _device(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    leaves = [*model.parameters(), *pytree.tree_leaves((args, dict(kwargs)))]
    return next((t.device for t in leaves if isinstance(t, torch.Tensor)), torch.device("cpu"))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
