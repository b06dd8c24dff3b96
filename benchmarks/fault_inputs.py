"""Damages and hostile values for `benchmarks.fault_campaign`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat", "dog")

TOKENS = (
    *("null", "true", "no", "nan", ".inf", "-1", "0", "1e400", "010", "0x", "0b2", "1_000", "1:30"),
    *("''", '"', "'", "[", "]", "{", "}", "[[[]]]", "{a: 1}", "[1, 2", "- x", ":", "::", "#", "%"),
    *(
        "!!int abc",
        "!!python/object:os.system ls",
        "2026-02-30",
        "&a [*a]",
        "*b",
        "<<: 1",
        "|",
        ">",
    ),
    *("é", "é", "日本", "\u202e", "\ufeff", "a\tb", "a/b", "..", ".", "/", "~", "a" * 300),
    *("../" * 40, "/dev/null", "/dev/zero", "/proc/self/mem", "9" * 5000, "[" * 3000, "x" * 20000),
    *("4294967296", "-0.0", "1.5", "1e3", "12e03", "$HOME", "`id`", "%s%n", "{0.__class__}"),
)


ENTRIES = (
    *("train", "test", "val", "extra", "labels.csv", "metadata.jsonl", "classes.yaml", "README"),
    *("__MACOSX", "@eaDir", ".hidden", "x" * 250, "a b", "é", "e\u0301", "nan", "0", "-rf", "*"),
    *("CON", "a\nb", "a\\b", "'", '"', "x.jpg", "x.png", "x.parquet", "x.tar", "\udc80"),
)


def hostile_value(rng: random.Random) -> str:
    """A value that tends to break readers."""
    return rng.choice(
        (*TOKENS, "\0", "a\nb", "\udc80", str(rng.random()), str(rng.getrandbits(70)))
    )


def damaged_text(rng: random.Random, text: str) -> tuple[bytes, str]:
    """A text file's bytes after one to three damages, and what they were."""
    damages = []
    data = text
    for _ in range(rng.randint(1, 3)):
        lines = data.split("\n")
        line = rng.randrange(len(lines))
        damage = rng.choice(["line twice", "no line", "token", "insert", "cut", "value", "swap"])
        damages.append(damage)
        if damage == "line twice":
            lines.insert(rng.randrange(len(lines)), lines[line])
        elif damage == "no line":
            del lines[line]
        elif damage == "token":
            words = lines[line].split(" ")
            words[rng.randrange(len(words))] = hostile_value(rng)
            lines[line] = " ".join(words)
        elif damage == "insert":
            place = rng.randint(0, len(lines[line]))
            lines[line] = lines[line][:place] + hostile_value(rng) + lines[line][place:]
        elif damage == "cut":
            lines = lines[: line + 1]
            lines[-1] = lines[-1][: rng.randint(0, len(lines[-1]))]
        elif damage == "value":
            lines[line] = lines[line].partition(":")[0] + ": " + hostile_value(rng)
        else:
            other = rng.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        data = "\n".join(lines)
    encoding = rng.choice(["utf-8"] * 12 + ["utf-16", "latin-1", "utf-8-sig"])
    return data.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass"), str(
        [encoding, *damages]
    )


def damaged_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A file's bytes after a damage, and what it was."""
    damage = rng.choice(
        [
            "flip",
            "flip",
            "flip early",
            "cut",
            "empty",
            "zeros",
            "page",
            "pointer",
            "double",
            "noise",
        ]
    )
    if damage in ("flip", "flip early") and data:
        place = rng.randrange(len(data) if damage == "flip" else min(200, len(data)))
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed), f"{damage} at {place} of {len(data)}"
    if damage == "cut":
        return data[: rng.randint(0, len(data))], damage
    if damage == "zeros":
        place = rng.randint(0, len(data))
        return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :], damage
    if damage == "page":
        return b"<!DOCTYPE html><html><body>Sign in</body></html>", damage
    if damage == "pointer":
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", damage
    if damage == "double":
        return data + data, damage
    if damage == "noise":
        return rng.randbytes(rng.randint(1, 500)), damage
    return b"", "empty"


def photographs(root: Path, per_class: int = 8) -> Path:
    """Class folders of small images of random pixels, each with other bytes."""
    draws = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def hostile_folder(rng: random.Random, root: Path) -> str:
    """Class folders with entries of other kinds among them; returns what was put there."""
    photographs(root)
    done = []
    for _ in range(rng.randint(1, 4)):
        place = rng.choice([root, root / rng.choice(CLASSES)])
        name = rng.choice(ENTRIES)
        kind = rng.choice(["folder", "copy", "file", "fifo", "loop", "broken", "locked", "sparse"])
        path = place / name
        done.append(f"{kind} {str(path.relative_to(root))[:40]!r}")
        try:
            if kind == "folder":
                path.mkdir()
            elif kind == "copy":
                photographs(path, rng.randint(1, 3))
            elif kind == "file":
                path.write_bytes(rng.choice([b"", b"x", b"path,label\n", b"{}", b"\xff\xfe"]))
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "loop":
                path.symlink_to(place)
            elif kind == "broken":
                path.symlink_to(place / "nowhere")
            elif kind == "locked":
                photographs(path, 1)
                path.chmod(0)
            else:
                path.touch()
                os.truncate(path, 400 << 30)
        except OSError as error:
            done[-1] += f" ({error.strerror})"
    return ", ".join(done)
