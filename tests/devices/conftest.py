"""The fixtures of the tests of one run."""

from tests.training.conftest import start

__all__ = ["start"]
