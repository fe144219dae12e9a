"""How good an explanation is: tensors and callables only, no model."""
