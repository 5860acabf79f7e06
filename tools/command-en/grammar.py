#!/usr/bin/env python3
"""The vocabulary of the voice-command model and the sentences it is trained and tested on.

Three kinds of sentence: commands from the hand-written grammar below, random sequences of vocabulary words (so that
the model also learns the words the grammar seldom says), and digit or NATO strings. `random.Random` in, text out.

    python grammar.py               # a few sentences of each kind, and whether the grammar leaves the vocabulary

The order of the lists matters: a seed stands for the same corpus only as long as nothing in here moves.
"""
import argparse
import random

COMMAND_VERBS = """start stop pause resume open close show hide run build test deploy review fix explain refactor create
delete rename replace approve reject mute unmute record transcribe summarize translate save load export import filter clear
update restart kill watch inspect check copy move remove add merge reset refresh select list edit write read publish install
upgrade archive restore sync debug monitor commit push pull cancel continue find search play skip""".split()
LONE_VERBS = """stop pause resume continue cancel undo redo mute unmute join leave approve reject next previous up down left
right yes no okay please zoom scroll back forward enter escape confirm repeat help wait thanks hello goodbye quit exit retry
accept listen sleep wake speak""".split()
NOUNS = """agent session prompt dashboard tray space speaker listener audio microphone model server event error warning log
metric queue message bus file folder function class module test branch repository project database cache parser bug issue
request documentation readme main release version status report summary meeting note task timer terminal window panel tab
screen command code script service worker container config setting token key user team channel room call host client network
port endpoint stream transcript recording voice volume language word line page table column row list menu button link image
video history plan goal budget cost result output input change diff patch commit build deploy pipeline job workflow package
library dependency plugin tool hook rule schema template memory context thread process signal alert graph chart map tree node
cluster backup snapshot ticket review feature comment type""".split()
NAMES = "claude gemini codex tonny computer".split()
AGENTS = NAMES[:3]
ADJECTIVES = """last first second third new old current next previous active failed running open closed empty big small slow
fast broken local remote public private main default whole entire other same best final broken quiet loud""".split()
CONNECTIVES = """the a this that it all every in on of to for with and or from into my your me us what where when who how is
are was not now then again here there at by after before until without about as more less today tomorrow tonight do does can
you i we they hey god control any some only go many set ask out tell""".split()
DIGITS = "zero one two three four five six seven eight nine".split()
NUMBERS = DIGITS + """ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty
fifty sixty seventy eighty ninety hundred thousand""".split()
NATO = """alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo
sierra tango uniform victor whiskey xray yankee zulu""".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
UNITS = "second seconds minute minutes hour hours day days week weeks month".split()
PLURALS = """agents sessions prompts events errors warnings logs metrics messages files folders functions classes modules
tests branches issues requests notes tasks speakers windows tabs users changes comments results recordings alerts jobs
commits""".split()

VOCABULARY = sorted(
    {*COMMAND_VERBS, *LONE_VERBS, *NOUNS, *NAMES, *ADJECTIVES, *CONNECTIVES, *NUMBERS, *NATO, *DAYS, *MONTHS, *UNITS, *PLURALS}
)

# Words whose usual spelling a synthesiser reads wrongly, and what to hand to it instead.
SPOKEN = {
    "readme": ["reed me"],
    "xray": ["x ray"],
    "codex": ["code x"],
    "config": ["con-fig"],
    "tonny": ["tony", "tonnie"],
    "endpoint": ["end point"],
    "unmute": ["un mute"],
    "schema": ["skeema"],
}


def spoken(text, r=None):
    """What the synthesiser is given. Where there are two ways to say a word `r` draws one; without it, the first."""
    ways = (SPOKEN.get(word, [word]) for word in text.split())
    return " ".join(r.choice(w) if r else w[0] for w in ways)


# ---- commands ---------------------------------------------------------------------------------------------------
# {name} stands for a word of LISTS or a phrase of PHRASES; {a|b c|d {name}} for one of the alternatives, each of which
# may be empty. All alternatives are filled in before one is drawn.

