"""How the losses of single tokens change during training: slopes, four classes, excess loss.

Source: Lin, Gou et al., "Rho-1: Not All Tokens Are What You Need" (arXiv 2404.07965), section 2.1
and equation 6. Needs per-token losses as arrays; knows no model and no store.
"""
