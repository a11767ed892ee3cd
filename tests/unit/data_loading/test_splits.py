"""Parts of a split: by whole groups, and under keys that count from 0."""

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from mf2.data_loading.splits import RowSubset, hold_out_groups

GROUPS = [name for name, count in zip("abcdefgh", (1, 9, 3, 4, 5, 2, 8, 8), strict=True) for _ in range(count)]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_a_part_is_of_whole_groups_and_as_large_as_asked(share, seed):
    rows = hold_out_groups(GROUPS, share, seed)
    inside = {GROUPS[row] for row in rows}
    assert not inside & {GROUPS[row] for row in np.setdiff1d(np.arange(len(GROUPS)), rows)}
    assert 0 < len(rows) < len(GROUPS) and (np.diff(rows) > 0).all()
    assert len(rows) >= share * len(GROUPS) or len(inside) == 7  # never all groups
    assert len(rows) < share * len(GROUPS) + 9  # no more than the largest group above


def test_the_seed_decides_which_groups():
    assert len({tuple(hold_out_groups(GROUPS, 0.2, seed)) for seed in range(10)}) > 3
    assert np.array_equal(hold_out_groups(GROUPS, 0.2, 1), hold_out_groups(GROUPS, 0.2, 1))


def test_one_group_cannot_be_divided():
    with pytest.raises(ValueError, match=r"All 4 rows are of one group \(x\).*--holdout_share 0"):
        hold_out_groups(["x"] * 4, 0.2, 0)


class Keys(Dataset):
    """Gives its keys; with `at_once`, of a batch in one call."""

    def __init__(self, at_once):
        self.calls = []
        if at_once:
            self.__getitems__ = self.read

    def read(self, keys):
        self.calls.append(len(keys))
        return [*keys]

    def __getitem__(self, key):
        return key


@pytest.mark.parametrize("at_once", [True, False])
def test_a_subset_asks_for_its_own_rows(at_once):
    data = Keys(at_once)
    subset = RowSubset(data, np.array([3, 5, 8]))
    assert len(subset) == 3 and subset[1] == 5 and subset[(7, 2)] == (7, 8)
    batches = DataLoader(subset, 2, sampler=[(1, 2), (1, 0), (1, 1)], collate_fn=list)
    assert list(batches) == [[(1, 8), (1, 3)], [(1, 5)]]
    assert data.calls == ([1, 1, 2, 1] if at_once else [])
