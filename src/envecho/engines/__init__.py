"""What owns model weights and devices: the optimizer seam, and the local PyTorch engine that fulfils it."""
