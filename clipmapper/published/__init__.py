"""The benchmarks of the papers on models that are not ours: perturbed ImageNet, segmentation, DETR, rationales."""
