"""Vocabularies from ``tokenizer.json`` files (Hugging Face tokenizers library)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lossline.errors import UserError
from lossline.vocabularies import tokenizer_json
from lossline.vocabularies.library_vocabulary import LibraryVocabulary
from lossline.vocabularies.specs import HuggingFace, Normalization, default_name, drop_remedy
from lossline.vocabularies.tokenizer_words import split_of
from lossline.vocabularies.vocabulary import METASPACE

EOS_TOKENS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|end▁of▁sentence|>", "[EOS]")
PAD_TOKENS = ("<|padding|>", "<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HuggingFaceVocabulary(LibraryVocabulary):
    """Vocabulary from a ``tokenizer.json``.

    Supports byte-level files (GPT-2, NeoX, Llama 3) and byte-fallback files (Llama 2). BPE dropout
    and Unigram sampling are switched off.

    Special added tokens have no text: if a document contains the name of a special token, the name
    is tokenized as ordinary text. Added tokens that are not special match wherever their text
    occurs.

    Args:
        spec: path of the file and options.

    Raises:
        UserError: the file is not a valid ``tokenizer.json``, has no eos token, or changes text.
    """

    def __init__(self, spec: HuggingFace) -> None:
        self._spec = spec
        description = exact_description(spec)
        self._replaced_texts = tokenizer_json.replaced_texts(description)
        self._tokenizer = _build(description, spec.path)
        self._metaspace = not _is_byte_level(description)
        pieces = _pieces(self._tokenizer, description, byte_level=not self._metaspace)
        byte_ids = {piece: i for i, piece in enumerate(pieces) if len(piece) == 1}
        self._metaspace_ids = [byte_ids.get(bytes([b])) for b in METASPACE.encode()]
        self._notation = _notation(self._tokenizer, description, byte_level=not self._metaspace)
        name = spec.name or default_name(spec.path)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        eos = _find(vocabulary, spec.eos_token, EOS_TOKENS)
        if eos is None:
            raise UserError(
                f"vocabulary {name}: {spec.path} has no eos token "
                f"{spec.eos_token or 'with a well-known name'}. Set huggingface.eos_token."
            )
        pad = _find(vocabulary, spec.pad_token, PAD_TOKENS)
        if pad is None and spec.pad_token:
            raise UserError(
                f"vocabulary {name}: {spec.path} has no pad token {spec.pad_token!r}. Set "
                "huggingface.pad_token."
            )
        pad = eos if pad is None else pad
        canonical = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
        super().__init__(
            name=name,
            kind="huggingface",
            pieces=pieces,
            eos_id=eos,
            pad_id=pad,
            content=hashlib.sha256(canonical).hexdigest(),
        )
        self._keep_words(split_of(description))

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        if self._notation and any(map(self._notation.search, texts)):
            return [self._encode_around_notation(text, self._notation) for text in texts]
        return self._ids(texts)

    def _is_encoded_apart(self, text: str) -> bool:
        return self._notation is not None and self._notation.search(text) is not None

    def _probes(self) -> list[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        texts = [*self._replaced_texts, *(token.content for token in added if not token.special)]
        return [*super()._probes(), *(f"a  {text}  b{text}c" for text in texts)]

    def remedy(self) -> str:
        """Return how to make the vocabulary lossless, as a sentence of an error message."""
        return drop_remedy(self._spec, type(self)) or super().remedy()

    def _encode_around_notation(self, text: str, notation: re.Pattern[str]) -> list[int]:
        """Encode the parts between matches of ``notation``; encode a metaspace as its bytes."""
        cuts = [(0, 0), *(match.span() for match in notation.finditer(text)), (len(text), 0)]
        parts = self._ids([text[start:stop] for (_, start), (stop, _) in pairwise(cuts)])
        ids = list(parts[0])
        for (start, stop), part in zip(cuts[1:-1], parts[1:], strict=True):
            # A match of length 1 is a metaspace; a match of length 0 only splits the text.
            ids += [i for i in self._metaspace_ids if stop > start and i is not None]
            ids += part
        return ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"vocabulary {self.name} (huggingface) has no token for some text ({error}). "
                f"{self.remedy()}"
            ) from error
        return [encoding.ids for encoding in encodings]


def exact_description(spec: HuggingFace) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` without what does not represent the text.

    A post-processor adds special tokens; truncation and padding change the number of tokens.
    Token ids must represent the text and nothing else, so all three are removed.

    Raises:
        UserError: the file is not a ``tokenizer.json``.
    """
    description = tokenizer_json.read(spec.path)
    tokenizer_json.switch_off_sampling(description)
    description.update(post_processor=None, truncation=None, padding=None)
    specials = {spec.eos_token, spec.pad_token, *EOS_TOKENS, *PAD_TOKENS}
    for added in tokenizer_json.added_tokens(description):
        added["special"] = added.get("special") or added.get("content") in specials
    if spec.normalization is Normalization.DROP:
        tokenizer_json.drop_text_changes(description)
    return description


