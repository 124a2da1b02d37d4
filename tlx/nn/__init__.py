"""Floor 2: the parts of a layer, each a Linen module or a pure function chosen by its config.

Names of arrays end in their shape, one letter a dim: `x_BTD` is [batch, query length, model width]. A digit
is a dim of that size. This is the one legend; tests/test_language.py holds every name to it.

    B  batch (rows)
    T  query length, positions of a row
    S  key length
    M  memory length (tokens of the windows before)
    D  model width
    N  query heads
    G  key/value heads
    H  head size
    F  feed-forward width
    V  vocabulary size
    L  layers
    X  experts
    E  embedding size of the token table
    P  predicted positions
    R  relative distances
    C  classes
    K  choices, beams or experts per token

A file may add letters for dims of its own in a line "Shapes: W characters of a word, U units." of its module
docstring, but never gives one of these another meaning.
"""
