"""Figures: what is told of a prediction, by name: in files, in frames and in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from keepdrop.artifact.metadata import MEAN, MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE

if TYPE_CHECKING:
    from .prediction import Prediction

SAMPLES = "samples"


def statistics(
    prediction: Prediction,
    levels: tuple[float, ...],
    above: tuple[float, ...] = (),
    below: tuple[float, ...] = (),
) -> dict[str, NDArray[Any]]:
    """What is written of a prediction, by name.

    Mean, std, the intervals of `levels`; of class probabilities the top class, its probability and the entropies too;
    of a mean and its log-variance the parts of the variance; what was decided; and the samples if kept.

    Of a calibrated output of values the intervals are those of an observation, and the probabilities that it is above
    or below thresholds are written too; of calibrated classes the tempered probabilities and the label sets.
    """
    arrays = {"mean": prediction.mean, "std": prediction.std}
    kind = prediction.head.kind
    observes = prediction.is_calibrated and kind not in (SOFTMAX, SIGMOID)
    for level in levels:
        interval = prediction.observation.interval if observes else prediction.interval
        arrays[f"low_{level}"], arrays[f"high_{level}"] = interval(level)
    if kind in (VALUE, MEAN, MEAN_LOGVAR):
        arrays.update({f"above_{at:g}": prediction.observation.probability(above=at) for at in above})
        arrays.update({f"below_{at:g}": prediction.observation.probability(below=at) for at in below})
    elif prediction.is_calibrated:
        arrays["probability"] = prediction.observation.probability
        arrays.update({f"set_{level}": prediction.observation.label_set(level) for level in levels})
    if prediction.head.kind in (SOFTMAX, SIGMOID):
        arrays["top"], arrays["top_probability"] = prediction.top
        arrays["predictive_entropy"] = prediction.predictive_entropy
        arrays["mutual_information"] = prediction.mutual_information
    if prediction.head.kind in (MEAN, MEAN_LOGVAR):
        arrays["aleatoric"] = prediction.aleatoric
        arrays["epistemic"] = prediction.epistemic
        arrays["total"] = prediction.total
    if prediction.decision is not None:
        arrays["decision"] = prediction.decision
    if prediction.samples is not None:
        arrays[SAMPLES] = prediction.samples
    return arrays
