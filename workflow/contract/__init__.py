"""What a method is, what it is given and what it must hand back."""
