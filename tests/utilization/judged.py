"""Judge outputs that are there already."""

import torch

from weightscope.calls import only_tensor
from weightscope.utilization.judging import judge_by
from weightscope.utilization.metrics import ImageValues


def measure_quality(metric, outputs, targets, *, ignore_index=None):
    """Quality of batches of outputs, which can be resampled over images."""
    first = only_tensor(outputs[0])
    judge = judge_by(
        metric,
        [(None, target) for target in targets],
        dimensions=max(first.dim() - 2, 1),
        device=first.device,
        ignore_index=ignore_index,
    )
    meter = judge.meter()
    with judge.kept(), torch.no_grad():
        for output in outputs:
            meter.add(output)
        quality = meter.quality()
        if isinstance(quality, ImageValues) and not quality.known.any():
            for output in outputs:
                judge.add(output)
            return judge.whole()
    return quality
