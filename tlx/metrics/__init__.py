"""How good predictions are: numpy (or texts) in, numbers out. Libraries are imported when they are used."""
