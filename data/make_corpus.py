#!/usr/bin/env python3
"""Writes data/austen.jsonl.zst from the six novels as plain text files.

    python3 data/make_corpus.py DIR_WITH_THE_SIX_TXT_FILES

needs only the standard library and the `zstd` program. What it changes, and why, is in data/README.md. Running
it again on the same files gives the same bytes (zstd 1.5).
"""

import json
import pathlib
import re
import subprocess
import sys

TITLES = {  # in order of publication
    "sensesensibility": "Sense and Sensibility",
    "prideprejudice": "Pride and Prejudice",
    "mansfieldpark": "Mansfield Park",
    "emma": "Emma",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
}

# Words of later editors and printers, not Austen's: (regular expression, novel it must match once in).
NOT_AUSTEN = [
    (r"\n *A NOTE ON THE TEXT\n.*\Z", "northangerabbey"),
    (r" *\[End volume one of this edition\.[^\]]*\]\n", "mansfieldpark"),
    (r"\[At this point in the first and second editions, Volume 1 ends\.\]\n", "sensesensibility"),
    (r"\[At this point in the first and second editions, Volume II ended\.\]\n", "sensesensibility"),
]

HELD_OUT = 0.05


def unwrap(paragraph: str) -> str:
    """One line for prose; line by line where a line is indented (verse, signatures, addresses)."""
    lines = paragraph.split("\n")
    if any(line.startswith(" ") for line in lines[1:]):
        return "\n".join(line.strip() for line in lines)
    joined = lines[0].strip()
    for line in lines[1:]:
        # A dash at the end of a line continues without a space: "friendship--" + "and".
        glue = "" if joined.endswith("--") else " "
        joined += glue + line.strip()
    return joined


def clean(name: str, text: str) -> str:
    for pattern, novel in NOT_AUSTEN:
        if novel == name:
            text, count = re.subn(pattern, "\n", text, flags=re.DOTALL)
            assert count == 1, f"{name}: {pattern} matched {count} times"
    assert "\t" not in text and "\r" not in text
    paragraphs = [p for p in re.split(r"\n\s*\n", text.strip("\n")) if p.strip()]
    return "\n\n".join(re.sub(r"  +", " ", unwrap(p.strip("\n"))) for p in paragraphs) + "\n"


def split(text: str) -> tuple[str, str]:
    """Cuts at the paragraph boundary nearest to 95 % of the characters that does not follow a heading."""
    target = len(text) * (1 - HELD_OUT)
    cut = min((m.end() for m in re.finditer("[^\n]{40}\n\n", text)), key=lambda end: abs(end - target))
    return text[:cut].rstrip("\n") + "\n", text[cut:]


def main() -> None:
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).parent / "austen.jsonl.zst"
    lines = []
    for name, title in TITLES.items():
        train, valid = split(clean(name, (source / f"{name}.txt").read_text(encoding="utf-8")))
        for part, text in (("train", train), ("valid", valid)):
            lines.append(json.dumps({"title": title, "split": part, "text": text}, ensure_ascii=False))
        print(f"{title}: {len(train)} characters to train on, {len(valid)} held out", file=sys.stderr)
    raw = ("\n".join(lines) + "\n").encode()
    command = ["zstd", "-q", "-f", "--ultra", "-22", "-o", str(target)]
    subprocess.run(command, input=raw, check=True)
    print(f"{target.name}: {len(raw)} bytes, compressed {target.stat().st_size}", file=sys.stderr)


if __name__ == "__main__":
    main()
