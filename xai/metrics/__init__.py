"""Measures of how good an explanation is: on tensors and callables only, without a model."""
