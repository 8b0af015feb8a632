"""Sources of networks, weights, images and labels."""
