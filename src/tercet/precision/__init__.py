"""Which number format runs where; knows hardware, no models."""
