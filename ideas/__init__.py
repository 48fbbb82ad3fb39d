"""More words for --attention: `import ideas` adds the mechanisms of this folder to the four of model.py."""

from ideas import ablations, difference, mistakes
from model import ATTENTION

ATTENTION.update(ablations.ABLATIONS | difference.DIFFERENCES | mistakes.MISTAKES)
