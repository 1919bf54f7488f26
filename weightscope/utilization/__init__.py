"""Numbers -> scores, ranking, verdicts: which stages a network uses, and how sure that is."""

from weightscope.utilization.ablated import AblationResult, LevelAblation
from weightscope.utilization.ablation import ablate, ablate_levels
from weightscope.utilization.data import DataEvidence, Importance, gather_data
from weightscope.utilization.ranking import assess
from weightscope.utilization.records import Assessment, Score, StageVerdict
from weightscope.utilization.scores import utilization

__all__ = [
    "AblationResult",
    "Assessment",
    "DataEvidence",
    "Importance",
    "LevelAblation",
    "Score",
    "StageVerdict",
    "ablate",
    "ablate_levels",
    "assess",
    "gather_data",
    "utilization",
]
