"""Rules: defects of a row that are found without a model, each with a name, a sentence and a switch.

rule.py          what a rule is
view.py          the texts of a row, whatever its format, as the loader reads it
absent.py        nulls, empty turns, placeholders, lone addresses, media that is not there
residue.py       mojibake, markup, tokens of chat templates
answers.py       merged records, loops, refusals
personal.py      e-mail addresses and numbers of persons
size.py          rows too long for the model
registry.py      all rules by name, and which of them run
fingerprints.py  what is kept of a row to find its copies
copies.py        exact copies, and near copies by MinHash
"""

from finetune.data.rules.registry import ACROSS, FAULTS, RULES, chosen
from finetune.data.rules.rule import Rule
from finetune.data.rules.view import Texts, texts_of

__all__ = ["ACROSS", "FAULTS", "RULES", "Rule", "Texts", "chosen", "texts_of"]
