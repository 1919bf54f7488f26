"""What a file may ask for, so that none costs more than a block of memory and some seconds.

A few bytes of a file can ask for much: one byte of a pickle makes a list, two of JSON as well. The
largest networks have some ten thousand tensors, and an optimiser's state makes them three times as
many. Every limit here lets at least 200,000 pass, in the old format of torch 100,000, and was
chosen by what they take (`tests/reliability/test_limits.py`), with what junk of the same size takes
beside it.
"""

from __future__ import annotations

# steps of a pickle; a tensor takes 30 to 40
MOST_STEPS = 10_000_000
# the same where a description is read twice, as in the format from before torch 1.6
MOST_STEPS_TWICE = 5_000_000
# in front of it
MOST_STEPS_BEFORE = 1000
# bytes, about, of all that a pickle builds; a tensor takes some 950
MOST_BUILT = 224 << 20
# begun and unfinished at the same time; Python's own pickler gives up before
MOST_BEGUN = 10_000
# bytes of a text or number; a longer one is stepped over, and kept as what it is
LONGEST_TEXT = 4096
# bytes of the header of a safetensors file, or of an index; a tensor takes some 100
LARGEST_HEADER = 48_000_000
# bytes, about, of all that a header describes; a tensor takes some 1050
MOST_DESCRIBED = 208 << 20
# bytes of the directory of a zip archive; a record takes 46 and its name
LARGEST_DIRECTORY = 16 << 20
MOST_TENSORS = 250_000
# axes of all of them, eight of each; a tensor of 64 axes takes as much as three others
MOST_AXES_OF_ALL = 2_000_000
# that hold something
MOST_CONTAINERS = 100_000
# of the names of all of them
MOST_LETTERS = 64 << 20
# without a limit, deep nesting would cost memory in its square
LONGEST_NAME = 4096
# views may share numbers, but reading must not cost many times what the file holds
MOST_VIEWS = 16


class TooMuchError(ValueError):
    """A file asks for more than any checkpoint needs; the text says of what."""
