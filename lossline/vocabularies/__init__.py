"""Vocabularies: bytes, SentencePiece, Hugging Face, tiktoken. Text to ids and back, exactly."""