LISTS = {
    "verb": COMMAND_VERBS,
    "lone verb": LONE_VERBS,
    "noun": NOUNS,
    "name": NAMES,
    "agent": AGENTS,
    "adjective": ADJECTIVES,
    "digit": DIGITS,
    "nato": NATO,
    "day": DAYS,
    "month": MONTHS,
    "unit": UNITS,
    "plural": PLURALS,
    "noun or nato": NOUNS + NATO,
    "nato or noun": NATO + NOUNS,
    "hour": NUMBERS[1:13],
    "one to nineteen": NUMBERS[1:20],
    "two to twenty": NUMBERS[2:21],
    "amount": NUMBERS[1:24],
}

COMMANDS = [
    "{verb} {thing}",
    "{verb} {thing}",
    "{verb} {thing} {when}",
    "{verb} {thing} and {verb} {it|{thing}}",
    "please {verb} {thing}",
    "can you {verb} {thing}",
    "{verb} {thing} {in|on|for|with|from|into|to} {thing}",
    "show me {thing}",
    "{what|where|who} is {thing}",
    "what is the status of {thing}",
    "how many {plural} are {open|running|failed|active|closed|new}",
    "list all {plural} {in|from|on|with} {thing}",
    "open {thing} in a new {window|tab|panel|terminal|space}",
    "go to {thing}",
    "ask {agent} to {verb} {thing}",
    "run the {test|build|deploy|script|pipeline|workflow|backup} {|again|now|on main|without the cache|in the container}",
    "commit {the changes|all files|this|the patch} and push {it|to main|the branch|to {nato}}",
    "merge {the pull request|the branch|branch {nato}|pull request {number}} into {main|release|my branch}",
    "{review|close|open|approve|reject|merge|show} pull request {number}",
    "{fix|close|open|explain|show} {issue|bug|ticket|task|error} {number}",
    "explain {this|that|the} {error|function|class|code|line|diff|test|log|warning}",
    "refactor the {noun} {module|function|class|parser}",
    "write a {test|function|report|summary|note|message|comment|readme|script|plan} {for|about|with} {thing}",
    "start a {timer|meeting|session|recording|call} {for {duration}|with {name}|now|}",
    "start a new {agent} {session|agent|prompt|task|window}",
    "{start|stop|pause|resume} {the or recording} {recording|transcript|microphone|listener|stream|agent}",
    "{mute|unmute} {the microphone|my microphone|all speakers|speaker {digit}|me}",
    "{join|leave|host|open} {the|a|my} {space|room|meeting|call|channel} {|{nato}|now}",
    "{summarize|translate|transcribe|save|export} the {meeting|call|transcript|recording|session|note|message}",
    "scroll {up|down|left|right}",
    "move {up|down|left|right|back|forward} {one to nineteen} {tabs|files|tasks}",
    "{next|previous|last|first} {noun}",
    "{zoom or search}",
    "find every {noun} in {thing}",
    "replace {noun or nato} with {noun or nato}",
    "rename {thing} to {nato or noun}",
    "{yes|no|okay|please} {lone verb}",
    "{lone verb}",
    "set the {volume|timer|budget|port|cache|database} to {number}",
    "filter the {events|logs|errors|messages|tasks|metrics} by {agent|session|project|user|type|status}",
    "deploy {version|release} {digit} {digit} to {main|local|remote}",
    "is the {noun} {running|broken|slow|open|closed|empty|active}",
    "do not {verb} {thing}",
]
WAKE_WORDS = [
    "hey tonny", "hey tonny", "computer", "god control", "god control", "hey claude", "hey gemini", "hey codex",
    "hey computer", "tonny",
]


def alternatives(template):
    """Splits at the bars outside of nested braces."""
    depth, piece, out = 0, "", []
    for c in template:
        depth += (c == "{") - (c == "}")
        if c == "|" and depth == 0:
            out.append(piece)
            piece = ""
        else:
            piece += c
    return out + [piece]


