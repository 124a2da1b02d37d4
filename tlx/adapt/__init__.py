"""From one trained model to another: what is taken over, what is trained, what is saved."""
