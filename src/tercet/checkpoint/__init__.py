"""What is on disk; knows no nn.Module."""
