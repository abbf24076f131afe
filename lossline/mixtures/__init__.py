"""Laws from a mixture of training data, N and D to losses; the best mixture for a target."""
