"""Floor 9: what happens before the first step on real machines, and how runs are started on them."""
