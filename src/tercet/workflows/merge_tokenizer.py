"""The tokenizer of a merge written into its folder, and the settings that depend on it."""

from __future__ import annotations

__all__ = ["write_tokenizer"]

import json
import shutil
from pathlib import Path

from tercet.checkpoint.paths import inside, read_json_object
from tercet.merging.planning import MergePlan
from tercet.merging.tokenizer_file import token_ids

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# Other ways to write the same vocabulary, which a changed one leaves untrue.
_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "unigram.json",
)
_IDS = ("pad", "bos", "eos", "cls", "sep", "mask", "unk", "decoder_start")


def write_tokenizer(plan: MergePlan, folder: Path) -> None:
    """The files of the tokenizer that the recipe asks for, in place of the donor's.

    Files that say the vocabulary in other words (vocab.txt, sentencepiece.bpe.model ...) go where it changed,
    but for vocab.txt, which is written anew; config.json gets the number of rows and the owner's special
    tokens.
    """
    wanted, donor = plan.vocabulary, plan.donor
    if wanted is None:
        return
    target, owner = folder / donor.encoder_path, wanted.owner
    if owner.folder != donor.folder:
        for name in (*_FILES, *_VOCABULARIES):
            (target / name).unlink(missing_ok=True)
            source = inside(owner.folder, f"{owner.encoder_path}/{name}".lstrip("/"), said_by=name)
            if source.is_file():
                shutil.copyfile(source, target / name)
    if wanted.content is not None:
        text = json.dumps(wanted.content, indent=2, ensure_ascii=False)
        (target / "tokenizer.json").write_text(text, encoding="utf-8")
        had_lines = (target / "vocab.txt").is_file()
        for name in (*_VOCABULARIES, "added_tokens.json"):
            (target / name).unlink(missing_ok=True)
        if had_lines and wanted.content["model"].get("type") == "WordPiece":
            ids = token_ids(wanted.content)
            tokens = sorted(ids, key=ids.__getitem__)
            if [ids[token] for token in tokens] == list(range(len(tokens))):
                lines = "".join(f"{token}\n" for token in tokens)
                (target / "vocab.txt").write_text(lines, encoding="utf-8")
    path = target / "config.json"
    if not path.is_file():
        return
    config = read_json_object(path)
    before = dict(config)
    if wanted.rows is not None and "vocab_size" in config:
        config["vocab_size"] = wanted.rows
    for key in (f"{name}_token_id" for name in _IDS):
        if key in owner.config:
            config[key] = owner.config[key]
    if config != before:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
