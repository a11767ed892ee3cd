"""Language models that give one and the same answer, made in a second without a network.

    python tiny_models.py transformers FOLDER ANSWER    a LLaVA checkpoint that takes images
    python tiny_models.py gguf FILE ANSWER              a text model for llama.cpp

The answer is a few tokens of the vocabulary. The weights are set by hand: attention and MLP add nothing, so that what
follows depends on the last token alone: the beginning of the answer after any token of others, the end after its last.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, HEADS, CONTEXT, PIECE = 32, 1, 32768, 24
PAD, BOS, EOS, UNKNOWN, IMAGE = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def pieces_of(answer: str) -> list[str]:
    """The tokens of the answer; llama-cpp-python shows none above 32 bytes."""
    return [answer[start : start + PIECE] for start in range(0, len(answer), PIECE)]


def vocabulary(answer: str) -> list[str]:
    """The special tokens, one token a byte, and those of the answer, by their numbers."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + k) for k, byte in enumerate(others)}
    return [*SPECIAL, *(letters[byte] for byte in range(256)), *pieces_of(answer)]


def answering_weights(num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(num_tokens, HIDDEN) input embeddings and output layer: any token -> the answer, piece by piece -> the end."""
    embeddings, output = np.zeros((2, num_tokens, HIDDEN), np.float32)
    first = len(SPECIAL) + 256
    embeddings[:first, 0] = 1
    for place, token in enumerate(range(first, num_tokens)):
        embeddings[token, place + 1] = 1
        output[token, place] = 10
    output[SPECIAL.index(EOS), num_tokens - first] = 10
    return embeddings, output


def write_checkpoint(folder: Path, answer: str) -> None:
    """A LLaVA checkpoint with its processor."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    tokens = vocabulary(answer)
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens[: len(SPECIAL) + 256])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces_of(answer)])
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, extra_special_tokens={"image_token": IMAGE}, chat_template=TEMPLATE
    )
    sizes: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1}
    vision = CLIPVisionConfig(**sizes, num_attention_heads=HEADS, image_size=28, patch_size=14, projection_dim=HIDDEN)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = LlamaConfig(
        **sizes, **ids, vocab_size=len(tokens), num_attention_heads=HEADS, max_position_embeddings=CONTEXT
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL.index(IMAGE),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config)
    embeddings, output = map(torch.from_numpy, answering_weights(len(tokens)))
    with torch.no_grad():
        language = model.model.language_model
        language.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.copy_(output)
        for layer in language.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_gguf(path: Path, answer: str) -> None:
    """The same language model for llama.cpp, without eyes."""
    import gguf

    tokens = vocabulary(answer.replace(" ", "\u0120"))  # a space in the byte alphabet
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{tokens[len(SPECIAL)]} {tokens[len(SPECIAL) + 1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    embeddings, output = answering_weights(len(tokens))
    square, ones = np.zeros((HIDDEN, HIDDEN), np.float32), np.ones(HIDDEN, np.float32)
    tensors = {"token_embd": embeddings, "output": output, "output_norm": ones}
    tensors |= {f"blk.0.{name}_norm": ones for name in ("attn", "ffn")}
    squares = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors |= {f"blk.0.{name}": square for name in squares}
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    kind, target, text = sys.argv[1:]
    {"transformers": write_checkpoint, "gguf": write_gguf}[kind](Path(target), text)
