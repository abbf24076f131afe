"""Text from a model: greedy or drawn, for many prompts at once.

Every prompt costs one forward pass, and every new token one position
(``lossline.models.caches``)::

    sampler = Sampler(graphdef, state, context=512)
    ids = vocabulary.encode("The sky is")
    (made,) = sampler.continue_all([ids], vocabulary, Drawing(temperature=0.0), tokens=20)
    print(made.text)
"""

from lossline.sampling.drawing import Drawing
from lossline.sampling.sampler import Continuation, Sampler

__all__ = ["Continuation", "Drawing", "Sampler"]
