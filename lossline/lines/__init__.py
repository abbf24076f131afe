"""Loss-to-loss lines: how the loss on one set follows the loss on another.

Path of a line: ``groups`` splits a table into groups of runs, ``specimens`` enumerates the lines to
fit and pairs their losses, ``estimators`` estimates the shifted power law, ``fitting`` returns it
as a ``Line``. ``extrapolation`` and ``heldout`` predict runs that were left out of the fit,
``translation`` carries a law of scale from one training set to another, ``published_line`` is the
published procedure, as a baseline. ``rolling_cuts`` fits lines to smaller runs and predicts the
later ones; ``calibration`` sizes prediction intervals by these errors, ``fans`` sizes bands.
"""

from lossline.lines.fitting import Line, LineOptions, fit_lines

__all__ = ["Line", "LineOptions", "fit_lines"]
