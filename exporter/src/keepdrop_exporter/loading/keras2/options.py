"""What Keras 2 files have that Keras 3 does not: options of layers, and classes."""

from __future__ import annotations

from typing import Any

GONE = {
    "TFOpLambda": "a TensorFlow operation between layers",
    "SlicingOpLambda": "a slice between layers",
    "TensorFlowOpLayer": "a TensorFlow operation between layers",
    "LocallyConnected1D": "a layer that Keras 3 dropped",
    "LocallyConnected2D": "a layer that Keras 3 dropped",
    "ThresholdedReLU": "a layer that Keras 3 dropped",
    "ClassMethod": "a TensorFlow operation between layers",
    "InstanceMethod": "a TensorFlow operation between layers",
}
OF_THE_OPTIMIZATION_TOOLKIT = {
    "PruneLowMagnitude": "tfmot.sparsity.keras.strip_pruning(model) gives the same numbers without it",
    "QuantizeWrapper": "its rounding is part of a device's own kernels: give the model before quantize_model",
    "QuantizeWrapperV2": "its rounding is part of a device's own kernels: give the model before quantize_model",
    "QuantizeLayer": "its rounding is part of a device's own kernels: give the model before quantize_model",
    "QuantizeAnnotate": "give the model before quantize_annotate_model",
    "ClusterWeights": "tfmot.clustering.keras.strip_clustering(model) gives the same numbers without it",
}

ANY = object()
# Keys that Keras 3 does not know, with the value at which they change nothing; at another the file is refused.
KEYS: dict[str, Any] = {
    "time_major": False,
    "ragged": False,
    "renorm": False,
    "causal": False,
    "reverse_state_order": False,
    "virtual_batch_size": None,
    "adjustment": None,
    "groups": 1,
    "batch_input_shape": ANY,
    "input_length": ANY,
    "input_dtype": ANY,
    "fused": ANY,
    "renorm_clipping": ANY,
    "renorm_momentum": ANY,
    "query_shape": ANY,
    "key_shape": ANY,
    "value_shape": ANY,
    "implementation": ANY,
    "softmax_robust_masking": False,
    "noise_shape": None,
    "trainable": ANY,
    "kernel_initializer": ANY,
    "kernel_regularizer": ANY,
    "kernel_constraint": ANY,
}
_BY_DEPTH = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
_SPATIAL_DROPOUT = ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
# Those of them that other layers do know.
OF_SOME = {
    "groups": (*_BY_DEPTH, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    "ragged": ("InputLayer",),
    "noise_shape": _SPATIAL_DROPOUT,
    "trainable": _SPATIAL_DROPOUT,
    "kernel_initializer": _BY_DEPTH,
    "kernel_regularizer": _BY_DEPTH,
    "kernel_constraint": _BY_DEPTH,
}
ACTIVATION_NAMES = {"softmax_v2": "softmax", "swish": "silu"}