def fill(template, r):
    """One sentence of a template."""
    out, rest = "", template
    while "{" in rest:
        before, _, rest = rest.partition("{")
        depth, n = 1, 0
        while depth:
            depth += (rest[n] == "{") - (rest[n] == "}")
            n += 1
        inside, rest = rest[: n - 1], rest[n:]
        out += before + slot(inside, r)
    return out + rest


def slot(inside, r):
    options = alternatives(inside)
    if len(options) > 1:
        return r.choice([fill(o, r) for o in options])
    if inside in LISTS:
        return r.choice(LISTS[inside])
    return PHRASES[inside](r)


def number(r):
    """A number of up to four digits in words; short ones as often as long ones."""
    n = r.choice([r.randint(0, 20), r.randint(0, 99), r.randint(0, 999), r.randint(0, 9999)])

    def tens(n):
        if n < 20:
            return NUMBERS[n]
        return NUMBERS[18 + n // 10] + ("" if n % 10 == 0 else " " + DIGITS[n % 10])

    def hundreds(n):
        if n < 100:
            return tens(n)
        joint = "" if n % 100 == 0 else " " + ("and " if r.random() < 0.3 else "") + tens(n % 100)
        return DIGITS[n // 100] + " hundred" + joint

    if n < 1000:
        return hundreds(n)
    return hundreds(n // 1000) + " thousand" + ("" if n % 1000 == 0 else " " + hundreds(n % 1000))


def thing(r):
    """A noun phrase."""
    noun = r.choice(NOUNS)
    kind = r.randint(0, 9)
    if kind == 6:
        return f"{noun} {number(r) if r.random() < 0.4 else r.choice(DIGITS)}"
    template = [
        "the NOUN",
        "the NOUN",
        "the {adjective} NOUN",
        "{my|your|this|that|a|every|any} NOUN",
        "the NOUN {noun}",
        "all {|the |my }{plural}",
        None,
        "NOUN {nato}",
        "the {agent} {agent|session|prompt|window|model|log|queue|context|task}",
        "the last {two to twenty} {plural}",
    ][kind]
    return fill(template.replace("NOUN", noun), r)


PHRASES = {
    "thing": thing,
    "number": number,
    "duration": lambda r: fill("{amount} {unit}", r),
    "when": lambda r: fill(
        "{in {duration}|on {day}|now|again|tomorrow|tonight|today|please|on {month} {one to nineteen}|at {hour}|after the {noun}"
        "|before {day}|for {duration}}",
        r,
    ),
    "the or recording": lambda r: fill("{recording|the}", r) if r.random() < 0.3 else "the",
    "zoom or search": lambda r: fill("{zoom in|zoom out}" if r.random() < 0.3 else "search for {thing}", r),
}


def command(r):
    text = fill(r.choice(COMMANDS), r)
    if r.random() < 0.22:
        text = r.choice(WAKE_WORDS) + " " + text
    if r.random() < 0.06:
        text += " please"
    return " ".join(text.split()[:14])


# ---- everything else --------------------------------------------------------------------------------------------


def words(r):
    count = r.choice([1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9])
    return " ".join(r.choice(VOCABULARY) for _ in range(count))


def digits(r):
    count = r.randint(1, 7)
    pool = DIGITS if r.random() < 0.8 else NATO
    return " ".join(r.choice(pool) for _ in range(count))


def sentence(r):
    """(kind, text), in the shares of the training corpus."""
    kind = r.random()
    if kind < 0.55:
        return "command", command(r)
    if kind < 0.93:
        return "words", words(r)
    return "digits", digits(r)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40, help="sentences to print")
    args = parser.parse_args()
    r = random.Random(args.seed)
    said = {word for _ in range(20_000) for word in command(r).split()}
    print(len(VOCABULARY), "words; the grammar's words outside of them:", sorted(said - set(VOCABULARY)) or "none")
    for _ in range(args.count):
        print(*sentence(r), sep="\t")


if __name__ == "__main__":
    main()
