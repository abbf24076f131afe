"""Pages of planted domains: each domain has words of its own, and all share common words."""

import random

from lossline.corpora.deduplication import content_hash
from lossline.corpora.pools import Page

COMMON = [f"common{i}" for i in range(40)]


def page(text: str, domain: str = "a", id: str = "") -> Page:
    return Page(id=id or content_hash(text), domain=domain, text=text)


def text_of(topic: str, draw: random.Random, *, words: int = 120, own: float = 0.5) -> str:
    """Return words of which a share ``own`` belongs to the topic, some in a sentence."""
    return " ".join(
        f"{topic}{draw.randrange(60)}" if draw.random() < own else draw.choice(COMMON)
        for _ in range(words)
    )


def pool(topics: tuple[str, ...] = ("code", "bio", "law"), pages: int = 40, **kinds) -> list[Page]:
    draw = random.Random(0)
    return [
        page(text_of(topic, draw, **kinds), domain=topic) for topic in topics for _ in range(pages)
    ]
