"""The house's rules: imports run one way, and heavy libraries wait until they are needed."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room may import of the others. A room may always import itself.
MAY_IMPORT = {
    "errors": set(),
    "arguments": {"errors"},
    "thresholds": set(),
    "showing": set(),
    "restoring": set(),
    "progress": set(),
    "files": {"errors", "arguments"},
    "adapters": {"errors", "restoring"},
    "copies": {"calls"},
    "movement": set(),
    "calls": {"errors", "restoring"},
    "wrappers": {"errors"},
    "graph": {"errors", "restoring", "copies", "calls", "wrappers"},
    "batches": {"errors", "calls", "graph"},
    "checkpoints": {"errors"},
    "summaries": {"errors"},
    "statistics": {"errors", "copies", "calls", "checkpoints", "movement", "summaries"},
    "traces": {"statistics", "summaries"},
    "cost": {"errors", "copies", "calls", "graph"},
    "receptive_field": {"errors", "copies", "calls", "graph", "cost"},
    "probing": {"errors", "calls", "batches", "graph"},
    "utilization": {
        "errors",
        "calls",
        "batches",
        "wrappers",
        "graph",
        "movement",
        "statistics",
        "traces",
        "probing",
    },
    "watching": {"errors", "files", "checkpoints", "movement", "summaries", "wrappers"},
    "histories": {"errors", "checkpoints", "movement", "watching"},
    "truncation": {
        "errors",
        "restoring",
        "copies",
        "probing",
        "calls",
        "batches",
        "wrappers",
        "graph",
        "checkpoints",
        "statistics",
        "cost",
        "receptive_field",
        "utilization",
    },
    "frames": {
        "errors",
        "graph",
        "summaries",
        "statistics",
        "cost",
        "receptive_field",
        "utilization",
        "truncation",
    },
}
MAY_IMPORT["printing"] = MAY_IMPORT["frames"] | {"frames"}
MAY_IMPORT["findings"] = MAY_IMPORT["printing"] | {"probing"}
MAY_IMPORT["report"] = MAY_IMPORT["findings"] | {"findings", "printing"}
MAY_IMPORT["exports"] = MAY_IMPORT["report"]
MAY_IMPORT["analysis"] = MAY_IMPORT["report"] | {
    "report",
    "exports",
    "watching",
    "histories",
    "movement",
    "calls",
    "batches",
    "wrappers",
}
MAY_IMPORT["cli"] = MAY_IMPORT["analysis"] | {"analysis", "checkpoints"}
MAY_IMPORT["__main__"] = MAY_IMPORT["cli"] | {"cli"}
MAY_IMPORT["__init__"] = MAY_IMPORT["cli"]
MAY_IMPORT = {
    name: allowed
    if name in {"errors", "arguments", "files", "adapters", "showing", "progress", "thresholds"}
    else allowed | {"arguments", "files", "adapters", "showing", "progress", "thresholds"}
    for name, allowed in MAY_IMPORT.items()
}
PLOTTING = {"matplotlib", "seaborn", "jinja2"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "weightscope").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at once or when a function is called."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


@pytest.mark.parametrize("path", modules("weightscope"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in {"mpseg_models", "studies"}, f"{path} imports {name}"
        if parts[0] in PLOTTING:
            assert here == "report", f"only report may import {name}"
        if parts[0] != "weightscope" or len(parts) < 2 or parts[1] == here:
            continue
        if parts[1] not in MAY_IMPORT:  # a name of the package itself, such as __version__
            assert here in {"cli", "report"}, f"{path} imports {name} from the package's front door"
            continue
        assert parts[1] in MAY_IMPORT[here], f"{path} imports {name}"


def private_parts(path: Path) -> Iterator[str]:
    """Names with an underscore that a file takes from a foreign module or object.

    By an import, as an attribute, or by ``getattr`` and its kin. Experimental modules of torch
    count as private ones.
    """
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            parts = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            parts += [alias.name for alias in node.names]
            names = ".".join(parts).split(".")
            if "torch" in names[:2]:
                yield from (p for p in names if p.startswith("_") or p == "experimental")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not of_itself and node.attr not in own and not node.attr.endswith("__"):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in {
                "getattr",
                "setattr",
                "hasattr",
                "delattr",
                "attrgetter",
                "import_module",
            }:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                names = [n for t in texts if isinstance(t, str) for n in t.split(".")]
                yield from (n for n in names if n.startswith("_") and not n.endswith("__"))


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in [*modules("weightscope"), *modules("mpseg_models")]
        if path.parent.name != "adapters"
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_only_the_adapters_touch_private_parts(path: Path) -> None:
    assert sorted(set(private_parts(path))) == []


@pytest.mark.parametrize(
    "touch",
    [
        "import torch._dynamo",
        "from torch import _C",
        "from torch._ops import OpOverload",
        "from torch.fx.experimental import proxy_tensor",
        "import torch.fx.experimental.proxy_tensor as p",
        "from torch.nn.modules.conv import _ConvNd as Convolution",
        "torch._dynamo.reset()",
        "module._parameters['weight']",
        "getattr(target, '_schema')",
        "operator.attrgetter('node._value')(size)",
        "importlib.import_module('torch._dynamo')",
    ],
)
def test_every_way_to_a_private_part_is_seen(touch: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(touch)
    assert list(private_parts(tmp_path / "file.py"))


MADE = {
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones",
    "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


@pytest.mark.parametrize("path", modules("weightscope"), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_made_says_its_device(path: Path) -> None:
    """The caller may have another default device, which the model's forward may count on."""
    for node in ast.walk(ast.parse(path.read_text())):
        of_torch = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
            and node.func.attr in MADE
        )
        if of_torch and room(path) != "cli":
            assert "device" in {k.arg for k in node.keywords}, f"{path}:{node.lineno}"


