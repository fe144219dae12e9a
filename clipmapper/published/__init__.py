"""The benchmarks of the papers under their former name; they are `clipmapper.evaluation.papers` now."""
