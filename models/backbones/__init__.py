"""Networks without a choice of neuron or attention: both are handed in as factories."""
