"""What a precision costs on the user's own texts: each scheme measured, and one of them recommended."""
