"""Seeing why: what layers cost, what they see, and what they make of an image that moves.

Functions that count and measure return plain numbers and arrays; each has a `plot_...` beside it that draws into a
matplotlib Axes and returns it. SciPy is needed by `conv_matrix` alone, matplotlib by the plots.
"""

from cnnkit.analysis.counting import (
    Savings,
    conv_parameters,
    dense_parameters,
    parameter_savings,
    possible_images,
    training_examples_needed,
)
from cnnkit.analysis.matrices import conv_matrix
from cnnkit.analysis.moving import changed_positions, equivariance_error, invariance_error
from cnnkit.analysis.pixels import neighbour_correlation, sobel
from cnnkit.analysis.plots import (
    plot_conv_matrix,
    plot_equivariance_error,
    plot_feature_maps,
    plot_invariance_error,
    plot_neighbour_correlation,
    plot_parameters,
    plot_receptive_field,
    plot_sobel,
    plot_summary,
    plot_training_examples,
)
from cnnkit.analysis.receptive import ReceptiveField, receptive_field
from cnnkit.analysis.sliding import Step, animate_slide, plot_slide, slide
from cnnkit.analysis.summaries import Summary, SummaryRow, summary
from cnnkit.analysis.tracing import FeatureMap, feature_maps

__all__ = [
    "FeatureMap",
    "ReceptiveField",
    "Savings",
    "Step",
    "Summary",
    "SummaryRow",
    "animate_slide",
    "changed_positions",
    "conv_matrix",
    "conv_parameters",
    "dense_parameters",
    "equivariance_error",
    "feature_maps",
    "invariance_error",
    "neighbour_correlation",
    "parameter_savings",
    "plot_conv_matrix",
    "plot_equivariance_error",
    "plot_feature_maps",
    "plot_invariance_error",
    "plot_neighbour_correlation",
    "plot_parameters",
    "plot_receptive_field",
    "plot_slide",
    "plot_sobel",
    "plot_summary",
    "plot_training_examples",
    "possible_images",
    "receptive_field",
    "slide",
    "sobel",
    "summary",
    "training_examples_needed",
]
