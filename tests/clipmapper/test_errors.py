"""The name that is suggested, and an error's own words."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clipmapper.errors import nearest, told

KNOWN = ("optimizer.lr", "optimizer.warmup_steps", "trainer.gradient_clip_val", "data.batch_size", "yes", "model.read")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("optimizer.learning_rate", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("model.lr", "optimizer.lr"),
        ("data.bs", "data.batch_size"),
        ("optimizer.warmup", "optimizer.warmup_steps"),
        ("trainer.clip_gradient", "trainer.gradient_clip_val"),
        ("yess", "yes"),
        ("zzz", None),
    ],
)
def test_names_are_compared_by_letters_words_and_initials(name: str, expected: str | None) -> None:
    assert nearest(name, iter(KNOWN)) == expected


def test_of_nothing_nothing_is_near() -> None:
    assert nearest("yes", ()) is None


class Failing(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> torch.Tensor:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ValueError("shard.arrow: row 3 is damaged\nbuild it again") from cause


@pytest.mark.parametrize("workers", [0, 1])
def test_the_words_of_an_error_of_another_process(workers: int) -> None:
    with pytest.raises(ValueError) as caught:
        next(iter(DataLoader(Failing(), num_workers=workers)))
    assert told(caught.value) == "shard.arrow: row 3 is damaged\nbuild it again"
