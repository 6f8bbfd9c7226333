"""Where the command keeps compiled programs: a folder of one's own, or nowhere."""

import os
import stat

import pytest

from jaxrl.cache import keep_programs

NAME = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(NAME, "")
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_it_is_made_for_its_user_alone(home):
    keep_programs()
    folder = os.environ[NAME]
    assert folder.startswith(str(home / ".cache" / "jaxrl"))
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_one_that_is_named_stays(home, monkeypatch):
    monkeypatch.setenv(NAME, "elsewhere")
    keep_programs()
    assert os.environ[NAME] == "elsewhere" and not list(home.iterdir())


def test_one_that_others_can_write_is_not_used(home):
    """What is in it is run."""
    keep_programs()
    os.chmod(os.environ.pop(NAME), 0o770)
    keep_programs()
    assert NAME not in os.environ


def test_without_a_place_there_is_none(home):
    (home / ".cache").write_text("a file")
    keep_programs()
    assert NAME not in os.environ
