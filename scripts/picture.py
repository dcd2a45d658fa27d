"""Draw what a command prints in a terminal as an SVG: the README's picture.

python scripts/picture.py docs/run.svg gpunet train penguins
"""

import argparse
import io
import os
import pty
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 100


def output_of(command: list[str]) -> str:
    """All that a command writes to a terminal of WIDTH columns, its last screen lines kept."""
    chunks: list[bytes] = []

    def read(descriptor: int) -> bytes:
        chunk = os.read(descriptor, 65536)
        chunks.append(chunk)
        return chunk

    os.environ.update(COLUMNS=str(WIDTH), LINES="40", TERM="xterm-256color")
    pty.spawn(command, read)
    return b"".join(chunks).decode()


def last_frames(text: str) -> str:
    """Without the frames that a live display has overwritten."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        kept = line.split("\r")[-1]
        lines.append(kept.replace("\x1b[2K", "").replace("\x1b[?25h", "").replace("\x1b[?25l", ""))
    return "\n".join(line for line in lines if line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("svg", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    text = last_frames(output_of(given.command))
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text(f"$ {' '.join(map(os.path.basename, given.command))}"))
    console.print(Text.from_ansi(text))
    svg = console.export_svg(title="gpunet", theme=MONOKAI)
    fonts = svg[svg.index("@font-face") : svg.rindex("}", 0, svg.index(".terminal")) + 1]
    given.svg.write_text(svg.replace(fonts, ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
