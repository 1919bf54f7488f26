"""What `torch.jit.trace` records of a rebuilt network follows the sizes that it is given."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from weightscope.adapters import symbols
from weightscope.adapters.scripting import run_recorded
from weightscope.errors import InputError
from weightscope.graph import read_structure, rebuild

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
OTHERS = ((1, 3, 32, 40), (3, 3, 21, 19))


class Net(nn.Module):
    """Two levels; what comes after them, a test says."""

    def __init__(self, *last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.out, self.last = nn.Conv2d(4, 4, 3, padding=1), last

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), size=top.shape[2:], mode="bilinear")
        out = self.out(top + deep)
        return (out, *(last(out) for last in self.last))


def padded(x: Tensor) -> Tensor:
    height = x.shape[2]
    both = max((math.ceil(height / 2) - 1) * 2 + 3 - height, 0)
    return F.pad(x, (0, 0, both // 2, both - both // 2))


def places(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=x.dtype)[:, None] / height
    return x * rows + torch.linspace(-1, 1, width) + width / 3


def tokens(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.flatten(2).transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)


LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "padded": padded,
    "places": places,
    "tokens": tokens,
    "cropped": lambda x: x[:, :, x.shape[2] // 2 :, : x.shape[3] - 3 : 2],
    "square": lambda x: x[:, :, : min(x.shape[2:]), : min(x.shape[2:])],
    "larger": lambda x: F.interpolate(x, size=(x.shape[2] + 1, int(x.shape[3] * 0.75))),
    "spectrum": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "zeros": lambda x: torch.cat([x, torch.zeros(x.shape[0], 1, *x.shape[2:])], 1),
    "rolled": lambda x: torch.roll(x, (x.shape[2] // 2, x.shape[3] // 3), (2, 3)),
    "split": lambda x: torch.cat(torch.split(x, [5, x.shape[2] - 5], 2)[::-1], 2),
    "repeated": lambda x: x[..., :1].expand(-1, -1, -1, x.shape[3]) + x[..., :1, :1].repeat(
        1, 1, x.shape[2], 1
    ),
    "folded": lambda x: F.fold(F.unfold(x, 2), x.shape[2:], 2),
    "numbers": lambda x: x.clamp(max=x.shape[2] / 100) / x.numel(),
}  # fmt: skip


def recorded(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A recorded rebuilt network, and what the tracer warned of."""
    return traced(rebuild(read_structure(model, IMAGE)))


