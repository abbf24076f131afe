"""Which runs differ in one factor alone: facts, factors, matched groups, nested factors."""
