"""Discrete codes and few bits in place of real numbers."""

from graphkit.nn.quantize.codebook import (
    CodebookLayer,
    codebooks,
    codebooks_off,
    codes_blocked,
    codes_forced,
    unwrap_codebooks,
    wrap_codebooks,
)
from graphkit.nn.quantize.fixed_point import (
    BinaryQuantizer,
    DynamicFixedPointQuantizer,
    FixedPointQuantizer,
    FullPrecision,
    MixedQuantizer,
    Quantizer,
    TernaryQuantizer,
    make_quantizer,
    pack_bits,
    saturation_rates,
    unpack_bits,
)
from graphkit.nn.quantize.straight_through import (
    Choice,
    straight_through,
    straight_through_choice,
    straight_through_clamp,
    straight_through_mixture,
    straight_through_round,
    straight_through_sign,
)
from graphkit.nn.quantize.uniform import UniformQuantizedModel, uniform_quantize
from graphkit.nn.quantize.vector import VectorQuantizer, VQOutput, code_scores, kmeans

__all__ = [
    "BinaryQuantizer",
    "Choice",
    "CodebookLayer",
    "DynamicFixedPointQuantizer",
    "FixedPointQuantizer",
    "FullPrecision",
    "MixedQuantizer",
    "Quantizer",
    "TernaryQuantizer",
    "UniformQuantizedModel",
    "VQOutput",
    "VectorQuantizer",
    "code_scores",
    "codebooks",
    "codebooks_off",
    "codes_blocked",
    "codes_forced",
    "kmeans",
    "make_quantizer",
    "pack_bits",
    "saturation_rates",
    "straight_through",
    "straight_through_choice",
    "straight_through_clamp",
    "straight_through_mixture",
    "straight_through_round",
    "straight_through_sign",
    "uniform_quantize",
    "unpack_bits",
    "unwrap_codebooks",
    "wrap_codebooks",
]
