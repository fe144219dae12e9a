"""Compares our explainers with outputs of the published reference code: `python tests/golden/check.py FILE...`

One line for each method with its largest error, max|x - ref| / max|ref| for each sample and target, in float64 and in
float32; the exit status is 1 if one is above the tolerance or a method is unknown.
"""

import sys
from collections import defaultdict
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from golden import TOLERANCES, Case, Cases, Golden, error  # noqa: E402, F401
from single_stream import bert, clip, visualbert, vit  # noqa: E402
from two_streams import detr, lxmert  # noqa: E402

FAMILIES: dict[str, Cases] = {
    "ViTForImageClassification": vit,
    "BertForSequenceClassification": bert,
    "open_clip.model.CLIP": clip,
    "VisualBertForQuestionAnswering": visualbert,
    "LxmertForQuestionAnswering": lxmert,
    "DetrForObjectDetection": detr,
}


def check(path: Path) -> bool:
    """Prints the table of one file; False if a figure is off or a method unknown."""
    golden = Golden.load(path)
    print(f"{path.name}  {golden.model_class}")
    found = {dtype: compare(golden, dtype) for dtype in TOLERANCES}
    methods = dict.fromkeys(method for dtype in TOLERANCES for method in found[dtype])
    for method in methods:
        fits = all(fit for dtype in TOLERANCES for _, fit in found[dtype].get(method, []))
        figures = (max((off for off, _ in found[dtype].get(method, [])), default=None) for dtype in TOLERANCES)
        shown = " ".join(f"{'-' if figure is None else f'{figure:.1e}':>9}" for figure in figures)
        print(f"  {method:32} {shown}  {'ok' if fits else 'OFF'}")
    missing = [method for method in golden.methods() if method not in methods]
    for method in missing:
        print(f"  {method:32} UNKNOWN METHOD")
    return not missing and all(fit for dtype in TOLERANCES for cases in found[dtype].values() for _, fit in cases)


def compare(golden: Golden, dtype: torch.dtype) -> dict[str, list[tuple[float, bool]]]:
    """For each method the error of each of its tensors, and whether it is tolerable."""
    found = defaultdict(list)
    for case in FAMILIES[golden.model_class](golden, dtype):
        reference = golden.reference(case, dtype)
        if reference is not None:
            off = error(case, reference)
            found[case.method].append((off, off <= golden.limit(case, dtype)))
    return found


def main(names: list[str]) -> int:
    print(f"  {'method':32} {'float64':>9} {'float32':>9}")
    return 0 if all([check(Path(name)) for name in names]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
