"""What a public call may not change: models, calls and outcomes, and pictures before and after.

    python -m fuzz.states --interrupts 200 --seed 0

tries every kind of model with every public call, on success and on failure, and raises so many
interrupts at drawn places. Exits with 1 where anything is different afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import scipy.sparse
import scipy.special  # both add filters of warnings when they are first imported  # noqa: F401
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_map

import weightscope as ws
from weightscope.cli import main as main_of_command
from weightscope.receptive_field import effective_receptive_field

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_forward_hooks_with_kwargs",
)  # fmt: skip


def _numbers(tensor):
    if torch.nn.parameter.is_lazy(tensor):
        return "lazy"
    plain = tensor.detach()
    if plain.is_quantized:
        plain = plain.int_repr()
    return plain.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _tensor(tensor):
    grad = tensor.grad if tensor.is_leaf else None
    return (
        id(tensor), tensor.requires_grad, tensor.dtype,
        None if torch.nn.parameter.is_lazy(tensor) else (tuple(tensor.shape), tensor.stride()),
        _numbers(tensor), None if grad is None else (id(grad), _numbers(grad)),
    )  # fmt: skip


def picture_of_model(model):
    """Everything about a model that a user could notice, by name."""
    seen = {}
    for name, module in model.named_modules(remove_duplicate=False):
        seen[name, "class"] = type(module)
        seen[name, "training"] = module.training
        seen[name, "attributes"] = tuple(sorted(map(str, vars(module))))
        for hooks in _HOOKS:
            seen[name, hooks] = tuple(map(id, getattr(module, hooks, {}).values()))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        seen[name, "tensor"] = _tensor(tensor)
    return seen


def picture_of_process():
    """Settings that belong to the whole process or thread."""
    return {
        "torch random": torch.get_rng_state().numpy().tobytes(),
        "numpy random": repr(np.random.get_state()),
        "python random": random.getstate(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "warnings": tuple(warnings.filters),
        "turn": sys.getswitchinterval(),
        "limit": sys.getrecursionlimit(),
        "errors": tuple(np.geterr().items()),
        "trace": sys.gettrace(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "logging": logging.getLogger("torch._export.non_strict_utils").level,
        "onednn": torch.backends.mkldnn.enabled,
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }


def differences(before, after):
    """Names of what is not the same."""
    return sorted(
        str(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    )


# --- models -------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two levels, with everything that a forward can leave behind."""

    def __init__(self, width=4):
        super().__init__()
        self.a = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.c = nn.Conv2d(width, 8 * width, 3, padding=1)  # wide enough that a cut saves something
        self.d = nn.Conv2d(8 * width, width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, 1, 1)

    def forward(self, x):
        x = self.drop(self.norm(self.a(x)))
        deep = self.d(self.c(self.b(nn.functional.max_pool2d(x, 2))))
        return self.head(torch.cat([x, nn.functional.interpolate(deep, scale_factor=2.0)], 1))


