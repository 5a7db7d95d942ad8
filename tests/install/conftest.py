"""What the tests of `install` share."""

import os

import pytest

from fresh_environment import Environment


@pytest.fixture(scope="module")
def shared_environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture
def environment(shared_environment):
    """One environment for all tests, each of which finds it as it was made."""
    yield shared_environment
    if os.path.exists(shared_environment.pth):
        os.unlink(shared_environment.pth)
    os.chmod(shared_environment.site, 0o755)
