"""`analyze`: the one file that joins the rooms."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.adapters.modes import alone
from weightscope.arguments import Rule, checked, path_text
from weightscope.batches import each_batch, example_in, first_image, left_out, read_batches
from weightscope.calls import random_state, to_device
from weightscope.cost import count_costs
from weightscope.errors import ForwardError, InputError, keyword, stood_for
from weightscope.findings import Findings
from weightscope.graph import read_structure
from weightscope.movement import renamed
from weightscope.probing import respond_to_images, respond_to_synthetic
from weightscope.progress import steps
from weightscope.receptive_field import receptive_fields
from weightscope.statistics import measure_model
from weightscope.truncation import Variant, propose, whole
from weightscope.utilization import assess, gather_data
from weightscope.utilization.judging import check_metric
from weightscope.wrappers import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weightscope.histories import RecordedHistory
    from weightscope.statistics import ModelStatistics
    from weightscope.watching import History


class Analysis(Findings):
    """What was found out about one network, and ways to show it.

    ``print(analysis)`` shows the ranked stages, the verdict and the proposals.
    """

    @property
    def whole(self) -> Variant:
        """The network itself as a variant with all levels, to be thinned without a cut."""
        return whole(self.structure)

    @checked()
    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole analysis as one self-contained page.

        Args:
            path: Where to write; the file is replaced atomically.

        Returns:
            The path that was written.

        Raises:
            MissingExtraError: If the ``report`` extra is not installed.
            InputError: If the file cannot be written.
        """
        from weightscope.report import write_html

        return write_html(self, Path(path_text(path, "of a page to write")))

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, the stages and the smaller networks."""
        from weightscope.exports import as_notebook

        return as_notebook(self)

    def __str__(self) -> str:
        from weightscope.printing import analysis_table

        return analysis_table(
            self.structure,
            self.statistics,
            self.costs,
            self.receptive_fields,
            self.assessment,
            self.proposals,
        )


@checked(
    history=Rule(
        lambda value: callable(value.initial),
        "what watch() recorded, or what read_history(path) reads",
    )
)
@alone()
def analyze(
    model: nn.Module,
    *,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None,
    initial: Mapping[str, Tensor] | Callable[[], nn.Module] | None = None,
    history: History | RecordedHistory | None = None,
    response: bool = True,
    images: Iterable[Any] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    metric: Callable[[Any, Any], Any] | str | Mapping[Any, Any] | None = None,
    ignore_index: int | None = None,
    keys: tuple[Any, Any] | None = None,
    trained: bool = False,
    stages: Mapping[str, Any] | None = None,
    layout: str | None = None,
    part: str | None = None,
    spectra: bool = False,
    progress: bool = False,
) -> Analysis:
    """Tell which levels of an encoder-decoder do any work, and what could go.

    The model is never changed: weights, modes, gradients, hooks and the random state are the same
    afterwards.

    Args:
        model: A network with its trained weights. Nothing else is needed.
        example_inputs: What to call the model with where that cannot be guessed: a tensor, a tuple
            of positional or a mapping of keyword arguments. By default the first image of `batches`
            or of `images`, whose size the costs are then of; else a size that the model takes.
        initial: The weights at the start of training, as a state dict or as a callable that builds
            the freshly initialised model. Makes the initialisation null and the movement since
            then exact. None for the start that `history` recorded, if there is one.
        history: What `watch` recorded during training, or `read_history` read.
        response: Whether to measure how the output responds, on synthetic images, when each level
            is replaced by its mean: some ten forward passes.
        images: Unlabelled inputs, batch by batch, to measure the same on; read once. A batch is a
            tensor, a tuple, or a mapping of the forward's arguments by name; of a tuple as many
            parts are inputs as `example_inputs` has, without it as many as the forward cannot do
            without, and what follows is taken for targets.
        batches: Evidence from data, as a loader yields it; see `ablate`. At least ten images.
        loss: ``loss(outputs, targets)``, a scalar tensor; with `batches`, for gradients, and for
            the ablation where there is no metric.
        metric: Name of a built-in metric, or ``metric(outputs, targets)``; with `batches`, quality
            lost when each level is removed; or one for each of several outputs by its name; see
            `ablate`.
        ignore_index: Value of targets that does not count, for the built-in metrics of classes.
        keys: Where inputs and targets are in a batch, such as ``("image", "mask")``.
        trained: Say that the network was trained to its end. Needed only where its weights do not
            show it; without that nothing, or nothing unused, is concluded of such a network.
        stages: Where the stages of modules are read wrongly: prefixes of module names for each
            stage name (``{"skip 0": "lateral", "head": ["out", "aux"]}``).
        layout: What the axes of the image input are, one letter each (``"NHWC"``, ``"NHW"``,
            ``"NTCHW"`` for clips), where they are read wrongly.
        part: Name of a module that is a network of its own among others (one U-net of a cascade;
            ``structure.parts`` names them), to analyse and cut that one alone.
        spectra: Also compute the largest singular value, the stable and the effective rank.
        progress: Show progress bars.

    Returns:
        The analysis, with data frames, proposals and the verdict in words.

    Raises:
        InputError: If an argument cannot be used, or the model has no parameters.
        ForwardError: If the model's forward raises, or no input was found that it accepts.
        StructureError: If the network has no readable encoder-decoder shape.
    """
    if batches is None and (loss is not None or metric is not None):
        raise InputError(
            f"{keyword('loss')} and {keyword('metric')} need {keyword('batches')} of (inputs, "
            "targets) pairs"
        )
    if batches is not None and loss is None and metric is None:
        raise InputError(
            f"{keyword('batches')} needs {keyword('loss')} (for gradients), {keyword('metric')} "
            "(for ablation), or both"
        )
    check_metric(metric)
    given, model = model, unwrap(model).model
    if initial is None and history is not None:
        initial = _start_of(history, model)
    pairs = None if batches is None else read_batches(batches, model, keys)
    if images is not None:
        with random_state(model):  # a loader draws the seed of its workers, whatever it shuffles
            images = list(each_batch(images))
    source = ""
    if example_inputs is None and pairs is not None:
        source, example_inputs = "batches", to_device(first_image(pairs), model)
    elif example_inputs is None and images:
        source, example_inputs = "images", to_device(example_in(images[0], model), model)
    count = 4 + bool(response) + (images is not None) + (pairs is not None)
    with steps(count, "analyze", shown=progress) as begin:
        begin("levels and stages")
        with stood_for("example_inputs", source), _parts_told(source, images, model):
            structure = read_structure(given, example_inputs, stages, layout, part)
        begin("weights")
        statistics = measure_model(model, initial=initial, spectra=spectra, progress=progress)
        begin("costs")
        costs = count_costs(model, structure.inputs)
        data, synthetic, own = None, None, None
        pairs, images, response = _unless_broken(statistics, pairs, images, response)
        if pairs is not None:
            begin("data")
            data = gather_data(
                structure, pairs, loss, metric, ignore_index=ignore_index, progress=progress
            )
        if response:
            begin("response")
            synthetic = respond_to_synthetic(structure) if structure.cuts else None
        if images is not None:
            begin("images")
            own = respond_to_images(structure, images) if structure.cuts else None
        begin("verdicts and proposals")
        assessment = assess(
            structure,
            statistics,
            history=history,
            response=synthetic,
            images=own,
            data=data,
            trained=trained,
        )
        return Analysis(
            structure=structure,
            statistics=statistics,
            costs=costs,
            receptive_fields=receptive_fields(structure),
            assessment=assessment,
            proposals=propose(structure, assessment, costs),
            data=data,
            response=synthetic,
            images=own,
        )


@contextmanager
def _parts_told(source: str, images: Any, model: nn.Module) -> Iterator[None]:
    """Say of an example from images that does not run which parts of them it was made of."""
    try:
        yield
    except ForwardError as error:
        if source == "images" and (hint := left_out(images[0], model)):
            raise ForwardError(f"{error} {hint}") from error
        raise


def _unless_broken(
    statistics: ModelStatistics, pairs: Any, images: Any, response: bool
) -> tuple[Any, Any, bool]:
    """What to measure by: nothing where weights are no numbers, for outputs are none either."""
    return (None, None, False) if statistics.nonfinite else (pairs, images, response)


def _start_of(history: History | RecordedHistory, model: nn.Module) -> dict[str, Tensor] | None:
    """The recorded start of the parameters that the model has under the same name and shape.

    A wrapper's prefix does not count, as in the movement that the history recorded.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    try:
        start = history.initial()
    except InputError as error:
        unreadable = error.__cause__  # the checkpoint's error, whose cause is that of the file
        if unreadable is None or not isinstance(unreadable.__cause__, FileNotFoundError):
            raise
        warnings.warn(
            f"the file that watch() stored the starting weights in is gone ({unreadable}); "
            "the analysis goes on without them",
            stacklevel=5,  # two frames are of the decorators
        )
        return None
    start = max(
        renamed(start, shapes),
        key=lambda named: sum(shapes.get(n) == t.shape for n, t in named.items()),
    )
    kernels = [n for n, t in start.items() if t.dim() > 1 and n in shapes]
    if kernels and not any(shapes[n] == start[n].shape for n in kernels):
        return None  # of another network: constants that both begin with would look like its own
    return {n: t for n, t in start.items() if shapes.get(n) == t.shape} or None