def _build(description: dict[str, Any], path: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"vocabulary: {path} cannot be read by the tokenizers library: {error}. Give a valid "
            "tokenizer.json."
        ) from error
    # The name of a special token inside a document, such as "<|endoftext|>", is ordinary text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _is_byte_level(description: dict[str, Any]) -> bool:
    def mentions(step: Any) -> bool:
        if isinstance(step, dict):
            return step.get("type") == "ByteLevel" or any(map(mentions, step.values()))
        return isinstance(step, list) and any(map(mentions, step))

    return any(mentions(description.get(key)) for key in ("pre_tokenizer", "decoder", "normalizer"))


def _pieces(tokenizer: Any, description: dict[str, Any], *, byte_level: bool) -> list[bytes]:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values()) + 1)
    characters = byte_characters()
    unknown = description["model"].get("unk_token")
    for token, token_id in vocabulary.items():
        byte = _BYTE_PIECE.fullmatch(token)
        if token == unknown:
            continue
        if byte_level:
            pieces[token_id] = bytes(characters[c] for c in token if c in characters)
        elif byte:
            pieces[token_id] = bytes.fromhex(byte.group(1))
        else:
            pieces[token_id] = _plain(token).encode()
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        # An added token with ``normalized`` is matched after normalization, where a space is
        # written as a metaspace; _plain() restores the space.
        matched = added.content if byte_level or not added.normalized else _plain(added.content)
        pieces[token_id] = b"" if added.special else matched.encode()
    return pieces


def _plain(token: str) -> str:
    return token.replace(METASPACE, " ")


def _notation(
    tokenizer: Any, description: dict[str, Any], *, byte_level: bool
) -> re.Pattern[str] | None:
    """Return the pattern at which a text is split before encoding, or None.

    Split points keep the text from matching the tokenizer's internal names:

    * At a metaspace: it is encoded as its UTF-8 bytes, because the tokenizer uses it for a space.
    * For Unigram models also after the first character of the name of a special token or of a byte
      piece (``<0x41>``): a Unigram matches these names in text like ordinary pieces.
    """
    places = [] if byte_level else [METASPACE]
    if description["model"].get("type") == "Unigram":
        added = tokenizer.get_added_tokens_decoder().values()
        names = [token.content for token in added if token.special]
        names += [] if byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
        names += [tokenizer.id_to_token(description["model"].get("unk_id") or 0) or ""]
        rests: dict[str, list[str]] = {}
        for name in filter(lambda name: len(name) > 1, names):
            rests.setdefault(re.escape(name[0]), []).append(re.escape(name[1:]))
        places += [f"(?<={first})(?={'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(places)) if places else None


def _find(vocabulary: dict[str, int], wanted: str, known: Sequence[str]) -> int | None:
    candidates = [wanted] if wanted else known
    return next((vocabulary[token] for token in candidates if token in vocabulary), None)


def byte_characters() -> dict[str, int]:
    """Return GPT-2's table from printable character to the byte that it represents.

    Source: openai/gpt-2, ``encoder.py``, ``bytes_to_unicode``.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table
