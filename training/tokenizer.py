"""Trains a vocabulary for the text side if no published one is used: BERT's WordPiece with `[DEC]`."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from transformers import BertTokenizer, PreTrainedTokenizerBase

from mf2.processing_mf2 import DECODER_TOKEN, add_decoder_token

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", DECODER_TOKEN)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a lower-case WordPiece vocabulary on texts.

    It consists of the special tokens, every character, and the most frequent words; other words are split into
    characters. The result does not depend on the order of the texts or the process, unlike that of
    `tokenizers.WordPieceTrainer`, which breaks ties at random.

    Args:
        texts: captions; duplicates count once.
        vocab_size: maximum number of entries, special tokens included; characters are always included.
    """
    backend = BertTokenizer().backend_tokenizer
    counts: Counter[str] = Counter()
    for text in set(texts):
        normal = backend.normalizer.normalize_str(text)
        counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    characters = sorted(set("".join(counts)))
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    pieces += words[: max(0, vocab_size - len(pieces))]
    return add_decoder_token(BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}))


def vocabulary_fields(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The fields of `MF2Config` that depend on the tokenizer."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