class Noisy(Small):
    """Draws from every generator and counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        np.random.random()
        random.random()
        return super().forward(x + 1e-3 * torch.randn_like(x))


class Writing(Small):
    """Writes into frozen weights, gives one of them a gradient and lets it be trained."""

    def __init__(self):
        super().__init__()
        self.b.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(1.01)
            self.b.weight.data.mul_(0.9)
        self.b.bias.requires_grad_(True)
        self.b.bias.grad = torch.ones_like(self.b.bias)
        return super().forward(x * self.scale)


def _hooked():
    model = Small()
    model.b.register_forward_hook(lambda module, args, output: output * 1.5)
    model.a.register_forward_pre_hook(lambda module, args: None)
    model.a.weight.register_hook(lambda grad: grad)
    return model


def _tied():
    model = Small()
    model.twin = model.b
    model.extra = nn.Conv2d(4, 4, 3, padding=1)
    model.extra.weight = model.b.weight
    return model


def _mixed():
    model = Small().train()
    model.norm.eval()
    model.drop.eval()
    return model


def _with_gradients():
    model = Small()
    model(torch.ones(1, 1, 16, 16)).sum().backward()
    model.a.weight.requires_grad_(False)
    return model


def _normed(norm, name="weight"):
    model = Small()
    norm(model.b, name)
    return model


def _lazy():
    model = Small()
    model.b = nn.LazyConv2d(4, 3, padding=1)
    return model


def _complex():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch's complex modules are new, said once
        return Small().to(torch.complex64)


def _quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Small().eval()
        return torch.ao.quantization.quantize_dynamic(
            nn.Sequential(model, nn.Flatten(), nn.Linear(256, 2)), {nn.Linear}
        )


KINDS = {
    "plain": Small,
    "mixed modes": _mixed,
    "hooks": _hooked,
    "weight norm": lambda: _normed(parametrizations.weight_norm),
    "spectral norm": lambda: _normed(parametrizations.spectral_norm),
    "tied": _tied,
    "lazy": _lazy,
    "channels last": lambda: Small().to(memory_format=torch.channels_last),
    "bfloat16": lambda: Small().bfloat16(),
    "float16": lambda: Small().half(),
    "float64": lambda: Small().double(),
    "complex": _complex,
    "quantised": _quantised,
    "data parallel": lambda: nn.DataParallel(Small()),
    "compiled": lambda: torch.compile(Small(), backend="eager"),
    "gradients": _with_gradients,
    "draws and counts": Noisy,
    "writes weights": Writing,
}


def _batches(model):
    kinds = (p.dtype for p in model.parameters() if not nn.parameter.is_lazy(p))
    return _data(next(kinds, torch.float32))


@cache
def _data(dtype):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 16, 16, generator=generator).to(dtype)
    return [(image, (torch.rand(2, 1, 16, 16, generator=generator) > 0.7).float())] * 2


def _loss(output, target):
    return nn.functional.binary_cross_entropy_with_logits(output.float(), target)


def _images(model):
    return [image for image, _ in _batches(model)]


def _analyze(model, **options):
    return ws.analyze(model, example_inputs=_images(model)[0], **options)


def _told(analysis):
    """What an analysis says, without times and addresses."""
    frames = analysis.layers, analysis.stages, analysis.scores, analysis.histograms
    return [frame.to_csv() for frame in frames], analysis.conclusion


def _small(model):
    proposals = _analyze(model, response=False).proposals
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # of the new weights
        return proposals[0].build()


def _save(model, folder):
    variant = _small(model)
    ws.save(variant, folder / "v.safetensors")
    return variant.recipe, variant.module


def _load(model, folder):
    ws.save(_small(model), folder / "v.safetensors")
    return ws.load(folder / "v.safetensors", lambda: copy.deepcopy(model)).module


def _recover(model, folder):
    variant = _small(model)
    course = variant.recover(_images(model) * 3, steps=2, progress=False)
    return course, variant.module


def _thin(model, folder):
    variant = _small(model)
    return variant.thin(0.5).module


def _shrink(model, folder):
    search = ws.shrink(
        model, images=_images(model) * 3, example_inputs=_images(model)[0], steps=2, repeats=2,
        resume=folder / "courses", progress=False,
    )  # fmt: skip
    return search.frame.drop(columns="latency").to_csv()


def _watch(model, folder):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    with ws.watch(model, optimizer, every=1, store=folder / "start.safetensors") as history:
        optimizer.step()
        told = history.displacements()
        history.to_csv(folder / "h.csv")
        history.load_state_dict(history.state_dict())
    return repr(told), (folder / "h.csv").read_text()


def _history(model, folder):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    with ws.watch(model, optimizer, every=1) as history:
        optimizer.step()
    ws.save_history(history, folder / "h.safetensors")
    known = ws.read_history(folder / "h.safetensors")
    return repr(known.displacements()), known.initial()


def _measure(model, folder):
    measured = _small(model).measure(repeats=2)
    return measured.peak_memory_before, measured.peak_memory_after


def _command(model, folder):
    _write(model, folder)
    said, file = io.StringIO(), str(folder / "x")
    with contextlib.redirect_stdout(said):
        ended = [
            main_of_command(["scan", file, "--csv", f"{file}.csv", "--html", f"{file}.html"]),
            main_of_command(["compare", file, file]),
        ]
    return ended, said.getvalue()


def _write(model, folder):
    if (folder / "x").exists():  # written outside of the modes that are tried
        return
    state = {f"model.{n}": v for n, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    torch.save({"state_dict": state}, folder / "x")


def _scan(model, folder):
    _write(model, folder)
    return [(p.parameter, repr(p.summary.mean)) for p in ws.scan(folder / "x").parameters]


def _fit(model, folder):
    _write(model, folder)
    return dict(ws.fit_weights(model, ws.read_weights(folder / "x")))


def _report(model, folder):
    return _analyze(model, response=False).to_html(folder / "page.html").read_text()


def _field(model, folder):
    field = effective_receptive_field(model, _images(model)[0])
    return field.extent, field.gradient


CALLS = {
    "analyze": lambda model, folder: _told(_analyze(model, images=_images(model))),
    "analyze with batches": lambda model, folder: _told(
        _analyze(model, batches=_batches(model), loss=_loss)
    ),
    "ablate": lambda model, folder: ws.ablate(
        model, _batches(model), "f1", progress=False
    ).to_csv(),
    "build and save": _save,
    "load": _load,
    "recover": _recover,
    "thin": _thin,
    "shrink": _shrink,
    "watch": _watch,
    "fit weights": _fit,
    "scan": _scan,
    "report": _report,
    "receptive field": _field,
    "history": _history,
    "measure": _measure,
    "command": _command,
}


# --- outcomes -----------------------------------------------------------------------------------


@contextmanager
def success(model):
    """Let the call run to its end."""
    yield


@contextmanager
def failure(model, at=2):
    """Let the model's forward, its copies' included, raise from one of its calls on.

    Yields:
        A list as long as there were calls.
    """
    calls = []

    def stop(*_):
        calls.append(len(calls) + 1)
        if calls[-1] >= at:
            raise ValueError("the model's own failure")

    original = next((m for m in model.modules() if isinstance(m, Small)), model)
    handle = original.register_forward_pre_hook(stop)
    try:
        yield calls
    finally:
        handle.remove()


class Interrupt:
    """Raise KeyboardInterrupt where the main thread calls a function of the library, at one call.

    Attributes:
        calls: Calls seen.
    """

    def __init__(self, at=None):
        self.at, self.calls = at, 0
        self._home = os.path.dirname(ws.__file__)

    def __call__(self, frame, event, argument):
        code = frame.f_code
        # a generator that is interrupted before it goes on would never run its clean-up
        if event != "call" or code.co_flags & 0x20 or not code.co_filename.startswith(self._home):
            return
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt

    def __enter__(self):
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


def call(name, model, folder):
    """What a public call returns, to be compared when all modes are left."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries that are imported
        return CALLS[name](model, folder)