def test_the_zoo_stands_alone() -> None:
    for path in modules("mpseg_models"):
        for name in imported(path):
            assert name.split(".")[0] not in {"weightscope", "studies"}, f"{path} imports {name}"


def test_every_room_is_in_the_table() -> None:
    assert {room(path) for path in modules("weightscope")} == set(MAY_IMPORT)


def test_the_page_names_every_file_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    for folder in (ROOT / "weightscope").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
            named = {
                word for word in rows[f"{folder.name}/"].split("`")[1::2] if word.isidentifier()
            }
            named = {word for word in named if word.islower()} - {"weightscope"}
            assert named == files, folder.name


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    code = (
        "import sys, json, torch; before = set(sys.modules); import weightscope;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    new = set(json.loads(out.stdout))
    heavy = {"pandas", "sympy", "numba", "scipy.stats", "matplotlib", "seaborn", "jinja2", "fvcore"}
    assert not new & heavy


def test_every_mutant_finds_the_code_that_it_replaces() -> None:
    from mutants import MUTANTS

    for mutant in MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant


def test_all_names_are_exported() -> None:
    import weightscope

    assert sorted(weightscope.__all__) == [
        "Analysis",
        "CheckpointError",
        "ForwardError",
        "InputError",
        "MissingExtraError",
        "RecipeError",
        "RecordedHistory",
        "StructureError",
        "TruncationError",
        "UnknownLayerError",
        "UnsupportedTorchError",
        "Weights",
        "WeightscopeError",
        "__version__",
        "ablate",
        "analyze",
        "fit_weights",
        "load",
        "read_history",
        "read_weights",
        "save",
        "save_history",
        "scan",
        "shrink",
        "watch",
    ]
    for name in weightscope.__all__:
        assert getattr(weightscope, name) is not None


@pytest.mark.sample(2)
@pytest.mark.parametrize("place", range(6))
def test_a_sample_keeps_the_first_parameter_of_each_share(place, request):
    alone = len(request.session.items) == 1  # asked for by its name
    slow = request.node.get_closest_marker("slow") is not None
    assert slow == (place not in (0, 3) and not alone)
