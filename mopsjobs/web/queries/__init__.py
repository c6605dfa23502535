"""What a request asks for, and the values that templates show."""
