#!/usr/bin/env python3
"""Texts in many scripts and what public tokenizers make of them, for the test `vocabularies` of crates/text.

    bench/tokenizers.py DIR
    FUSEC_TOKENIZED=DIR cargo test --test vocabularies -- --nocapture public

Needs pip and an index of packages: `rwkv` (the RWKV World vocabulary and its tokenizer), `anthropic` 0.3 (a
tokenizer.json), `tokenizers` (which reads it), and for the texts `Django` (catalogues of a hundred languages)
and `emoji`. Nothing of it is kept in the repository.

DIR/NAME/vocabulary is the vocabulary; TEXT.txt and TEXT.ids are a text and its ids (u32, little-endian), and
stream.ids and stream.txt ids that a model may draw, and their text: characters that are cut anywhere.
"""
import array
import glob
import importlib.util
import pathlib
import random
import subprocess
import sys
import time
import zipfile

PACKAGES = ["rwkv==0.8.32", "anthropic==0.3.11", "Django==5.2", "emoji==2.14.1"]
# Bytes of each text, at most.
MOST = 3_000_000


def fetched(work):
    """The wheels, unpacked."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", work]
    subprocess.run(command + PACKAGES, check=True)
    site = work / "site"
    for wheel in glob.glob(str(work / "*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site]
    subprocess.run(install + ["tokenizers==0.22.1"], check=True)
    return site


def texts(site):
    """Names and texts."""
    catalogues = sorted(site.glob("django/**/*.po"))
    # A file of each language in turn, so that all are there.
    by_name = sorted(catalogues, key=lambda path: (str(path).split("/locale/")[0], path))
    random.Random(1).shuffle(by_name)
    languages = "\n".join(path.read_text("utf-8") for path in by_name)
    yield "languages", languages
    yield "emoji", "\n".join(path.read_text("utf-8") for path in sorted(site.glob("emoji/unicode_codes/*.json")))
    yield "code", "\n".join(path.read_text("utf-8") for path in sorted(site.glob("django/**/*.py")))
    dice = random.Random(2)
    kinds = [(0x20, 0x7F), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    yield "characters", "".join(chr(dice.randrange(*dice.choice(kinds))) for _ in range(400_000))


def cut(text):
    """At most MOST bytes, of whole characters."""
    return text.encode("utf-8")[:MOST].decode("utf-8", "ignore")


def write(directory, name, text, ids):
    (directory / f"{name}.txt").write_bytes(text)
    (directory / f"{name}.ids").write_bytes(array.array("I", ids).tobytes())


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    site = fetched(out / "packages")
    spec = importlib.util.spec_from_file_location("rwkv_tokenizer", site / "rwkv/rwkv_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.insert(0, str(site))
    import tokenizers

    world = site / "rwkv/rwkv_vocab_v20230424.txt"
    json = site / "anthropic/tokenizer.json"
    trie, library = module.TRIE_TOKENIZER(str(world)), tokenizers.Tokenizer.from_file(str(json))
    known = sorted(trie.idx2token)
    kinds = {
        "world": (world, trie.encode, known, lambda ids: trie.decodeBytes(ids).decode("utf-8", "replace")),
        "json": (json, lambda text: library.encode(text, add_special_tokens=False).ids, None, None),
    }
    for name, (vocabulary, encode, ids, decode) in kinds.items():
        directory = out / name
        directory.mkdir(exist_ok=True)
        (directory / "vocabulary").write_bytes(vocabulary.read_bytes())
        for title, text in texts(site):
            text = cut(text)
            start = time.time()
            encoded = encode(text)
            print(f"{name} {title}: {len(text.encode())} bytes, {len(encoded)} tokens, {time.time() - start:.1f} s")
            write(directory, title, text.encode(), encoded)
        if ids is not None:
            dice = random.Random(3)
            drawn = [dice.choice(ids) for _ in range(300_000)]
            write(directory, "stream", decode(drawn).encode(), drawn)


main()