def traced(model: nn.Module, *more: Tensor) -> tuple[nn.Module, list[str]]:
    """A recorded network, and what the tracer warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        made = torch.jit.trace(model, (IMAGE, *more), check_trace=False)
    return made, [str(w.message) for w in found if w.category is torch.jit.TracerWarning]


def test_what_is_recorded_follows_every_size() -> None:
    torch.manual_seed(0)
    model = Net(*LAST.values()).eval()
    made, _ = recorded(model)
    for shape in OTHERS:
        image = torch.randn(shape)
        with torch.no_grad():
            found, expected = made(image), model(image)
        for name, one, other in zip(["out", *LAST], found, expected, strict=True):
            torch.testing.assert_close(one, other, msg=lambda text, of=name: f"{of}: {text}")


def test_a_flag_may_come_as_a_tensor_as_onnx_hands_on_what_is_left_out() -> None:
    class Flagged(Net):
        def forward(self, x: Tensor, named: bool = True) -> tuple[Tensor, ...]:
            return super().forward(x) if named else (x,)

    model, flag, image = Flagged().eval(), torch.tensor(True), torch.randn(OTHERS[0])
    made, _ = traced(rebuild(read_structure(model, IMAGE)), flag)
    torch.testing.assert_close(made(image, flag), model(image))


def test_nothing_is_warned_of_where_sizes_are_kept() -> None:
    assert recorded(Net(tokens).eval())[1] == []


def test_a_refusal_of_sizes_that_is_not_recorded_is_warned_of() -> None:
    def held(x: Tensor) -> Tensor:
        return x if x.shape[2] == 16 else x * 2

    (warning,) = recorded(Net(held).eval())[1]
    assert "refuses other sizes" in warning
    assert "torch.export" in warning


FREE = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},)


def up_to_20(x: Tensor) -> Tensor:
    return x if x.shape[2] <= 20 else x * 2


def by_its_height(x: Tensor) -> Tensor:
    return x * math.sqrt(int(x.shape[2]))


def thirds(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, -(-x.shape[2] // 3)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("last", [padded, thirds])
def test_no_negative_number_is_divided(last: Callable[[Tensor], Tensor]) -> None:
    """A file of ONNX would round the quotient up, to another size."""
    module = rebuild(read_structure(Net(last).eval(), IMAGE))
    program = torch.export.export(module, (IMAGE,), dynamic_shapes=FREE, strict=False)
    divided = [n.args[0] for n in program.graph.nodes if n.target is operator.floordiv]
    assert divided
    assert all(symbols.hint(node.meta["val"]) >= 0 for node in divided)
    image = torch.randn(1, 3, 25, 16)
    run = program.module(check_guards=False)  # by one, torch 2.9 pools even sizes only
    torch.testing.assert_close(run(image), module(image))


def test_what_is_exported_refuses_what_the_network_refuses() -> None:
    module = rebuild(read_structure(Net(up_to_20).eval(), IMAGE))
    made = torch.export.export(module, (IMAGE,), dynamic_shapes=FREE, strict=False).module()
    higher, lower = torch.randn(1, 3, 24, 16), torch.randn(1, 3, 18, 16)
    torch.testing.assert_close(made(lower), module(lower))
    with pytest.raises(AssertionError, match=r"\[2\] <= 20"):
        made(higher)
    with pytest.raises(InputError, match="takes another way"):
        torch.export.export(module, (higher,), dynamic_shapes=FREE, strict=False)
    with pytest.raises(InputError, match="takes another way"):
        rebuild(read_structure(module, IMAGE))(higher)  # read a second time


@pytest.mark.sample(1)
@pytest.mark.parametrize("settings", [True, False])
def test_a_size_that_is_a_number_is_one_where_questions_are_put_off(
    settings: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `torch.onnx.export` does; another torch may have no settings for it."""
    if not settings:
        monkeypatch.setattr(symbols, "replace", lambda settings: settings)
    module = rebuild(read_structure(Net(by_its_height).eval(), IMAGE))
    program = torch.export.export(
        module, (IMAGE,), dynamic_shapes=FREE, strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )  # fmt: skip
    (image,) = (n.meta["val"] for n in program.graph.nodes if n.name == "x")
    assert isinstance(image.shape[0], torch.SymInt)
    assert str(image.shape[2]).isdigit() == settings


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # inside torch's own exporter
@pytest.mark.parametrize("last", [padded, thirds, up_to_20, by_its_height])
@pytest.mark.parametrize("free", [FREE, None])
def test_onnx_keeps_sizes_and_what_it_does_not_refuse_is_warned_of(
    last: Callable[[Tensor], Tensor], free: object, tmp_path: Path
) -> None:
    import onnxruntime

    torch.manual_seed(0)
    module, path = rebuild(read_structure(Net(last).eval(), IMAGE)), tmp_path / "net.onnx"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.onnx.export(
            module, (IMAGE,), path, dynamo=True, verbose=False, dynamic_shapes=free
        )  # fmt: skip
    refuses = [w for w in told if "a file of ONNX does not" in str(w.message)]
    assert len(refuses) == (free is not None and last in (up_to_20, by_its_height))
    session = onnxruntime.InferenceSession(path)
    heights = {up_to_20: (16, 18), by_its_height: (16,)}.get(last, (16, 24, 19))
    for image in [torch.randn(1, 3, height, 16) for height in heights] if free else [IMAGE]:
        found = session.run(None, {"x": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(tuple(map(torch.from_numpy, found)), module(image))


def test_a_number_that_no_function_takes_as_a_size_is_warned_of() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    size = graph.call_method("size", (x, 2))
    graph.output(graph.call_function(torch.ops.weightscope_test.widened.default, (x, size)))

    class Runs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return run_recorded(self, graph, [x])

    assert any("sizes to weightscope_test.widened" in text for text in traced(Runs())[1])


LIBRARY = torch.library.Library("weightscope_test", "DEF")
LIBRARY.define("widened(Tensor x, SymInt n) -> Tensor")
LIBRARY.impl("widened", lambda x, n: x * n, "CompositeExplicitAutograd")


def test_what_symbolic_trace_cannot_take_is_exported():
    module = rebuild(read_structure(Net(), IMAGE)).eval()
    with pytest.raises(InputError, match=r"give it torch\.export\.export"):
        fx.symbolic_trace(module)
    traced = fx.symbolic_trace(torch.export.export(module, (IMAGE,)).module())
    assert torch.equal(traced(IMAGE)[0], module(IMAGE)[0])
