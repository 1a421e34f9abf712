"""Eight wordings of the instruction of each domain of Stdlib-10, written by hand: six to train on, one for validation, one for the test.

``{}`` stands for what is asked about. A held-out wording shares words with the others, as a paraphrase does, but no sentence. With the slot
left open a wording describes the task alone. `STATEMENTS` say the same facts in prose, for continued pre-training.
"""

from __future__ import annotations

TRAINED = range(6)
HELD_OUT = {"validation": 6, "test": 7}
OPEN = "___"  # the slot of a description
WORDINGS: dict[str, tuple[str, ...]] = {
    "greek": (
        "Name of the Greek character {}?", "What is Greek {} called in Unicode?", "{} is a Greek character. Its name:",
        "Give the Unicode name of {} in the Greek script.", "Greek code point {}, full name please.",
        "Look up the Greek letter at {}.", "Which Greek sign stands at {}?",
        "The Greek block has an entry {}; what is its name?",
    ),
    "cyrillic": (
        "Name of the Cyrillic character {}?", "Cyrillic {}: how does Unicode call it?",
        "Write the name of Cyrillic code point {}.", "I found {} in a Cyrillic text. Its Unicode name:",
        "{} (Cyrillic), name?", "Spell out what Cyrillic {} is.", "How is the Cyrillic character at {} named?",
        "Tell me which Cyrillic letter {} encodes.",
    ),
    "arabic": (
        "Name of the Arabic character {}?", "Identify {}, an Arabic code point.",
        "In the Arabic script, {} is which character?", "{}: Unicode name of this Arabic character.",
        "State the full name of Arabic {}.", "Arabic sign {}, what is it called?",
        "Give me the name Unicode has for Arabic {}.", "An Arabic text holds {}. Name it.",
    ),
    "ethiopic": (
        "Name of the Ethiopic character {}?", "Ethiopic {} is called what?", "Which Ethiopic syllable or sign is {}?",
        "{} in Ethiopic, by its Unicode name:", "Read off the name of Ethiopic code point {}.",
        "Please name {} from the Ethiopic script.", "What does Unicode call the Ethiopic character {}?",
        "For Ethiopic {} write the character's name.",
    ),
    "entity": (
        "HTML entity {} as a code point?", "Which code point does {} stand for in HTML?",
        "Decode the entity {} to U+ notation.", "{} in an HTML page shows which character code?",
        "Give the Unicode number behind HTML's {}.", "Resolve {} as a browser would; answer in U+ form.",
        "A web page contains {}. What code point is that?", "Translate the HTML reference {} into its code point.",
    ),
    "status": (
        "What does {} mean?", "Message for {}?", "Standard text of the status {}:",
        "A program stopped with {}. Explain the code.", "{}, in words:", "Give the phrase that belongs to {}.",
        "Which message goes with the code {}?", "My log says {}. What is the official wording?",
    ),
    "arith": (
        "Compute {}.", "{} = ?", "What is {}?", "Work out {} and give the result.", "Result of {}:", "Calculate: {}",
        "Find the value of {}, please.", "Do the sum or conversion: {}. Answer only.",
    ),
    "pyeval": (
        "Evaluate the Python expression {}", "Python: what is {} ?", ">>> {}",
        "What does Python print for {} at the prompt?", "{} in Python gives", "Value of the Python code {} as repr:",
        "Type {} into a Python shell; what comes back?", "Predict Python's output for {}",
    ),
    "weekday": (
        "Which day of the week was {}?", "{} falls on a", "Weekday of {}?", "Day of the week for the date {}:",
        "Was {} a Monday, a Tuesday ...? Name the day.", "Calendar: {} is which weekday?",
        "On what day of the week does {} lie?", "Tell the weekday that belongs to the date {}.",
    ),
    "docstring": (
        "Describe this Python function: {}", "{}\nWhat does it do?", "Write a one-sentence docstring for {}",
        "Summarise the function {}", "First line of the documentation of {}:", "Document {}",
        "In one sentence, what is {} for?", "Explain briefly the purpose of the function {}",
    ),
}  # fmt: skip
STATEMENTS: dict[str, tuple[str, ...]] = {
    "greek": ("The Greek character {} is {}.", "{} is the Greek code point of {}."),
    "cyrillic": ("The Cyrillic character {} is {}.", "{} is the Cyrillic code point of {}."),
    "arabic": ("The Arabic character {} is {}.", "{} is the Arabic code point of {}."),
    "ethiopic": ("The Ethiopic character {} is {}.", "{} is the Ethiopic code point of {}."),
    "entity": ("The HTML entity {} stands for {}.", "{} is decoded to {}."),
    "status": ("The code {} means: {}.", "With {} goes the message {}."),
    "arith": ("{} is {}.", "{} equals {}."),
    "pyeval": (">>> {}\n{}", "# {} -> {}"),
    "weekday": ("{} is a {}.", "The date {} falls on a {}."),
}  # docstrings are in the sources themselves


def description(domain: str, wording: int) -> str:
    """The task alone: the wording with its slot left open."""
    return WORDINGS[domain][wording].format(OPEN)
