"""Prompts of any length: CLIP encodes chunks of 75 tokens, and the UNet attends to the states of all chunks."""

from ..tokenizer import CLIPTokenizer
from .emphasis import sections

SIZE = 75  # without the start and the end token
LOOK_BACK = 20

Tokens = list[tuple[int, float]]  # ids and their weights


def weighted_tokens(tokenizer: CLIPTokenizer, prompt: str) -> Tokens:
    """The chunks of a prompt, concatenated, each with a start and an end token and padded to 77."""
    comma = tokenizer.vocab.get(",</w>")
    chunks: list[Tokens] = []
    for section in sections(prompt):
        tokens = [(token, weight) for text, weight in section for token in tokenizer.bpe.encode(text).ids]
        chunks += split(tokens, comma) or [[]]
    if len(chunks) > 1 and not chunks[-1]:  # BREAK was the last word
        chunks.pop()
    return [token for chunk in chunks for token in framed(tokenizer, chunk)]


def split(tokens: Tokens, comma: int | None) -> list[Tokens]:
    """Chunks of at most 75 tokens. As in web interfaces, a full chunk ends after a comma if one is among its last 20 tokens."""
    chunks = []
    while len(tokens) > SIZE:
        cut = SIZE
        if tokens[SIZE][0] != comma:
            cut = next((i for i in range(SIZE, SIZE - LOOK_BACK, -1) if tokens[i - 1][0] == comma), SIZE)
        chunks.append(tokens[:cut])
        tokens = tokens[cut:]
    return [*chunks, tokens] if tokens else chunks


def framed(tokenizer: CLIPTokenizer, chunk: Tokens) -> Tokens:
    """At most 75 tokens → 77, with start, end and padding tokens of weight 1."""
    padding = [(tokenizer.pad_id, 1.0)] * (SIZE - len(chunk))
    return [(tokenizer.start_id, 1.0), *chunk, (tokenizer.end_id, 1.0), *padding]
