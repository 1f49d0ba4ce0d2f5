"""The two networks and the latent space."""
