#!/usr/bin/env python3
"""Writes MODEL_CARD.md: the text of card.md.in with the figures of verify.py and the facts of the training.

    python card.py                                                           # the shipped model's card, as it is
    python card.py --measured scratch/measured.json --facts scratch/facts.json --out scratch/command-en/MODEL_CARD.md

The text says what was done for the shipped weights, too: after another training read it again.
"""
import argparse
import json
import pathlib
import string

HERE = pathlib.Path(__file__).resolve().parent


def row(name, figures):
    name = name.strip().replace("(valid)", "(valid: half commands, half words)")
    return f"| {name} | {figures['clips']} | {figures['words']} | {figures['wer']:.1f} % | {figures['exact']:.0f} % |"


def fill(template, facts, measured):
    rates = {name: figures for name, figures in measured.items() if "wer" in figures}
    # verify.py indents the parts of a group.
    groups = [row(n, f) for n, f in rates.items() if not n.startswith("  ")]
    voices = [row(n, f) for n, f in rates.items() if n.startswith("  ")]
    silent, speech = measured["silence and noise"], measured["no-speech prob on speech"]
    stamped = measured["held-out voices, command, timestamp mode"]
    return string.Template(template).substitute(
        vocab=facts["vocab"], minutes=facts["minutes"], parameters=f"{facts['parameters']:,}", tokens=facts["tokens"],
        megabytes=f"{facts['bytes'] / 1e6:.1f}", clips=facts["clips"], hours=f"{facts['hours']:.1f}", steps=f"{facts['steps']:,}",
        fsdd_train=facts["fsdd_train"], windows=f"{facts['windows']:,}", groups="\n".join(groups), voices="\n".join(voices),
        empty=silent["empty"], silent=silent["clips"], silent_median=silent["median no-speech prob"],
        silent_lowest=silent["min"], speech_highest=speech["max"], speech_clips=speech["clips"],
        start_error=stamped["start_err_s"], end_error=stamped["end_err_s"], stamped=stamped["with_times"],
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--template", type=pathlib.Path, default=HERE / "card.md.in")
    parser.add_argument("--facts", type=pathlib.Path, default=HERE / "shipped/facts.json")
    parser.add_argument("--measured", type=pathlib.Path, default=HERE / "shipped/measured.json", help="from verify.py --json")
    parser.add_argument("--out", type=pathlib.Path, help="file to write instead of printing")
    args = parser.parse_args()
    card = fill(args.template.read_text(), json.loads(args.facts.read_text()), json.loads(args.measured.read_text()))
    if args.out:
        args.out.write_text(card)
    else:
        print(card, end="")


if __name__ == "__main__":
    main()
