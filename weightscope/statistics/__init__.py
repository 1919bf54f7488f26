"""What the weights say: tensor -> numbers."""