def comparable(result):
    """The same with bytes for tensors."""
    states = tree_map(lambda v: v.state_dict() if isinstance(v, nn.Module) else v, result)
    return tree_map(lambda v: _numbers(v) if isinstance(v, torch.Tensor) else v, states)


def count_forwards(kind, call, folder):
    """How often a public call runs the model's forward."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    with warnings.catch_warnings(), failure(model, math.inf) as calls, suppress(Exception):
        warnings.simplefilter("ignore")
        CALLS[call](model, folder)
    return len(calls)


def try_call(kind, call, outcome, folder, interrupt_at=None, fail_at=2):
    """What is different after a call, and how it ended.

    Args:
        kind: Of model.
        call: Which public call.
        outcome: ``success`` or ``failure``.
        folder: For its files.
        interrupt_at: At which call of the library's functions to interrupt it.
        fail_at: At which of its calls the forward raises.
    """
    torch.manual_seed(0)
    model = KINDS[kind]()
    ended = "returned"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = picture_of_model(model), picture_of_process()
        watched = Interrupt(interrupt_at) if interrupt_at else success(model)
        try:
            with failure(model, fail_at) if outcome == "failure" else success(model), watched:
                CALLS[call](model, folder)
        except ws.WeightscopeError as error:
            ended = type(error).__name__
        except KeyboardInterrupt:
            ended = "interrupted"
        except Exception as error:
            ended = f"leaked {type(error).__name__}: {str(error)[:100]}"
        after = picture_of_model(model), picture_of_process()
    changed = [d for b, a in zip(before, after, strict=True) for d in differences(b, a)]
    return changed + broken_files(folder), ended


def broken_files(folder):
    """Files that a call left behind half written, or beside their place."""
    found = [f"left behind: {path.name}" for path in folder.rglob(".*")]
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        try:
            if path.suffix == ".safetensors":
                safetensors.torch.load(content)
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".html":
                assert content.rstrip().endswith(b"</html>")
            elif path.suffix == ".csv":
                assert content.endswith(b"\n")
        except Exception as error:
            found.append(f"half written: {path.name} ({type(error).__name__})")
    return found


def count_calls(kind, call, folder):
    """Calls of the library's functions that a public call makes in the main thread."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    with warnings.catch_warnings(), Interrupt() as watched, suppress(ws.WeightscopeError):
        warnings.simplefilter("ignore")
        CALLS[call](model, folder)
    return watched.calls


