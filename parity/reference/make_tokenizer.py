"""Trains the byte-pair vocabulary of the tiny model on the text below: writes `tiny-sd/tokenizer/`."""

import json
from collections import Counter

import regex

from common import TINY

MERGES = 400

TEXT = """
A portrait of mychar001, a young woman with short black hair and green eyes, smiling softly at the camera, soft window light, sharp focus, highly detailed face.
A photo of mychar001 as an old man with a white beard and round glasses, sitting under a tree in the park, reading a book, golden hour, shallow depth of field, film grain.
A close-up portrait of a girl with long red hair and freckles, wearing a blue dress, looking at the viewer, studio lighting, plain grey background, masterpiece, best quality.
A full body shot of a boy in a yellow raincoat and brown boots, walking through the rain in a narrow street at night, neon lights, reflections on the wet ground, cinematic lighting.
The same character stands in the kitchen, side view, wearing a red sweater, holding a cup of coffee, morning light, warm colors, realistic skin texture.
An oil painting of a queen with a golden crown, a dark green robe and pearl earrings, painted by a master, dramatic light, rich colors, fine brush strokes.
A cartoon face with big round eyes, a small nose and a wide open mouth, simple shapes, flat colors, bold black outline, white background.
A watercolor of a little cat and a brown dog who sleep beside the fire, cozy room, winter evening, snow falls outside of the window.
A knight in silver armor rides a white horse through the forest, fog, sun rays, epic scene, concept art, digital painting, trending, ultra detailed, 8k.
Low quality, worst quality, blurry, out of focus, bad anatomy, bad hands, extra fingers, missing arms, deformed, ugly, watermark, text, signature, jpeg artifacts, cropped.
He is happy, she is sad, they are angry; the child cries, the mother laughs, the father is surprised and the sister looks worried.
A photograph of a woman in a black leather jacket, standing on the bridge above the river, city skyline behind her, blue hour, wide angle, 35mm lens, bokeh.
Three quarter view of the hero, blonde hair in a ponytail, scar on the left cheek, brown leather belt, sword on the back, mountain landscape, cloudy sky.
Profile of a tall man with dark skin, short curly hair and a grey suit, in front of a brick wall, hard light from the right side, black and white photo.
The character doesn't look into the camera; it's a candid picture, the light's soft and the colors're muted, we've seen this place before, I'll go there and I'd stay, I'm sure.
A beautiful princess in a pink gown dances in the ballroom under a crystal chandelier, long flowing dress, elegant, detailed eyes, perfect face.
"""


def bytes_to_characters() -> tuple[list[str], dict]:
    """The 256 characters that stand for bytes, in CLIP's order (the printable bytes first), and the table from byte to character."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(rest)}
    return [table[byte] for byte in printable + rest], table


def words(text: str, table: dict) -> Counter:
    """Each word as a tuple of symbols, the last one with `</w>`, and how often it occurs."""
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    found = Counter()
    for word in pattern.findall(text.lower()):
        symbols = [table[byte] for byte in word.encode()]
        found[(*symbols[:-1], symbols[-1] + "</w>")] += 1
    return found


def merge(word: tuple, pair: tuple) -> tuple:
    out, at = [], 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append(word[at] + word[at + 1])
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def main() -> None:
    symbols, table = bytes_to_characters()
    corpus, merges = words(TEXT, table), []
    for _ in range(MERGES):
        pairs = Counter()
        for word, count in corpus.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        corpus = Counter({merge(word, best): count for word, count in corpus.items()})

    entries = symbols + [symbol + "</w>" for symbol in symbols] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(entries)) == len(entries)
    folder = TINY / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, text: (folder / name).write_text(text, encoding="utf-8")
    write("vocab.json", json.dumps({entry: at for at, entry in enumerate(entries)}, ensure_ascii=False, separators=(",", ":")) + "\n")
    write("merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write("special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False, "errors": "replace", **special}
    write("tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(entries) and tokenizer.eos_token_id == len(entries) - 1
    ids = tokenizer("a portrait of mychar001, wearing a blue dress, zebra ünïcödé 你好", padding="max_length", max_length=77).input_ids
    assert len(ids) == 77 and ids[0] == len(entries) - 2
    print(f"tokenizer: {len(entries)} entries; {tokenizer.convert_ids_to_tokens(ids[:24])}")


if __name__ == "__main__":
    main()
