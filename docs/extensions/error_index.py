"""The directive ``error-index``: every kind of sentence in the table of tests/test_mistakes.py, with one example."""

import re
import sys
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

TESTS = Path(__file__).parents[2] / "tests"
NAMED = 4  # functions of a kind that are listed; of more there is the number
VALUE = re.compile(r"""'[^']*'|array\(.*\)|\([^()]*\)|\[.*\]|\b(?:None|True|False|nan|inf)\b|-?\b\d[\w.-]*""")
DTYPE = re.compile(r"\b(?:b?float|u?int|complex)\d+\b|\bbool\b|\bobject\b|\ba (?:list|float|str)\b")


def setup(app):
    app.add_directive("error-index", ErrorIndex)
    return {"parallel_read_safe": True}


class ErrorIndex(SphinxDirective):
    """Markdown tables, one for each type of error."""

    def run(self):
        sys.path.insert(0, str(TESTS))
        from test_mistakes import GOOD, MISTAKES

        self.env.note_dependency(str(TESTS / "test_mistakes.py"))
        names = {name for arguments in GOOD.values() for name in arguments} | {"out"}
        kinds = collect(MISTAKES, names)
        return self.parse_text_to_nodes("\n".join(lines(kinds, names)), allow_section_headings=True)


def collect(mistakes, arguments):
    """``{(error, kind): (first sentence, [functions])}``, a kind being the sentence without what differs by call."""
    kinds = {}
    for function, rows in mistakes.items():
        for _, error, sentence in rows:
            key = error.__name__, kind(sentence, {*arguments, *mistakes})
            functions = kinds.setdefault(key, (sentence, []))[1]
            if function not in functions:
                functions.append(function)
    return kinds


def kind(sentence, names):
    """The sentence with … for values and names, ¤ for dtypes."""
    words = re.compile(rf"\b(?:{'|'.join(sorted(names, key=len, reverse=True))})\b(?: of shape)?")
    for pattern, mark in ((VALUE, "…"), (DTYPE, "¤"), (words, "…")):
        sentence = pattern.sub(mark, sentence)
    return re.sub(r"([…¤])(?:(?:, | or | |=|: )\1)+|along \w", r"\1", sentence)


def lines(kinds, arguments):
    for error in sorted({error for error, _ in kinds}):
        yield from (f"## {error}", "", "| for example | said by |", "| --- | --- |")
        of_error = [value for (name, _), value in kinds.items() if name == error]
        for sentence, functions in sorted(of_error, key=lambda row: (-len(row[1]), row[0])):
            yield f"| `{sentence}` | {said_by(functions)} |"
        yield ""


def said_by(functions):
    shown = ", ".join(f"{{py:func}}`~cnnkit.{name}`" for name in functions[:NAMED])
    return shown if len(functions) <= NAMED else f"{shown} and {len(functions) - NAMED} more"
