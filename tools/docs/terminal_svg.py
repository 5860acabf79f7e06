#!/usr/bin/env python3
"""Turn what a command printed, colours included, into an SVG picture for the README.

    script -qec 'godctl demo --fast' /dev/null | tools/docs/terminal_svg.py --title 'godctl demo' > demo.svg

Lines that a program redrew (carriage return, or erase line) keep their last state. Standard library only.
"""

import argparse
import html
import re
import sys

COLOURS = ["#3b4252", "#bf616a", "#a3be8c", "#ebcb8b", "#81a1c1", "#b48ead", "#88c0d0", "#e5e9f0"]
CELL_W, CELL_H, PAD, BAR = 8.4, 18, 16, 34
SGR = re.compile(r"\x1b\[([0-9;]*)m")
OTHER = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhl]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]")


def final_lines(text):
    """What is left on each line after redrawing it, in the order of the lines."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        states = [part for part in re.split(r"\r|\x1b\[2K", line) if SGR.sub("", OTHER.sub("", part)).strip()]
        lines.append(OTHER.sub("", states[-1]) if states else "")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def spans(line, style):
    """The pieces of one line with one style each, and the style that the next line starts in."""
    pieces, at = [], 0
    for match in SGR.finditer(line):
        pieces.append((line[at : match.start()], dict(style)))
        at = match.end()
        codes = iter([int(c or 0) for c in match.group(1).split(";")])
        for code in codes:
            if code in (38, 48):
                # A colour of its own: 2;red;green;blue. Backgrounds are left out.
                rgb = [next(codes, 0) for _ in range(4)][1:]
                if code == 38:
                    style["fill"] = "#" + "".join(f"{part:02x}" for part in rgb)
            elif code == 0:
                style = {}
            elif code == 1:
                style["weight"] = "bold"
            elif code == 2:
                style["opacity"] = "0.55"
            elif code == 22:
                style.pop("weight", None), style.pop("opacity", None)
            elif 30 <= code <= 37 or 90 <= code <= 97:
                style["fill"] = COLOURS[code % 10]
            elif code == 39:
                style.pop("fill", None)
    pieces.append((line[at:], dict(style)))
    return [(text, s) for text, s in pieces if text], style


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--title", default="godctl")
    args = parser.parse_args()
    lines = final_lines(sys.stdin.read())
    width = max([40] + [len(SGR.sub("", line)) for line in lines]) * CELL_W + 2 * PAD
    height = len(lines) * CELL_H + BAR + 2 * PAD
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{html.escape(args.title)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#242933"/>',
        '<g fill="#4c566a"><circle cx="20" cy="18" r="5"/><circle cx="38" cy="18" r="5"/><circle cx="56" cy="18" r="5"/></g>',
        f'<text x="{width / 2:.0f}" y="22" fill="#8892a6" font-family="monospace" font-size="12" text-anchor="middle">{html.escape(args.title)}</text>',
        '<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#d8dee9" xml:space="preserve">',
    ]
    style = {}
    for row, line in enumerate(lines):
        pieces, style = spans(line, style)
        column = 0
        for text, look in pieces:
            attributes = "".join(
                f' {name}="{look[key]}"'
                for key, name in (("weight", "font-weight"), ("opacity", "opacity"), ("fill", "fill"))
                if key in look
            )
            x, y = PAD + column * CELL_W, BAR + PAD + (row + 0.75) * CELL_H
            out.append(
                f'<text x="{x:.1f}" y="{y:.1f}" textLength="{len(text) * CELL_W:.1f}"{attributes}>{html.escape(text)}</text>'
            )
            column += len(text)
    out += ["</g>", "</svg>"]
    print("\n".join(out))


if __name__ == "__main__":
    main()
