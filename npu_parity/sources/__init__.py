"""Sources: where networks, weights, images and labels come from."""
