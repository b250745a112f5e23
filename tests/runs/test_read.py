"""Reading the files of a run that a stranger may have written."""

import pytest

from cvrnet.errors import UserError
from cvrnet.runs.read import read_folds


@pytest.mark.parametrize("folds", [10**9, 0, -1, True, "3", 2.5, None, [1]])
def test_a_strangers_number_of_folds_is_checked(tmp_path, folds):
    with pytest.raises(UserError, match="folds; expected a whole number from 1 to 10,000"):
        read_folds(tmp_path, {"folds": folds})


def test_the_folders_of_the_folds(tmp_path):
    assert [folder.name for folder in read_folds(tmp_path, {"folds": 3})] == ["fold-1", "fold-2", "fold-3"]