def _in_a_folder(function, *arguments):
    with tempfile.TemporaryDirectory() as name:
        return function(*arguments[:3], Path(name), *arguments[3:])


def _counted(count, kind, call):
    with tempfile.TemporaryDirectory() as name:
        return count(kind, call, Path(name))


def warm_up():
    """Let libraries be imported, which add filters of warnings of their own, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in CALLS.values():
            with tempfile.TemporaryDirectory() as name, suppress(ws.WeightscopeError):
                call(KINDS["plain"](), Path(name))


def table(kinds, calls):
    """Outcomes of every kind of model with every call; what is different is printed."""
    counts = Counter()
    for kind in kinds:
        row = []
        for call in calls:
            last = _counted(count_forwards, kind, call)
            for outcome, *at in (("success",), ("failure", None, 2), ("failure", None, last)):
                changed, ended = _in_a_folder(try_call, kind, call, outcome, *at)
                counts[outcome, ended.split(":")[0]] += 1
                counts["different"] += bool(changed)
                counts["leaked"] += ended.startswith("leaked")
                row.append("DIFFERENT" if changed else ended.split(":")[0])
                if changed or ended.startswith("leaked"):
                    print(f"{kind}, {call}, {outcome} {at}: {ended}; {changed}", flush=True)
        outcomes = ("/".join(row[i : i + 3]) for i in range(0, len(row), 3))
        print(kind.ljust(18), *outcomes, flush=True)
    return counts


def interrupts(number, seed, kinds, calls, go_on=lambda: True):
    """Interrupts at drawn calls of the library's functions."""
    rng, counts, sizes = random.Random(seed), Counter(), {}
    while counts["tried"] < number and go_on():
        kind, call = rng.choice(kinds), rng.choice(calls)
        if (kind, call) not in sizes:
            sizes[kind, call] = _counted(count_calls, kind, call)
        if not sizes[kind, call]:
            continue
        at = rng.randrange(sizes[kind, call]) + 1
        changed, ended = _in_a_folder(try_call, kind, call, "success", at)
        counts["tried"] += 1
        counts[call] += 1
        counts[ended.split(":")[0]] += 1
        counts["different"] += bool(changed)
        counts["leaked"] += ended.startswith("leaked")
        if changed or ended.startswith("leaked"):
            print(f"{kind}, {call}, interrupted at {at}: {ended}; {changed}", flush=True)
    return counts


def main():
    """Run, print what was found, and say whether anything was different."""
    parser = argparse.ArgumentParser(prog="fuzz.states")
    parser.add_argument("--interrupts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for the interrupts")
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument(
        "--kinds", default="", help="of models, separated by commas; all by default"
    )
    options = parser.parse_args()
    kinds, calls = options.kinds.split(",") if options.kinds else list(KINDS), list(CALLS)
    warm_up()
    found = Counter()
    if not options.no_table:
        found = table(kinds, calls)
        print("kinds x calls x outcomes:", dict(found), flush=True)
    end = time.monotonic() + 60 * options.minutes
    raised = interrupts(
        options.interrupts, options.seed, kinds, calls, lambda: time.monotonic() < end
    )
    print(f"interrupts, seed {options.seed}:", dict(raised))
    return int(any(c[what] for c in (found, raised) for what in ("different", "leaked")))


if __name__ == "__main__":
    sys.exit(main())
