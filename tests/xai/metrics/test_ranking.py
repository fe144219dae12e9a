import torch

from xai.metrics.ranking import expected_hits, random_relevance, removal_rank, token_noise


def everything(relevance: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(relevance, dtype=torch.bool)


def test_the_most_relevant_token_goes_first() -> None:
    relevance = torch.tensor([[0.1, 0.9, -0.5, 0.3]])
    rank = removal_rank(relevance, everything(relevance), token_noise(torch.tensor([7]), 4))
    assert rank.tolist() == [[2, 0, 3, 1]]


def test_tokens_that_stay_come_last_however_relevant() -> None:
    relevance = torch.tensor([[9.0, -1.0, -2.0, 9.0]])
    removable = torch.tensor([[False, True, True, False]])
    rank = removal_rank(relevance, removable, token_noise(torch.tensor([7]), 4))
    assert rank[0, 1:3].tolist() == [0, 1]


def test_ties_are_broken_evenly_and_by_the_sample_alone() -> None:
    samples = torch.arange(4000)
    relevance = torch.zeros(4000, 4)
    rank = removal_rank(relevance, everything(relevance), token_noise(samples, 4))
    for token in range(4):
        share = torch.bincount(rank[:, token], minlength=4) / 4000
        assert (share - 0.25).abs().max() < 0.03
    part = samples[[3999, 17]]
    alone = removal_rank(relevance[:2], everything(relevance[:2]), token_noise(part, 4))
    assert torch.equal(alone, rank[part])
    other = removal_rank(relevance, everything(relevance), token_noise(samples, 4, seed=1))
    assert 0.2 < (other[:, 0] == rank[:, 0]).float().mean() < 0.3


def test_methods_share_the_ties_of_a_sample() -> None:
    relevance = torch.zeros(3, 5, 6)
    rank = removal_rank(relevance, everything(relevance[0]), token_noise(torch.arange(5), 6))
    assert torch.equal(rank[0], rank[2])
    assert rank.sort(dim=-1).values.tolist() == [[list(range(6))] * 5] * 3


def test_noise_is_splitmix64() -> None:
    """Against arithmetic modulo 2 ** 64 on Python's own integers."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    expected = [[mix((mix((mix(3) + sample) % 2**64) + place) % 2**64) for place in range(5)] for sample in (0, 12345)]
    found = token_noise(torch.tensor([0, 12345]), 5, seed=3)
    assert [[value % 2**64 for value in row] for row in found.tolist()] == expected


def test_random_relevance_is_uniform_and_differs_between_seeds() -> None:
    drawn = random_relevance(torch.arange(500), 20, seeds=[0, 1])
    assert drawn.shape == (2, 500, 20)
    assert (drawn.mean(dim=(1, 2)) - 0.5).abs().max() < 0.01
    assert drawn.min() >= 0 and drawn.max() < 1
    assert torch.corrcoef(drawn.flatten(1))[0, 1].abs() < 0.05
    assert torch.equal(random_relevance(torch.tensor([42]), 20, seeds=[1])[0, 0], drawn[1, 42])


def test_hits_of_a_fractional_k() -> None:
    relevance = torch.tensor([[3.0, 2.0, 1.0]])
    truth = torch.tensor([[1.0, 0.5, 0.0]])
    hits = expected_hits(relevance, truth, torch.tensor([1.5]), everything(relevance))
    assert hits.tolist() == [1.25]
