"""Parts that encoders and modules are made of."""
