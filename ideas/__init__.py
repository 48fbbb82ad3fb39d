"""More words for --attention: `import ideas` adds the mechanisms of this folder to the four of model.py."""

from ideas.ablations import ABLATIONS
from ideas.bounded import BOUNDED
from ideas.denominator import DENOMINATORS
from ideas.difference import DIFFERENCES
from ideas.lambdas import LAMBDAS
from ideas.mistakes import MISTAKES
from ideas.mixing import MIXTURES
from ideas.outputs import OUTPUTS
from ideas.positions import POSITIONS
from ideas.retrofit import RETROFITS
from ideas.selection import SELECTIONS
from ideas.steps import STEPS
from model import ATTENTION

ALL = ABLATIONS | BOUNDED | DENOMINATORS | DIFFERENCES | LAMBDAS | MISTAKES | MIXTURES
ALL |= OUTPUTS | POSITIONS | RETROFITS | SELECTIONS | STEPS
ATTENTION.update(ALL | ATTENTION)  # where model.py has one of these names, its own counts
