"""Operations of the models. Each has a reference next to its faster implementations.

Axis letters, used as suffixes of array names here and in ``lossline.models``:

- B batch, L length (positions), T tokens (B and L flattened)
- D width of the model, V vocabulary, F width of the MLP
- H query heads, G key/value heads, M query heads per key/value head, K width of a head
- E inner width of a state-space layer, N state size, R rank of the step-size projection, W taps of
  the convolution, P channels per state-space head
- Q positions of a chunk, C chunks
"""
