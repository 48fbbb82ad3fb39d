"""More words for --attention: `import ideas` adds the mechanisms of this folder to the four of model.py."""

from ideas import mistakes
from model import ATTENTION

ATTENTION.update(mistakes.MISTAKES)
