"""No teardown after an error in a run of several processes."""

from __future__ import annotations

from pytorch_lightning.strategies import Strategy


class NoTeardownAfterError(Strategy):
    """A strategy that leaves everything as it is after an error, of which the process ends anyway.

    Lightning moves the model to the CPU then, which waits for all that was started on the GPU: forever, if that is an
    operation together with a process that has ended. The error would never be reported.
    """

    _has_failed = False

    def on_exception(self, exception: BaseException) -> None:
        """Remember that there was an error."""
        self._has_failed = True
        super().on_exception(exception)

    def teardown(self) -> None:
        """Move everything to the CPU, unless there was an error."""
        if not self._has_failed:
            super().teardown()
