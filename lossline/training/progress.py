"""The progress line of a training run."""

from __future__ import annotations

from lossline.terminal import StatusLine, duration


class StepProgress(StatusLine):
    """Step, loss, rate and time left of a training run.

    Args:
        steps: of the whole run.
        **line: as `lossline.terminal.StatusLine`.
    """

    def __init__(self, *, steps: int, **line: object) -> None:
        super().__init__(**line)  # type: ignore[arg-type]
        self._steps = steps

    def show_step(
        self, step: int, *, loss: float, tokens_per_second: float | None, seconds_left: float | None
    ) -> None:
        """Show how far the run is; ``None`` for a rate that is not known yet."""
        last = step == self._steps
        parts = [f"step {step}/{self._steps}", f"loss {loss:.4f}"]
        if tokens_per_second:
            parts.append(f"{tokens_per_second:,.0f} tokens/s")
        if seconds_left is not None and not last:
            parts.append(f"{duration(seconds_left)} left")
        self.show("  ".join(parts), last=last)
