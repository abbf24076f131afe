"""What a gin file has bound, as gin text: for verbs that write a gin file which includes it."""

from __future__ import annotations


def bound_text(key: str) -> str:
    """Return the value of a binding as gin text, such as ``@main/product()``.

    It is read from the files that ``build_options`` parsed last.

    Args:
        key: the binding, such as "study.grid".

    Raises:
        ValueError: the key is not bound.
    """
    import gin

    return repr(gin.query_parameter(key))
