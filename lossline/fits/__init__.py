"""From a loss table to a folder of results: all lines, laws, held-out predictions and verdicts.

``fitting`` fits everything, ``results`` holds it as one object, ``files`` writes and reads it.
"""

from lossline.fits.files import load_results
from lossline.fits.fitting import TableFitOptions, fit_table
from lossline.fits.results import TableFit

__all__ = ["TableFit", "TableFitOptions", "fit_table", "load_results"]
