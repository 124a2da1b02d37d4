"""The measurements of `tlx bench`: one module each, with a function `measure` that prints and returns figures."""
