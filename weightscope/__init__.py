"""Which levels of a trained encoder-decoder do any work, and the smaller network without the rest."""
