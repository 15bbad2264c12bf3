"""What the models must compute, by transformers in float32; nothing is stored, all is computed."""
