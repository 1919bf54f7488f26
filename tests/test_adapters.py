"""Each private part of torch that the library needs does what the library takes it to do."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import operator
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._decomp import decompositions
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from tests.networks import UNet
from weightscope.adapters import (
    boundary,
    dispatch,
    modes,
    modules,
    pytree,
    regions,
    schemas,
    shapes,
    signals,
    symbols,
    tracing,
)
from weightscope.adapters.rewriting import Rewriting
from weightscope.adapters.switches import quiet
from weightscope.errors import InputError, UnsupportedTorchError
from weightscope.graph.capture import capture
from weightscope.graph.structure import ExampleInputs


class Join(torch.nn.Module):
    """A module call with two tensors in and two out."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return y * 2.0, x + y


class Joined(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()
        self.join = Join()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.join(self.net(x), x.mean(1, keepdim=True))
        return first - second


def traced(model: torch.nn.Module) -> fx.Graph:
    inputs = ExampleInputs((torch.randn(2, 3, 32, 48),), {}, 2, guessed=False)
    return capture(model, inputs).program.graph


def described(graph: fx.Graph) -> list[tuple[str, str, str]]:
    """Operator, inputs and result of each node, in words that two traces of one model share."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    words = []
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            value = (value.shape, value.stride(), value.dtype)
        inputs = [position.get(leaf, leaf) for leaf in pytree.tree_leaves((node.args, node.kwargs))]
        words.append((str(node.target), str(inputs), str(value)))
    return words


def test_the_graph_is_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Joined()
    direct = traced(model)
    monkeypatch.setattr(boundary, "_DIRECT", False)
    assert described(direct) == described(traced(model))


def test_this_torch_takes_every_mark_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bool] = []
    real = boundary._recorded

    def spy(x: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor | None:
        result = real(x, arguments)
        written.append(result is not None)
        return result

    monkeypatch.setattr(boundary, "_recorded", spy)
    traced(UNet())
    assert len(written) > 10
    assert all(written)


def test_what_a_module_owns_is_what_its_public_iterators_show() -> None:
    module = torch.nn.BatchNorm2d(3)
    module.register_buffer("hidden", torch.ones(2), persistent=False)
    module.child = torch.nn.ReLU()
    module.alias = module.child
    assert modules.parameters(module) == dict(module.named_parameters(recurse=False))
    assert modules.buffers(module) == dict(module.named_buffers(recurse=False))
    assert modules.children(module) == {"child": module.child, "alias": module.child}
    persistent = {name for name in modules.buffers(module) if modules.is_persistent(module, name)}
    assert persistent == module.state_dict().keys() - dict(module.named_parameters()).keys()


def test_hooks_of_a_module() -> None:
    module = torch.nn.ReLU()
    before, after = (lambda m, x: None), (lambda m, x, y: None)
    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    module.register_full_backward_hook(after)
    assert list(modules.forward_pre_hooks(module)) == [before]
    assert list(modules.forward_hooks(module)) == [before, after]
    assert [list(hooks.values()) for hooks in modules.backward_hooks(module)] == [[after], []]


def test_what_an_operator_says_of_itself() -> None:
    aten = torch.ops.aten
    assert schemas.schema_name(aten.add_.Tensor) == "aten::add_"
    assert schemas.schema_name(operator.add) == ""
    assert schemas.packet(aten.add_.Tensor) is aten.add_
    assert dict(schemas.parameters(aten.avg_pool2d.default))["padding"] == [0, 0]
    assert dict(schemas.parameters(operator.add)) == {}
    assert [schemas.is_mutable(f) for f in (aten.relu_.default, aten.relu.default)] == [True, False]
    views = (aten.view.default, aten.relu.default, aten.relu_.default)
    assert [schemas.returns_views_only(f) for f in views] == [True, False, False]
    names = ("aten::relu", "aten::mean", "aten::nothing_of_this_name", "other::relu", "")
    assert [schemas.is_pointwise(name) for name in names] == [True, False, False, False, False]


def test_views_share_their_memory_with_numbers_and_without() -> None:
    for mode in (nullcontext(), dispatch.FakeTensorMode()):
        with mode:
            x = torch.ones(4, 4)
            same, other = dispatch.storage_of(x[1:].t()), dispatch.storage_of(x.clone())
        assert dispatch.storage_of(x) == same != other
    assert dispatch.storage_of(torch.eye(2).to_sparse()) != dispatch.storage_of(x)


def test_the_tracer_is_as_it_was_after_an_error() -> None:
    import torch._dynamo

    def notes() -> object:  # torch 2.9 has no such switch
        return getattr(torch.fx.config, "do_not_emit_stack_traces", None)

    before = notes()
    cached = torch._dynamo.config.fake_tensor_cache_enabled

    def stopped() -> None:
        with tracing.lean():
            assert notes() in (True, None)
            assert not torch._dynamo.config.fake_tensor_cache_enabled
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert notes() == before
    assert torch._dynamo.config.fake_tensor_cache_enabled == cached


def test_the_loggers_of_torch_still_have_these_names() -> None:
    for name in (tracing.EXPORT_LOGGER, dispatch.FAKE_TENSOR_LOGGER):
        assert importlib.util.find_spec(name) is not None


def test_only_what_this_thread_reports_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger(dispatch.FAKE_TENSOR_LOGGER)
    filters = list(log.filters)
    first, second = quiet(log.name), quiet(log.name)
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        log.error("dropped")
        first.__exit__(None, None, None)
        log.error("kept")
        other.submit(log.error, "dropped too").result()
        other.submit(second.__exit__, None, None, None).result()
    assert [record.message for record in caplog.records] == ["kept"]
    assert log.filters == filters


def test_sizes_follow_the_input() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool1d(x, 2)

    shape = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(Half(), (torch.randn(2, 3, 16),), dynamic_shapes=(shape,))
    given, made = (n.meta["val"] for n in program.graph.nodes if n.op != "output")
    assert [symbols.is_symbolic(size) for size in given.shape] == [True, False, True]
    assert [symbols.hint(size) for size in made.shape] == [2, 3, 8]
    probe = symbols.Probe({symbols.key(given.shape[2]): 100})
    assert probe.shape(made) == (2, 3, 50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_norms_without_arithmetic_return_what_torch_says(
    dtype: torch.dtype, training: bool
) -> None:
    x = torch.randn(3, 4, 8, 6).to(dtype, memory_format=torch.channels_last)
    own = [torch.rand(4, dtype=dtype) for _ in range(4)]
    arguments = (x, *own, training, 0.1, 1e-5, False)
    for got, right in zip(
        shapes.norm_shapes(*arguments),
        decompositions.native_batch_norm_helper(*arguments),
        strict=True,
    ):
        assert got is not None
        assert right is not None
        assert (got.shape, got.stride()) == (right.shape, right.stride())
    with pytest.raises(RuntimeError, match="4 channels is given 5"):
        shapes.norm_shapes(torch.zeros(3, 5, 2), *own, training, 0.1, 1e-5, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [3, (-2, -1), [1, 2, 3]])
def test_normalising_without_arithmetic_returns_what_torch_says(
    dtype: torch.dtype, dims: Any
) -> None:
    x = torch.randn(3, 4, 8, 6).to(dtype, memory_format=torch.channels_last)
    made = zip(
        shapes.normalized_shapes(x, dims, 1e-5),
        torch._refs._normalize(x, dims, 1e-5),
        strict=True,
    )
    for got, right in made:
        assert (got.shape, got.dtype) == (right.shape, right.dtype)
        assert got.stride() == right.stride() or 1 in got.shape


@pytest.mark.sample(2)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: nn.functional.batch_norm(x, *torch.ones(2, x.shape[1]), training=True),
        lambda x: nn.functional.batch_norm(x, *torch.ones(2, x.shape[1])),
        lambda x: nn.functional.group_norm(x, 2, torch.ones(4)),
        lambda x: nn.functional.normalize(x, dim=1),
        lambda x: torch.linalg.vector_norm(x, 3, (2, 3), dtype=torch.float64),
        lambda x: torch.linalg.vector_norm(x),
        lambda x: torch.linalg.vector_norm(torch.complex(x, x), dim=1),
        lambda x: nn.functional.interpolate(x, (10, 9), mode="bicubic"),
        lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bicubic"),
        lambda x: nn.functional.grid_sample(x, torch.zeros(3, 5, 7, 2), align_corners=False),
        lambda x: nn.functional.grid_sample(x, x.new_zeros(len(x), 5, 7, 2), align_corners=False),
        *(
            partial(change, getattr(nn.functional, name))
            for name in ("relu", "leaky_relu", "gelu", "silu", "elu", "hardswish", "softplus")
            for change in (
                lambda activation, x: activation(x),
                lambda activation, x: activation(x.transpose(1, 3)[:, 1:]),
                lambda activation, x: activation(x.expand(2, 3, 4, 8, 6)),
            )
        ),
        lambda x: nn.functional.leaky_relu(x.transpose(1, 2), inplace=True),
    ],
)
def test_operators_that_are_not_taken_apart_return_what_torch_says(
    normalise: Any, layout: torch.memory_format
) -> None:
    x, made, free = torch.randn(3, 4, 8, 6).to(memory_format=layout), [], [DimDynamic.DYNAMIC] * 2
    for without in (nullcontext, tracing.without_numbers):
        mode = dispatch.FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        sizes = StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC, *free])
        with without(), mode:
            found = normalise(mode.from_tensor(x, symbolic_context=sizes))
        made.append((str(found.shape), str(found.stride()), found.dtype))
    assert made[0] == made[1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "transform",
    [
        lambda x: torch.fft.rfft2(x),
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(4, 12)),
        *(
            partial(change, dim=axes)
            for change in (
                lambda x, dim: torch.fft.fftn(torch.complex(x, x), dim=dim),
                lambda x, dim: torch.fft.irfftn(torch.complex(x, x), dim=dim),
            )
            for axes in ((1, 3), (3, 2), (2, 1, 3), (1, 0, 3))
        ),
        lambda x: torch.fft.ifft(torch.complex(x, x), dim=-2),
    ],
)
def test_transforms_without_arithmetic_return_what_torch_returns(
    transform: Any, layout: torch.memory_format
) -> None:
    x = torch.randn(3, 4, 8, 6).to(memory_format=layout)
    right, mode = transform(x), dispatch.FakeTensorMode()
    with tracing.without_numbers(), mode:
        got = transform(mode.from_tensor(x))
    assert (got.shape, got.stride(), got.dtype) == (right.shape, right.stride(), right.dtype)


@pytest.mark.parametrize("size", [DimDynamic.STATIC, DimDynamic.DYNAMIC])
@pytest.mark.parametrize("place", [2, -3])
def test_places_that_an_axis_does_not_have_are_refused(place: int, size: DimDynamic) -> None:
    x, mode = torch.zeros(4, 2, 5), dispatch.FakeTensorMode(shape_env=ShapeEnv())
    sizes = StatelessSymbolicContext([DimDynamic.STATIC, size, DimDynamic.STATIC])
    with tracing.without_numbers(), mode:
        given = mode.from_tensor(x, symbolic_context=sizes)
        assert given.select(1, -1).shape == given.select(-2, 1).shape == (4, 5)
        with pytest.raises(IndexError):
            given.select(1, place)


@pytest.mark.parametrize("least", [0, 2])
def test_strides_in_order_are_seen_without_comparing_sizes(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch._prims_common, "check_contiguous_sizes_strides", asked.append)
    mode = dispatch.FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = StatelessSymbolicContext([DimDynamic.DYNAMIC] * 4)
    with tracing.without_numbers(), mode:
        x = mode.from_tensor(torch.zeros(2, 3, 9, 7), symbolic_context=sizes)
        # what may have no positions has the larger of one and its size in its strides
        x = nn.functional.conv2d(x, torch.zeros(4, 3, 5, 5), padding=2 if least else 0)
        assert torch._prims_common.is_contiguous(x)
    assert not asked


def test_a_gpu_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(asked.append("gpu")))
    before = torch.cuda.is_available
    mode = dispatch.FakeTensorMode()
    with tracing.without_numbers():
        for _ in range(3):
            with mode:
                mode.from_tensor(torch.zeros(2)) + 1
    assert asked == ["gpu"]
    assert torch.cuda.is_available is before


def test_a_group_norm_of_other_channels_is_refused_without_arithmetic() -> None:
    x = torch.zeros(3, 4, 8, 6)
    for given, groups in ((torch.ones(5), 2), (None, 3)):
        with pytest.raises(RuntimeError, match="channels"):
            shapes.group_norm_shapes(x, given, None, 3, 4, 48, groups, 1e-5)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resizing_without_arithmetic_returns_what_torch_returns(mode: str) -> None:
    x = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
    right = nn.functional.interpolate(x, (10, 9), mode=mode)
    got = shapes.resized(x, (10, 9))
    assert (got.shape, got.stride(), got.dtype) == (right.shape, right.stride(), right.dtype)


def test_bicubic_resizing_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(*_: Any) -> None:
        raise AssertionError("its weights are computed")

    monkeypatch.setattr(decompositions, "_upsample_get_cubic_coefficients", weights)
    mode = dispatch.FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = StatelessSymbolicContext([DimDynamic.DYNAMIC] * 4)
    with tracing.without_numbers(), mode:
        x = mode.from_tensor(torch.zeros(2, 3, 5, 7), symbolic_context=sizes)
        resized = nn.functional.interpolate(x, (10, 9), mode="bicubic")
    assert resized.shape[2:] == (10, 9)


def test_only_the_thread_that_reads_goes_without_arithmetic() -> None:
    x, found = torch.zeros(1, 2, 4, 4), []
    before = decompositions._upsample_nearest

    def other() -> None:
        found.append(decompositions._upsample_nearest(x + 1, [8, 8], [None, None]))

    with tracing.without_numbers():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert torch.equal(found[0], torch.ones(1, 2, 8, 8))
    assert decompositions._upsample_nearest is before


def switches(x: torch.Tensor) -> torch.Tensor:
    """Two where autograd is on, three under autocast, six with both."""
    factor = (1 + torch.is_grad_enabled()) * (1 + 2 * torch.is_autocast_enabled("cpu"))
    return x * factor


fx.wrap("switches")


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu"),
        dispatch.FakeTensorMode,
    ],
    ids=["no_grad", "inference_mode", "autocast", "fake tensors"],
)
@pytest.mark.parametrize("outside", [modes.outside_modes, modes.alone])
def test_modes_of_the_caller_are_off_inside_and_on_after(mode: Any, outside: Any) -> None:
    def seen() -> tuple[Any, ...]:
        made = torch.ones(1, device="cpu")
        return (
            type(made) is torch.Tensor,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    with mode():
        before = seen()
        with outside():
            assert seen() == (True, True, False, False)
        assert seen() == before != (True, True, False, False)


def test_threads_that_run_models_take_turns() -> None:
    inside: list[int] = []

    def run(number: int) -> None:
        with modes.alone(), modes.alone():  # within its own turn a thread asks no more
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(20)))


class Switching(torch.nn.Module):
    """Regions beside and within each other, in one of which nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.first(x)
            with torch.autocast("cpu", torch.bfloat16):
                y = self.second(x)
        return x + y.float()


def test_regions_are_written_back_and_noted() -> None:
    program = torch.export.export(Switching(), (torch.ones(2, 4),))
    wanted = program.module()(torch.ones(2, 4))
    regions.write_back(program)
    graph = program.graph
    assert not [n for n in graph.nodes if "wrap_with" in str(n.target)]
    kinds = {
        tuple(kind for kind, *_ in regions.region_of(node))
        for node in graph.nodes
        if str(node.target).startswith("aten.linear")
    }
    assert kinds == {("grad",), ("grad", "autocast")}
    state = [program.state_dict[n] for n in program.graph_signature.inputs_to_parameters.values()]
    found = fx.GraphModule(nn.Module(), regions.with_switches(graph))(*state, torch.ones(2, 4))
    assert torch.equal(found[0], wanted)


def test_a_graph_switches_where_its_regions_say() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    nodes = [graph.call_function(switches, (x,)) for _ in range(4)]
    graph.output(tuple(nodes))
    off, cast = ("grad", False), ("autocast", "cpu", torch.bfloat16, True, True)
    for node, region in zip(nodes, [(), (off,), (off, cast), (cast,)], strict=True):
        node.meta["region"] = region
    module = fx.GraphModule(nn.Module(), regions.with_switches(graph))
    found = module(torch.ones(1))
    assert [float(value) for value in found] == [2.0, 1.0, 3.0, 6.0]
    assert torch.is_grad_enabled()
    assert regions.with_switches(traced(UNet())) is not None
    assert [regions.autocast_of(node) for node in nodes] == [(), (), (cast,), (cast,)]


def test_a_failing_run_leaves_its_regions() -> None:
    graph = fx.Graph()
    node = graph.call_function(operator.truediv, (1, 0))
    node.meta["region"] = (("grad", False),)
    graph.output(node)
    module = fx.GraphModule(nn.Module(), regions.with_switches(graph))
    with pytest.raises(ZeroDivisionError), regions.left_on_failure():
        module()
    assert torch.is_grad_enabled()


def test_sizes_are_written_into_a_graph() -> None:
    graph = traced(UNet())
    image = [node for node in graph.nodes if node.op == "placeholder"][-1]
    height = image.meta["val"].shape[2]
    written = fx.Graph()
    given = written.placeholder("height")
    writer = symbols.SizeWriter(written, {symbols.key(height): given})
    assert writer.can_write(height // 2 + 3)
    assert not writer.can_write(image.meta["val"].shape[3])
    assert writer.write(7) == 7
    written.output((writer.write(height // 2 + 3), writer.write(height)))
    run = fx.GraphModule(nn.Module(), written)
    assert run(48) == (27, 48)
    tensors = [n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert symbols.holds_at(tensors, symbols.Probe({symbols.key(height): 64}))


def test_a_pooled_size_is_held_neither_even_nor_odd() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3, 2))
    inputs = ExampleInputs((torch.zeros(2, 3, 20, 25),), {}, 2, guessed=False)
    graph = capture(model, inputs).program.graph
    tensors = [node.meta["val"] for node in graph.nodes if node.op != "output"]
    for size in tensors[0].shape[2:]:
        for number in range(20, 26):
            assert symbols.holds_at(tensors, symbols.Probe({symbols.key(size): number}))


def test_tables_of_functions_go_on_with_one_another() -> None:
    def more(by: float, func: Any, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = func(x)
        return made + by

    first, last = {torch.relu: partial(more, 1)}, {torch.relu: partial(more, 0.5)}
    with Rewriting(first, last, {torch.sigmoid: lambda func, x: x}):
        assert torch.relu(torch.tensor(-1.0)) == 1.5
        assert torch.sigmoid(torch.tensor(4.0)) == 4
    assert torch.relu(torch.tensor(-1.0)) == 0


def test_old_garbage_waits_for_the_last_thread() -> None:
    before = gc.get_threshold()
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        with tracing.old_garbage_waits():
            inside.set()
            leave.wait(10)

    with ThreadPoolExecutor() as threads:
        with tracing.old_garbage_waits():
            threads.submit(wait)
            assert inside.wait(10)
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1000
        leave.set()
    assert gc.get_threshold() == before


def test_pools_of_signals_keep_their_length_free() -> None:
    x = torch.rand(2, 3, 17)
    with Rewriting(signals.FREE_POOLS):
        for arguments in ((2,), (3, 2), ([3], [2], [1], [1], True)):
            wanted = nn.functional.max_pool2d(
                x.unsqueeze(-2),
                *((1, a[0] if isinstance(a, list) else a) for a in arguments[:2]),
                **({"padding": (0, 1), "ceil_mode": True} if len(arguments) > 2 else {}),
            ).squeeze(-2)
            assert torch.equal(torch.max_pool1d(x, *arguments), wanted)
    assert torch.equal(torch.max_pool1d(x, 2), torch.max_pool1d(x, [2], [2]))


def test_poolings_of_signals_are_written_back() -> None:
    aten = torch.ops.aten
    graph = fx.Graph()
    x = graph.placeholder("x")
    row = graph.call_function(aten.unsqueeze.default, (x, -2))
    pooled = graph.call_function(
        aten.max_pool2d.default, (row, [1, 3], [1, 2], [0, 1], [1, 1], True)
    )
    graph.output(graph.call_function(aten.squeeze.dim, (pooled, -2)))
    before = fx.GraphModule(nn.Module(), graph)(torch.arange(17.0).view(1, 1, 17))
    signals.as_pools_of_signals(graph)
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [aten.max_pool1d.default]
    after = fx.GraphModule(nn.Module(), graph)(torch.arange(17.0).view(1, 1, 17))
    assert torch.equal(before, after)


# --- a torch that lacks a part --------------------------------------------------------------------


def loaded_again(adapter: ModuleType, patch: pytest.MonkeyPatch) -> ModuleType:
    """The adapter as this torch lets it be at this moment; the imported one stays as it is."""
    assert adapter.__file__ is not None
    spec = importlib.util.spec_from_file_location("loaded_again", adapter.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def without(path: str, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delattr(importlib.import_module(path), name)


def without_region(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(torch.ops.higher_order, "wrap_with_autocast", raising=False)
    patch.delitem(torch._ops._higher_order_ops, "wrap_with_autocast")


def without_buffers(patch: pytest.MonkeyPatch) -> None:
    start = nn.Module.__init__

    def bare(module: nn.Module) -> None:
        start(module)
        del vars(module)["_buffers"]

    patch.setattr(nn.Module, "__init__", bare)


@pytest.mark.parametrize(
    ("adapter", "remove"),
    [
        (dispatch, without("torch._subclasses.fake_tensor", "FakeTensorMode")),
        (dispatch, without("torch.utils._python_dispatch", "TorchDispatchMode")),
        (pytree, without("torch.utils._pytree", "tree_unflatten")),
        (pytree, without("torch.utils._pytree", "register_pytree_node")),
        (schemas, lambda patch: patch.delattr(torch.ops.aten.relu.default, "_schema")),
        (regions, without_region),
        (modules, without_buffers),
    ],
)
def test_a_part_that_nothing_replaces_is_named_with_a_remedy(
    adapter: ModuleType,
    remove: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove(monkeypatch)
    with pytest.raises(UnsupportedTorchError) as found:
        loaded_again(adapter, monkeypatch)
    assert torch.__version__ in str(found.value)
    assert "pip install 'torch==2.14.*'" in str(found.value)


def test_a_torch_whose_sizes_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch.utils._sympy.interp", "sympy_interp")(monkeypatch)
    with pytest.raises(UnsupportedTorchError, match="sympy_interp"):
        symbols.interpret({}, None)


def test_a_torch_without_settings_of_its_tracer_reads_the_same_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = described(traced(Joined()))
    monkeypatch.setattr(boundary, "_DIRECT", False)
    monkeypatch.setattr(shapes, "KNOWN", False)
    for place in (shapes, tracing):
        monkeypatch.setattr(place, "module_named", lambda name: None)
    assert described(traced(Joined())) == wanted


def test_shapes_that_torch_computes_by_itself_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = decompositions._upsample_nearest
    monkeypatch.setattr(shapes, "KNOWN", False)
    with tracing.without_numbers():
        assert decompositions._upsample_nearest is before


def test_switches_that_torch_lacks_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.compiler, "_is_exporting_flag")
    monkeypatch.delattr(torch.distributions.Distribution, "_validate_args")
    with tracing.as_exported(), tracing.without_numbers():
        assert torch.compiler.is_compiling()
    assert not torch.compiler.is_compiling()
    assert not hasattr(torch.compiler, "_is_exporting_flag")
    assert not hasattr(torch.distributions.Distribution, "_validate_args")


def test_modes_that_torch_cannot_leave_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch.utils._python_dispatch", "_disable_current_modes")(monkeypatch)
    again = loaded_again(modes, monkeypatch)
    with torch.no_grad(), again.outside_modes():
        assert torch.is_grad_enabled()
    with (
        dispatch.FakeTensorMode(),
        pytest.raises(InputError, match="call it outside of FakeTensorMode"),
        again.outside_modes(),
    ):
        pass


@pytest.mark.parametrize("kind", ["BatchNorm", "Norm", "Convolution"])
def test_public_classes_stand_for_their_base_class(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("torch.nn.modules.conv", "_ConvNd")(monkeypatch)
    public, base = getattr(loaded_again(modules, monkeypatch), kind), getattr(modules, kind)
    layers = [v for n, v in vars(nn).items() if isinstance(v, type) and not n.startswith("Lazy")]
    named = {layer.__name__ for layer in layers if issubclass(layer, base)}
    assert named == {layer.__name__ for layer in layers if issubclass(layer, public)}
    assert len(named) >= 4


def test_a_guard_without_a_value_at_a_size_does_not_hold_there() -> None:
    import sympy
    from torch.utils._sympy.functions import FloorDiv, Mod

    size = sympy.Symbol("s", integer=True, positive=True)
    guard = SimpleNamespace(expr=sympy.Eq(Mod(128, FloorDiv(size, 64)), 0))
    tensor = SimpleNamespace(fake_mode=SimpleNamespace(shape_env=SimpleNamespace(guards=[guard])))
    found = [symbols.holds_at([tensor], symbols.Probe({"s": n})) for n in (128, 192, 32)]
    assert found == [True, False, False]  # of 32 nothing is left to divide by
