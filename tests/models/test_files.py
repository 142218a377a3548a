import pytest

from spikefold.errors import InputError
from spikefold.files import atomic_path


def test_file_appears_whole(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert not (tmp_path / "a.txt").exists()
    assert [(e.name, e.read_text()) for e in tmp_path.iterdir()] == [("a.txt", "new")]


def test_failure_leaves_the_old_file_and_no_rest(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write()
    assert [(e.name, e.read_text()) for e in tmp_path.iterdir()] == [("a.txt", "old")]


def test_folder_as_target_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is a folder"), atomic_path(tmp_path):
        pass
