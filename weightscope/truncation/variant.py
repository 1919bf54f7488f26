"""Smaller networks that run."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from weightscope.adapters.modes import alone, outside_modes
from weightscope.arguments import checked
from weightscope.batches import Keys
from weightscope.calls import leaves_by_place
from weightscope.copies import deep_copy
from weightscope.cost import Costs, Latency, measure_latency, measure_peak_memory
from weightscope.errors import RecipeError
from weightscope.graph.fixed import fixed_in
from weightscope.graph.structure import Structure
from weightscope.receptive_field import Pixels
from weightscope.showing import OnOneScreen, outputs_at
from weightscope.truncation.plan import Plan, cut_of, describe, weights_digest
from weightscope.truncation.recovery import Recovery, recover
from weightscope.truncation.untrained import of_training_alone, untrained

Ranking = Literal["magnitude", "random"]


@dataclass(frozen=True)
class Measurement:
    """What a truncation gained on this machine.

    Attributes:
        latency_before: Of the original.
        latency_after: Of the variant, timed alternately with the original.
        peak_memory_before: Bytes; see ``weightscope.cost.measure_peak_memory``.
        peak_memory_after: Bytes.
    """

    latency_before: Latency
    latency_after: Latency
    peak_memory_before: int
    peak_memory_after: int


@dataclass(frozen=True, eq=False, repr=False)
class Variant(OnOneScreen):
    """A smaller network that runs, and where each of its tensors comes from.

    Attributes:
        module: The network. It takes what the original took and returns what it returned, except
            ``dropped_outputs``.
        plan: What rebuilds it from the original's code.
        kept: State dict keys whose tensors were the original's when it was built.
        thinned: Keys of tensors that lost channels and keep the others as they were.
        recut: Keys of tensors that keep some of the original's slices; the others are fresh.
        reinitialized: Keys of tensors that are new, or re-cut, and need training.
        dropped: Keys of the original that are gone.
        dropped_outputs: Positions of flat outputs that were computed below the cut; None now.
        costs: What one forward costs, counted on the built network.
        receptive_field: In input pixels, one figure per spatial dimension; None: the whole input.
        structure: The original, by reference.
        origin: Of a variant that was loaded, a digest of the original's weights, which the model
            of ``structure`` need not have; empty where the file does not say. None: it has them.
    """

    module: nn.Module
    plan: Plan
    kept: tuple[str, ...]
    thinned: tuple[str, ...]
    recut: tuple[str, ...]
    reinitialized: tuple[str, ...]
    dropped: tuple[str, ...]
    dropped_outputs: tuple[int, ...]
    costs: Costs = field(repr=False)
    receptive_field: Pixels
    structure: Structure = field(repr=False)
    origin: str | None

    def _facts(self) -> dict[str, object]:
        left_out = tuple(fixed_in(self.structure.graph).left_out)
        places = list(leaves_by_place(self.structure.returned))
        unknown = any(side is not None and math.isnan(side) for side in self.receptive_field)
        lacking = outputs_at(places[position] for position in self.dropped_outputs)
        return {
            "of": type(self.structure.model).__name__,
            "levels kept": f"{self.plan.keep_levels} of {self.structure.depth}",
            "parameters": f"{self.costs.parameters:,}",
            "MACs": f"{self.costs.macs:,}",
            "sees": "?" if unknown else self.receptive_field,
            "tensors kept": len(self.kept),
            **({"thinned": len(self.thinned)} if self.thinned else {}),
            "new": len(self.reinitialized),
            "dropped": len(self.dropped),
            **({"takes no": ", ".join(left_out)} if left_out else {}),
            **({"does not return": lacking} if lacking else {}),
            **({"no longer trained": ", ".join(self.untrained)} if self.untrained else {}),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Variant:
        """The same variant with a module of its own; the original is not copied."""
        return replace(self, module=deep_copy(self.module, memo))

    @cached_property
    def untrained(self) -> tuple[str, ...]:
        """Parameters that are kept and that no output which is left trains: they stay as they are.

        Those that ``dropped_outputs`` alone trained, as a summed loss; where the forward returns
        the parts of such a loss one by one, those of the levels that stay are returned. And those
        that only train mode reads (side maps for a loss), inside of modules that stay.
        """
        lost = set(of_training_alone(self.structure))
        if self.dropped_outputs:
            lost |= {*untrained(self.structure, cut_of(self.structure, self.plan))}
        return tuple(name for name, _ in self.module.named_parameters() if name in lost)

    @property
    @outside_modes()
    def recipe(self) -> Mapping[str, Any]:
        """What ``save`` writes with the tensors: the plan, and how the original was read."""
        return {"format": self.plan.format, **describe(self.structure), **self.plan.to_json()}

    @checked()
    @alone()
    def thin(
        self,
        keep: float | Mapping[str, int] | None = None,
        *,
        max_macs: float | None = None,
        by: Ranking = "magnitude",
        seed: int = 0,
    ) -> Variant:
        """Make the network thinner: remove channels, with all that is coupled with them.

        What is coupled is read with Torch-Pruning's dependency graph (Fang et al. 2023, *DepGraph*;
        the extra ``prune``), and checked: the result gives the outputs that this network gives when
        the weights that read the removed channels are zero and normalisations see only the others.
        Channels that fail this stay, and those that reach an output, a grouped convolution or a
        layer of an unknown kind. Of channels that are normalised in groups each group loses as
        many. A map of one channel (an attention gate) stays; what it multiplies need not. The
        weights that remain keep their values; ``recover`` trains the
        result.

        Args:
            keep: Share of the channels that stays, the same in every layer and at least one; or
                the numbers of channels of some layers by name, the others staying as they are.
            max_macs: Instead of ``keep``: the largest share within this budget of
                multiply-accumulates on the example input.
            by: What is removed first: channels of small ``magnitude``, or ``random`` ones.
            seed: Seed of the random order.

        Returns:
            A new variant; this one stays as it is.

        Raises:
            MissingExtraError: Torch-Pruning is not installed.
            InputError: An argument cannot be used.
            TruncationError: The channels of this network cannot be followed, or the budget not be
                reached.
        """
        from weightscope.truncation.thinning import thin

        return thin(self, keep, max_macs=max_macs, by=by, seed=seed)

    @checked()
    @alone()
    def measure(self, *, repeats: int = 10) -> Measurement:
        """Time the original and the variant, and measure their peak memory.

        Args:
            repeats: Timed forwards of each, alternately; at least 2, which quartiles need.
        """
        original, inputs = self.structure.model, self.structure.inputs
        before, after = measure_latency([original, self.module], inputs, repeats=repeats)
        return Measurement(
            latency_before=before,
            latency_after=after,
            peak_memory_before=measure_peak_memory(original, inputs),
            peak_memory_after=measure_peak_memory(self.module, inputs),
        )

    @checked()
    @outside_modes()
    def recover(
        self,
        images: Iterable[Any] | None = None,
        *,
        steps: int = 400,
        batches: Iterable[Any] | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        keys: Keys | None = None,
        progress: bool = True,
        seed: int = 0,
        resume: str | os.PathLike[str] | None = None,
    ) -> Recovery:
        """Teach the smaller network to answer as the original does; no labels are needed.

        The new bottleneck starts from a regression on what the removed part returned. Then the new
        weights alone, and soon all weights, are trained to give the original's outputs (of classes
        the logits and the probabilities that follow from them, of a regression the numbers). A part
        of the images is held back: the running average of the weights that matches best on it is
        kept, and training ends when it improves no more.

        Of a network that is frozen as a whole (``requires_grad=False`` everywhere, as deployed ones
        are) all weights of the variant are trained. Where only a part of the original is frozen,
        what the variant has of it stays as it is, but for tensors that are new or re-cut; the
        result names it as ``frozen``.

        ``module`` is changed in place, and its flags ``requires_grad`` stay as they are. The
        original is not changed, and when something fails or is interrupted, nor is the variant.
        Images are kept in memory, and the original's answers to them up to 512 MB.

        Args:
            images: Unlabelled images like those that the network is used on: a tensor (images,
                channels, *sizes), or batches of what the forward takes: a tensor, a tuple, or a
                mapping of its arguments by name. Of labelled batches the inputs are taken: of a
                tuple as many parts as the original was read with. Batches are read until they hold
                2.5 images for each step, and at least 64, so an endless generator will do; the
                result says how many were read and used. A fifth is held back, at most 32; the
                regression takes up to 32 others.
            steps: Steps of at most two images, of one batch (of as many as the forward was read
                with, where it takes no other number); more help where the held-back loss still
                falls at the end.
            batches: ``(inputs, targets)`` pairs, whose true targets are learned too.
            loss: ``loss(outputs, targets)``, a scalar tensor with a gradient, for these.
            keys: Where inputs and targets are in a batch of them, as for ``ablate``.
            progress: Show a progress bar.
            seed: Seed of everything that is drawn at random.
            resume: File that holds the state of the training, written at every look at what is
                held back. A training that was interrupted goes on from there, or begins anew if
                there was none; in another run, of a variant with the same new weights
                (``build(seed=0)``).

        Returns:
            The course, and the agreement with the original before and after.

        Raises:
            InputError: An argument cannot be used.
            ForwardError: The original's forward raises on the images.
            RecipeError: The variant was loaded, and the network that ``model_factory`` made has
                other weights than the original.
        """
        self._ask_for_the_original()
        return recover(
            self.structure,
            self.plan,
            self.module,
            self.reinitialized,
            self.dropped_outputs,
            images,
            steps=steps,
            batches=batches,
            loss=loss,
            keys=keys,
            progress=progress,
            seed=seed,
            resume=resume,
        )

    def _ask_for_the_original(self) -> None:
        """Refuse to imitate a network that only has the architecture of the original."""
        if self.origin is None:
            return
        name = type(self.structure.model).__name__
        remedy = (
            "load the variant with a factory that returns the trained network, "
            "load(path, lambda: model)"
        )
        if not self.origin:
            warnings.warn(
                f"the file of this variant does not say which weights the original had; recover "
                f"teaches it to answer as the {name} of model_factory does. Unless that is the "
                f"trained network, {remedy}",
                stacklevel=5,  # two frames are of the decorators
            )
        elif self.origin != weights_digest(self.structure.model):
            raise RecipeError(
                f"this variant was loaded, and the {name} that model_factory made has other "
                f"weights than the network that it was cut from; recover would teach it to answer "
                f"as that one does: {remedy}. To follow a network that was trained on since, cut "
                f"that one: analyze(model).proposals"
            )
